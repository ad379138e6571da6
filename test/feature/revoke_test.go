package feature

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/cli"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// TestWithdrawnKey: from the moment at which a withdrawn key counts as enforced nobody comes in by it, though Envoy verifies
// by the keys that it fetched for up to a second more.
func TestWithdrawnKey(t *testing.T) {
	w := newWorld(t)
	want(t, "before", w.Get(t, w.gateway.URL+"/front/x", "acme"), 200, "")
	kind, err := tenantstore.ParseKind("tokenissuers")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		issuer, err := w.Admin.Get(t.Context(), kind, "test")
		if err != nil {
			t.Fatal(err)
		}
		issuer.TokenIssuer.WithdrawnKeys = []string{"test"}
		done, err := w.Admin.PutIf(t.Context(), kind, issuer)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.Enforced(t, done.Revision)
		t.Logf("enforced after %v", time.Since(began).Round(time.Millisecond))
		for time.Since(began) < 3*time.Second && !t.Failed() {
			want(t, fmt.Sprint("by a key that was withdrawn, after ", time.Since(began)), w.Get(t, w.gateway.URL+"/front/x", "acme"), 401, "unauthenticated_tenant")
		}
		if issuer, err = w.Admin.Get(t.Context(), kind, "test"); err != nil {
			t.Fatal(err)
		}
		issuer.TokenIssuer.WithdrawnKeys = nil
		if done, err = w.Admin.PutIf(t.Context(), kind, issuer); err != nil {
			t.Fatal(err)
		}
		w.Enforced(t, done.Revision)
		until(t, func() bool { return w.Get(t, w.gateway.URL+"/front/x", "acme").Status == 200 })
	}
}

// TestCutOffIsNamed: a revocation is enforced by all that are connected, and says when who is cut off heard last.
func TestCutOffIsNamed(t *testing.T) {
	m := meshtest.Start(t, objects, meshtest.Links())
	gateway := m.Gateway(t)
	before := time.Now()
	gateway.Link.Cut()
	var cut server.Member
	until(t, func() bool {
		status, err := m.Admin.Status(t.Context(), 0, false, 1)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(status.Members, func(m server.Member) bool { return m.OutOfReach })
		if i >= 0 {
			cut = status.Members[i]
		}
		return i >= 0
	})
	m.Workload(t, "us-1", "back", http.HandlerFunc(tell)) // by a link of its own
	for _, test := range []struct{ args, want string }{
		{"revoke token 0123456789abcdef0123456789abcdef", `enforced by 1 of 2 sidecars at [0-9:.]+Z; edge \(member [0-9a-f]+\) unreachable, lapses by [-0-9T:]+Z\n$`},
		{"revoke key test test", `enforced by 1 of 2 sidecars at [0-9:.]+Z; edge \(member [0-9a-f]+\) unreachable, lapses by [-0-9T:]+Z\n$`},
	} {
		// That somebody is out of reach is a finding.
		if out, err := command(t, m, test.args); err == nil || !regexp.MustCompile(test.want).MatchString(out) {
			t.Errorf("%s: %q, %v; want %s", test.args, out, err, test.want)
		}
	}
	// Who mistypes a key has taken nothing away.
	if _, err := command(t, m, "revoke key test tset"); err == nil || !strings.Contains(err.Error(), `KID must be a key of its key set (got "tset"): it has test`) {
		t.Errorf("a key that there is not: %v", err)
	}
	if cut.Heard == nil || cut.Heard.Before(before) || cut.Heard.After(time.Now()) {
		t.Errorf("it heard last at %v, and was cut off at %v", cut.Heard, before)
	}
}

// command runs a command of the program against the mesh, and returns what it prints.
func command(t *testing.T, m *meshtest.Mesh, line string) (string, error) {
	t.Helper()
	var out strings.Builder
	root := cli.Root()
	root.SilenceUsage = true
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(append(strings.Fields(line), "--admin", m.AdminSocket()))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}
