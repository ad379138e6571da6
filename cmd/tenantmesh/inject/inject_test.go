package inject

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the outputs anew")

var options = Options{
	Control: "tenantmesh-control-0.tenantmesh-control.mesh.svc:15010", SidecarImage: "tenantmesh/sidecar:1", CaptureImage: "tenantmesh/capture:1",
	CSIDriver: "csi.spiffe.io", Socket: "spire-agent.sock", ExcludeInboundPorts: []int{9000}, Drain: "10s",
}

// TestGoldens reads testdata/*.txtar: of "input.yaml" either "output.yaml" or "error" comes.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var manifest object
			if err := yaml.UnmarshalStrict(archive.Files[0].Data, &manifest); err != nil {
				t.Fatal(err)
			}
			name, text := "output.yaml", ""
			injected, err := Manifest(manifest, options)
			if err != nil {
				name, text = "error", err.Error()+"\n"
			} else if injected {
				output, err := yaml.Marshal(manifest)
				if err != nil {
					t.Fatal(err)
				}
				text = string(output)
			}
			got := txtar.File{Name: name, Data: []byte(text)}
			if *update {
				archive.Files = []txtar.File{archive.Files[0], got}
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if len(archive.Files) != 2 || archive.Files[1].Name != got.Name || string(archive.Files[1].Data) != text {
				t.Errorf("%s is\n%s", name, text)
			}
		})
	}
}
