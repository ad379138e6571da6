package translator_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGoldens reads testdata/*.txtar: "input.yaml" holds objects (and, in documents of the control plane's own kinds,
// members and endpoints); every other file is named "<audience>|<type>|<name>.yaml" and holds that resource. A case
// holds only the resources that it is about, and in real Envoys all that its mesh gives them must become active.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	source := source(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive := archive(t, file)
			resources := translate(t, archive.Files[0].Data)
			for i := range archive.Files[1:] {
				golden := &archive.Files[i+1]
				got, ok := resources[strings.TrimSuffix(golden.Name, ".yaml")]
				if !ok {
					t.Errorf("%s is not made; there is %v", golden.Name, names(resources))
					continue
				}
				text := render(t, got.Message)
				if *update {
					golden.Data = text
				}
				if !bytes.Equal(text, golden.Data) {
					t.Errorf("%s: got\n%s", golden.Name, text)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			active := accepted(t, source, resources)
			for _, golden := range archive.Files[1:] {
				if name := strings.TrimSuffix(golden.Name, ".yaml"); !active[name] && slices.Contains(policysync.EnvoyTypes, resources[name].TypeURL) {
					t.Errorf("no Envoy was given %s: its cell has no workload", name)
				}
			}
		})
	}
}

func archive(t *testing.T, file string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func names(resources map[string]translator.Resource) []string {
	var list []string
	for name := range resources {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func translate(t *testing.T, input []byte) map[string]translator.Resource {
	t.Helper()
	mesh := ir.Build(snapshotOf(t, string(input)), ir.Options{TrustDomain: "mesh.example"})
	list := translator.Translate(mesh)
	for _, tenant := range mesh.Tenants {
		tenant.UID = "uid-of-" + tenant.Name // made at random
		list = append(list, translator.Tenant(tenant)...)
	}
	resources := map[string]translator.Resource{}
	for _, r := range list {
		if _, twice := resources[key(r)]; twice {
			t.Errorf("%s is made twice", key(r))
		}
		resources[key(r)] = r
	}
	return resources
}

// snapshotOf is a store that holds objects.
func snapshotOf(t *testing.T, input string) tenantstore.Snapshot {
	t.Helper()
	documents, err := tenantstore.DecodeYAML("input.yaml", strings.NewReader(input))
	if err != nil {
		t.Fatal(err)
	}
	var people, system []*tenantstore.Object
	for _, d := range documents {
		if d.Object.Kind.Writable() {
			people = append(people, d.Object)
		} else {
			system = append(system, d.Object)
		}
	}
	store := memstore.New()
	w := tenantstore.NewWriter(store, time.Now)
	if _, err := w.Apply(t.Context(), "test", people, tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.PutSystem(t.Context(), "test", system, nil); err != nil {
		t.Fatal(err)
	}
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func render(t *testing.T, message proto.Message) []byte {
	t.Helper()
	text, err := protojson.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil { // protojson's spaces are random
		t.Fatal(err)
	}
	text, err = yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
