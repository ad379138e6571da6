package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tenantmesh": func() { os.Exit(command.Main(Root())) }})
}

const mesh = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /front}]}
`

// TestScripts runs testdata/script against one mesh: a control plane and a gateway, both real.
func TestScripts(t *testing.T) { runScripts(t, "script") }

// TestMoves, TestWatching and TestRollouts have a mesh each: what moves changes the newest revision by itself, and so do the other
// scripts, which run at once.
func TestMoves(t *testing.T)    { runScripts(t, "moves") }
func TestWatching(t *testing.T) { runScripts(t, "watching") }
func TestRollouts(t *testing.T) { runScripts(t, "rollouts") }

func runScripts(t *testing.T, folder string) {
	t.Helper()
	m := meshtest.Start(t, mesh)
	gateway := m.Gateway(t)
	refused := m.Get(t, gateway.URL+"/front", "nobody")
	scripts(t, m, folder, refused.Header.Get("x-tenantmesh-decision"))
}

func scripts(t *testing.T, m *meshtest.Mesh, folder, decision string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", folder),
		Setup: func(env *testscript.Env) error {
			env.Setenv("TENANTMESH_ADMIN", m.AdminSocket())
			env.Setenv("DECISION", decision)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exitcode": exitCode},
	})
}

// exitCode runs a command and wants its exit code: exitcode 65 tenantmesh validate -f x.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = err.Error()
	}
	if want := "exit status " + args[0]; got != want {
		ts.Fatalf("%v: %s, want %s", args[1:], got, want)
	}
}

// TestOutOfReach: a sidecar that is connected nowhere is one of those that do not enforce a revision.
func TestOutOfReach(t *testing.T) {
	status := server.Status{Revision: 42, Published: 42, Enforced: 1, Total: 1, Members: []server.Member{{Principal: "spiffe://mesh.example/gateway/a", Enforced: true}}}
	status.Add([]server.Member{{ID: "0123456789ab", Principal: "spiffe://mesh.example/gateway/b", OutOfReach: true}})
	var out strings.Builder
	statusTable(&out, status)
	for _, want := range []string{"revision 42: enforced by 1 of 2 sidecars, 1 out of reach\n", "gateway/b", "out of reach: member 0123456789ab"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
}
