package translator_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGoldens reads testdata/*.txtar: "input.yaml" holds objects (and, in documents of the control plane's own kinds,
// members and endpoints); every other file is named "<audience>|<type>|<name>.yaml" and holds that resource. A case
// holds only the resources that it is about, and real Envoy must accept all that it gives.
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
			accepted(t, resources)
		})
	}
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
	documents, err := tenantstore.DecodeYAML("input.yaml", bytes.NewReader(input))
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
	mesh := ir.Build(snapshot, ir.Options{TrustDomain: "mesh.example"})
	list := translator.Translate(mesh)
	for _, tenant := range mesh.Tenants {
		tenant.UID = "uid-of-" + tenant.Name // made at random
		list = append(list, translator.Tenant(tenant)...)
	}
	resources := map[string]translator.Resource{}
	for _, r := range list {
		key := r.Audience + "|" + r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:] + "|" + r.Name
		if _, twice := resources[key]; twice {
			t.Errorf("%s is made twice", key)
		}
		resources[key] = r
	}
	return resources
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

// accepted loads every listener and cluster into a real Envoy, each audience in one of its own; other types are proven
// by the meshes that tests start.
func accepted(t *testing.T, resources map[string]translator.Resource) {
	t.Helper()
	envoy, _, err := bootstrap.FindEnvoy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	base, err := bootstrap.Render(bootstrap.Config{NodeID: "test", Cluster: "test", RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	byAudience := map[string][]proto.Message{}
	for _, r := range resources {
		byAudience[r.Audience] = append(byAudience[r.Audience], r.Message)
	}
	for audience, messages := range byAudience {
		config := &bootstrapv3.Bootstrap{}
		if err := protojson.Unmarshal(base, config); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, message := range messages {
			switch m := message.(type) {
			case *listenerv3.Listener:
				config.StaticResources.Listeners = append(config.StaticResources.Listeners, m)
				n++
			case *clusterv3.Cluster:
				// A cluster that stands in the bootstrap may not wait for its secrets over the same stream.
				m = proto.Clone(m).(*clusterv3.Cluster)
				m.TransportSocket = nil
				config.StaticResources.Clusters = append(config.StaticResources.Clusters, m)
				n++
			case *corev3.TypedExtensionConfig:
			}
		}
		if n == 0 {
			continue
		}
		text, err := protojson.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "envoy.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "-c", path, "--log-level", "error").CombinedOutput(); err != nil {
			t.Errorf("Envoy refuses what %s gets: %v\n%s", audience, err, out)
		}
	}
}
