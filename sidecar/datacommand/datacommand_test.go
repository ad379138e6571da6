package datacommand_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/datacommand"
)

// beside is a folder that a service would keep its rows in, a file a tenant, and the commands beside it.
type beside struct {
	*testing.T
	dir    string
	server *httptest.Server
}

func newBeside(t *testing.T) *beside {
	t.Helper()
	b := &beside{T: t, dir: t.TempDir()}
	b.start()
	return b
}

// start starts the commands' side, again with what is on the disk.
func (b *beside) start() {
	b.Helper()
	sh := func(script string) []string {
		return []string{"/bin/sh", "-c", "cd " + b.dir + "\n" + script}
	}
	handler, err := datacommand.New(datacommand.Commands{
		Export: sh(`[ ! -e "$TENANTMESH_TENANT" ] || cat "$TENANTMESH_TENANT"; [ ! -e broken ] || { echo no disk >&2; exit 3; }`),
		Import: sh(`cat > "$TENANTMESH_TENANT.new" && [ ! -e broken ] && mv "$TENANTMESH_TENANT.new" "$TENANTMESH_TENANT"`),
		Delete: sh(`rm -f "$TENANTMESH_TENANT"`),
	}, filepath.Join(b.dir, "fences.json"), zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	b.server = httptest.NewServer(handler)
	b.Cleanup(b.server.Close)
}

func (b *beside) call(method, path, fence, body string) (status int, answer string) {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), method, b.server.URL+meshname.PathTenantData+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("x-tenant-id", "acme")
	request.Header.Set("x-tenantmesh-fence", fence)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

func (b *beside) want(what string, status int, answer string, gotStatus int, got string) {
	b.Helper()
	if gotStatus != status || !strings.Contains(got, answer) {
		b.Errorf("%s: %d %q, want %d %q", what, gotStatus, got, status, answer)
	}
}

func TestCommands(t *testing.T) {
	b := newBeside(t)
	ask := func(method, path, fence, body string, status int, answer string) {
		t.Helper()
		gotStatus, got := b.call(method, path, fence, body)
		b.want(fmt.Sprint(method, " ", path, " ", fence), status, answer, gotStatus, got)
	}
	ask("GET", "", "", "", 200, "")
	_, nothing := b.call("GET", "/digest", "", "")
	ask("PUT", "", "5", "one\ntwo\n", 204, "")
	ask("GET", "", "", "", 200, "one\ntwo\n")
	if _, something := b.call("GET", "/digest", "", ""); something == nothing || len(something) != 64 {
		t.Errorf("the digests are %q and %q", nothing, something)
	}
	ask("PUT", "", "4", "late\n", 409, "at least 5 (got 4)")
	ask("DELETE", "", "4", "", 409, "a later call came before")
	ask("PUT", "", "x", "", 400, "must be an integer")
	b.server.Close()
	b.start() // what came before is known after a crash too
	ask("DELETE", "", "4", "", 409, "at least 5")
	ask("GET", "", "", "", 200, "one\ntwo\n")
	if err := os.WriteFile(filepath.Join(b.dir, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ask("PUT", "", "6", "three\n", 500, "exit status 1")
	ask("GET", "/digest", "", "", 500, "no disk")
	if status, text := b.call("GET", "", "", ""); status == 200 {
		t.Errorf("an export that failed half way is answered as whole: %q", text)
	}
	if err := os.Remove(filepath.Join(b.dir, "broken")); err != nil {
		t.Fatal(err)
	}
	ask("GET", "", "", "", 200, "one\ntwo\n")
	ask("DELETE", "", "7", "", 204, "")
	ask("GET", "", "", "", 200, "")
	ask("POST", "", "8", "", 404, "")
	ask("GET", "/else", "", "", 404, "")
}

// TestCutImport: an import whose sender goes away half way changes nothing, and is over when the next one runs.
func TestCutImport(t *testing.T) {
	b := newBeside(t)
	if status, text := b.call("PUT", "", "1", "whole\n"); status != 204 {
		t.Fatal(status, text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, b.server.URL+meshname.PathTenantData, reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-tenant-id", "acme")
	request.Header.Set("x-tenantmesh-fence", "2")
	done := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		done <- err
	}()
	if _, err := io.WriteString(writer, "half\n"); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for { // the command reads it
		if text, err := os.ReadFile(filepath.Join(b.dir, "acme.new")); err == nil && string(text) == "half\n" {
			break
		}
		select {
		case <-deadline:
			t.Fatal("the import did not begin")
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	_ = writer.CloseWithError(ctx.Err())
	if err := <-done; err == nil {
		t.Error("an import that was cut was answered")
	}
	status, text := b.call("GET", "", "", "")
	b.want("after the cut", 200, "whole\n", status, text)
	if status, text := b.call("PUT", "", "3", "next\n"); status != 204 {
		t.Errorf("the next import: %d %q", status, text)
	}
	status, text = b.call("GET", "", "", "")
	b.want("after the next", 200, "next\n", status, text)
}
