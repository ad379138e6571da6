package demo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/demo"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
)

// shared is a buffer that is read while it is written.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shared) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(text)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// service tells whose request it got, calls another workload, and ends as it is told to.
const service = `
import http.server, os, urllib.request
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("service:", self.path, flush=True)
        text = self.headers.get("x-tenant-id", "nobody")
        if self.path == "/quit":
            os._exit(7)
        if self.path == "/call":
            request = urllib.request.Request("http://search/x", headers={"x-request-id": self.headers["x-request-id"]})
            text = "search saw " + urllib.request.urlopen(request).read().decode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Service).serve_forever()
`

const devObjects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: eu-1}
spec: {region: eu, residency: eu, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: hooli}
spec: {tier: platinum, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: documents}
spec: {expose: [{pathPrefix: /documents, stripPrefix: true}], dependsOn: [search]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: search}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://acmedocs.example/gateway/*"], targets: [{workload: documents}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: documents-search}
spec: {effect: Permit, principals: ["spiffe://acmedocs.example/cell/*/workload/documents"], targets: [{workload: search, methods: [GET]}]}
`

// TestDev runs a service as somebody does who works on it: it gets requests of a tenant that is pretended, its call reaches another
// service of this machine, each decision is a line, and its end is the end of all, with its exit code.
func TestDev(t *testing.T) {
	python, err := exec.LookPath("python3")
	check(t, err)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "service.py"), []byte(service), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(devObjects), 0o600))
	ports, err := freeport.Take(3)
	check(t, err)
	search := exec.CommandContext(t.Context(), python, filepath.Join(dir, "service.py"))
	search.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", ports[2]))
	check(t, search.Start())
	defer func() { _, _ = search.Process.Kill(), search.Wait() }()
	program, data := build(t), tempData(t)
	cmd := exec.CommandContext(t.Context(), program, "dev", "--data", data, "--workload", "documents", "-f", filepath.Join(dir, "mesh.yaml"), "--tenant", "acme",
		"--gateway-port", fmt.Sprint(ports[0]), "--port", fmt.Sprint(ports[1]), "--beside", fmt.Sprintf("search=%d", ports[2]), "--", python, filepath.Join(dir, "service.py"))
	var out shared
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	wait(t, func() bool {
		if t.Failed() || cmd.ProcessState != nil {
			return true
		}
		return strings.Contains(out.String(), "Each decision is a line")
	})
	get := func(tenant, path string) (int, string) {
		request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/documents%s", ports[0], path), nil)
		check(t, err)
		if tenant != "" {
			token, err := demo.SignToken(data, demo.Token{Tenant: tenant, Subject: "x", TTL: 1e12})
			check(t, err)
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body)
	}
	for _, tenant := range []string{"acme", "hooli"} {
		wait(t, func() bool { status, _ := get(tenant, "/x"); return status == http.StatusOK })
		if status, body := get(tenant, "/x"); status != 200 || body != tenant {
			t.Errorf("for %s: %d %s", tenant, status, body)
		}
		if status, body := get(tenant, "/call"); status != 200 || body != "search saw "+tenant {
			t.Errorf("for %s, by a call: %d %s", tenant, status, body)
		}
	}
	_, refused := get("", "/x")
	var problem struct{ Instance string }
	check(t, json.Unmarshal([]byte(refused), &problem))
	get("acme", "/quit")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("dev ended with %v, and its service with 7", err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, line := range []string{
		"documents acme GET /x allowed by gateways", "documents calls acme GET search/x allowed", "search acme GET /x allowed by documents-search", "service: /x", "everything is stopped",
		"gateway - GET /documents/x REFUSED unauthenticated_tenant", "(explain " + problem.Instance[strings.LastIndex(problem.Instance, ":")+1:] + ")",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("it does not say %q: %s", line, out.String())
		}
	}
}

// TestDevIsTold: every problem is told at once, and nothing runs.
func TestDevIsTold(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mesh.yaml")
	check(t, os.WriteFile(file, []byte("apiVersion: tenantmesh.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\nspec: {nonsense: 1}\n"), 0o600))
	err := demo.Dev(t.Context(), demo.DevConfig{
		Data: filepath.Join(dir, "data"), Workload: "No Name", Files: []string{file, filepath.Join(dir, "none.yaml")},
		Tenants: []string{"ACME"}, Beside: map[string]string{"b": "x"}, Program: []string{"true"}, Out: io.Discard,
	})
	if err == nil {
		t.Fatal("it ran")
	}
	for _, problem := range []string{"nonsense", "none.yaml", "ACME", "--beside b must name a port", "--beside b must be a Workload", "No Name"} {
		if !strings.Contains(err.Error(), problem) {
			t.Errorf("it does not tell of %q: %v", problem, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("it made its folder")
	}
	if err := demo.Dev(t.Context(), demo.DevConfig{Data: filepath.Join(dir, "data"), Workload: "a", Program: []string{"/none/such"}, Out: io.Discard}); err == nil || !strings.Contains(err.Error(), "/none/such") {
		t.Errorf("of a program that there is not: %v", err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
