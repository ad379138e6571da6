package cli

import (
	"flag"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what scripts compare with anew")

// TestPolicy runs testdata/policy: what it asks needs no mesh.
func TestPolicy(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "policy"),
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TENANTMESH_ADMIN", "/nowhere")
			program, err := exec.LookPath("tenantmesh") // testscript's own
			if err != nil {
				return err
			}
			env.Setenv("TENANTMESH", program)
			for name, value := range map[string]string{
				"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
				"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exitcode": exitCode},
	})
}

// TestBelow: a list that is too wide for its column goes on below.
func TestBelow(t *testing.T) {
	long := strings.Repeat("spiffe://a.example/gateway/one, ", 3) + "x"
	got := below([]string{"a", long})
	if len(got) != 3 || got[0][0] != "a" || got[1][0] != " " || got[1][1] != "spiffe://a.example/gateway/one, " || got[2][1] != "spiffe://a.example/gateway/one, x" {
		t.Errorf("it is %q", got)
	}
}
