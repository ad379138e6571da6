package capture_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/sidecar/capture"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGoldens reads testdata/*.txtar: "config.yaml", and what each program is told ("nft", "iptables", "ip6tables"), or
// "error".
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var config capture.Config
			if err := yaml.UnmarshalStrict(archive.Files[0].Data, &config); err != nil {
				t.Fatal(err)
			}
			config.Defaults()
			chains := capture.Rules(config)
			none := func(capture.Jump) bool { return false }
			for i := range archive.Files[1:] {
				golden := &archive.Files[i+1]
				got := ""
				switch golden.Name {
				case "nft":
					got = capture.NFTablesScript(chains)
				case "iptables":
					got = capture.IPTablesScript(chains, false, none)
				case "ip6tables":
					got = capture.IPTablesScript(chains, true, none)
				case "error":
					if err := config.Check(); err != nil {
						got = err.Error() + "\n"
					}
				}
				if *update {
					golden.Data = []byte(got)
				}
				if got != string(golden.Data) {
					t.Errorf("%s: got\n%s", golden.Name, got)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestIPTablesAgain: what is installed is emptied and filled, and asked once; what is removed is all of it.
func TestIPTablesAgain(t *testing.T) {
	chains := capture.Rules(capture.Config{UID: 1337})
	installed := func(capture.Jump) bool { return true }
	if script := capture.IPTablesScript(chains, false, installed); strings.Contains(script, "-I ") || strings.Count(script, "- [0:0]") != len(chains) {
		t.Errorf("over rules that there are: %s", script)
	}
	removal := capture.IPTablesRemoval(chains, installed, func(string, string) bool { return true })
	for _, command := range []string{"-D ", "-F ", "-X "} {
		if n := strings.Count(removal, command); n != len(chains) {
			t.Errorf("%d of %s in %s", n, command, removal)
		}
	}
	if removal := capture.IPTablesRemoval(chains, func(capture.Jump) bool { return false }, func(string, string) bool { return false }); removal != "*nat\nCOMMIT\n*filter\nCOMMIT\n" {
		t.Errorf("of nothing: %s", removal)
	}
}
