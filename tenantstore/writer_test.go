package tenantstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

const mesh = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500, utilization: 0.3}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme, labels: {plan: paid}}
spec: {tier: gold, region: us, limits: {burst: 7}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: search}
spec: {port: 8080, expose: [{pathPrefix: /search}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateway-search}
spec: {effect: Permit, principals: ["spiffe://a.example/gateway/*"], targets: [{workload: search}]}
`

func decode(t *testing.T, text string) []*tenantstore.Object {
	t.Helper()
	documents, err := tenantstore.DecodeYAML("mesh.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	objects := make([]*tenantstore.Object, len(documents))
	for i, d := range documents {
		objects[i] = d.Object
	}
	return objects
}

func newWriter() (*tenantstore.Writer, tenantstore.Store) {
	store := memstore.New()
	return tenantstore.NewWriter(store, func() time.Time { return time.Unix(1e9, 0) }), store
}

func get(t *testing.T, store tenantstore.Store, kind tenantstore.Kind, name string) *tenantstore.Object {
	t.Helper()
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Objects[tenantstore.Key{Kind: kind, Name: name}]
}

func TestApply(t *testing.T) {
	w, store := newWriter()
	result, err := w.Apply(t.Context(), "uid:0", decode(t, mesh), tenantstore.ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	acme := get(t, store, tenantstore.KindTenant, "acme")
	if p := acme.Status.Placement; p == nil || p.Cell != "us-1" || p.Epoch != 1 || acme.Status.Phase != tenantstore.Active || acme.Metadata.UID == "" {
		t.Errorf("acme is %+v, %+v", acme.Metadata, acme.Status)
	}
	limits := tenantstore.EffectiveLimits(policy.BuiltInTiers(), acme.Tenant)
	if limits.Burst != 7 || limits.RequestsPerSecond != 200 || limits.Classes["exports"].Concurrency != 4 {
		t.Errorf("effective limits are %+v", limits)
	}

	again, err := w.Apply(t.Context(), "uid:0", decode(t, mesh), tenantstore.ApplyOptions{})
	if err != nil || again.Revision != result.Revision || slices.ContainsFunc(again.Changes, func(c tenantstore.ObjectChange) bool { return c.Action != tenantstore.Unchanged }) {
		t.Errorf("the same again: %+v, %v", again, err)
	}

	suspended := strings.Replace(mesh, "limits: {burst: 7}", "suspended: true", 1)
	if _, err := w.Apply(t.Context(), "uid:0", decode(t, suspended), tenantstore.ApplyOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if get(t, store, tenantstore.KindTenant, "acme").Status.Phase != tenantstore.Active {
		t.Error("a dry run wrote")
	}
	if _, err := w.Apply(t.Context(), "uid:0", decode(t, suspended), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if now := get(t, store, tenantstore.KindTenant, "acme"); now.Status.Phase != tenantstore.Suspended || now.Metadata.UID != acme.Metadata.UID || now.Status.Placement.Epoch != 1 {
		t.Errorf("suspended, acme is %+v, %+v", now.Metadata, now.Status)
	}
	events, _ := store.Events(t.Context(), 0, 100)
	if len(events) != 5 || events[4].Action != "update" || events[4].Actor != "uid:0" || events[4].Tenant != "acme" || !strings.Contains(string(events[4].Before), `"burst":7`) {
		t.Errorf("%d events, the last %+v", len(events), events[len(events)-1])
	}
}

func TestDeleteAndIncarnations(t *testing.T) {
	w, store := newWriter()
	if _, err := w.Apply(t.Context(), "a", decode(t, mesh), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	search, acme := tenantstore.Key{Kind: tenantstore.KindWorkload, Name: "search"}, tenantstore.Key{Kind: tenantstore.KindTenant, Name: "acme"}
	var problems tenantstore.Problems
	if _, err := w.Delete(t.Context(), "a", []tenantstore.Key{search}, tenantstore.ApplyOptions{}); !errors.As(err, &problems) || !strings.Contains(err.Error(), "AccessPolicy/gateway-search: spec.targets[0].workload") {
		t.Errorf("a workload that is named by a policy: %v", err)
	}
	before := get(t, store, tenantstore.KindTenant, "acme").Metadata
	if _, err := w.Delete(t.Context(), "a", []tenantstore.Key{acme}, tenantstore.ApplyOptions{IfMatch: map[tenantstore.Key]int64{acme: before.Revision + 1}}); !errors.Is(err, tenantstore.ErrPrecondition) {
		t.Errorf("a wrong revision: %v", err)
	}
	if _, err := w.Delete(t.Context(), "a", []tenantstore.Key{acme}, tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Delete(t.Context(), "a", []tenantstore.Key{acme}, tenantstore.ApplyOptions{}); !errors.Is(err, tenantstore.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := w.Apply(t.Context(), "a", decode(t, mesh), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := get(t, store, tenantstore.KindTenant, "acme").Metadata; after.UID == before.UID {
		t.Error("a new incarnation has the old one's uid")
	}
}

func TestPlacedLater(t *testing.T) {
	w, store := newWriter()
	objects := decode(t, mesh)
	if _, err := w.Apply(t.Context(), "a", objects[1:2], tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := get(t, store, tenantstore.KindTenant, "acme").Status; s.Phase != tenantstore.Provisioning || s.Conditions[0].Message != "there is no cell" {
		t.Errorf("without a cell: %+v", s)
	}
	if _, err := w.Apply(t.Context(), "a", objects[:1], tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := get(t, store, tenantstore.KindTenant, "acme").Status; s.Phase != tenantstore.Active || s.Placement.Cell != "us-1" {
		t.Errorf("with a cell: %+v", s)
	}
}

func TestSystemObjects(t *testing.T) {
	w, store := newWriter()
	key := &tenantstore.Object{Kind: tenantstore.KindSignerKey, Metadata: tenantstore.Metadata{Name: "k"}, SignerKey: &tenantstore.SignerKeySpec{Principal: "spiffe://a.example/x"}}
	if _, err := w.Apply(t.Context(), "a", []*tenantstore.Object{key}, tenantstore.ApplyOptions{}); err == nil {
		t.Error("a person may write a signer's key")
	}
	if _, err := w.PutSystem(t.Context(), "a", []*tenantstore.Object{key}, []tenantstore.Key{{Kind: tenantstore.KindEndpoint, Name: "gone"}}); err != nil {
		t.Fatal(err)
	}
	if get(t, store, tenantstore.KindSignerKey, "k") == nil {
		t.Error("the key was not written")
	}
}

// TestEveryProblem reads testdata/*.yaml, each wrong in many ways, and compares with the .want beside it.
func TestEveryProblem(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents, err := tenantstore.DecodeYAML(filepath.Base(file), strings.NewReader(string(text)))
		if err == nil {
			var objects []*tenantstore.Object
			for _, d := range documents {
				objects = append(objects, d.Object)
			}
			w, store := newWriter()
			_, err = w.Apply(t.Context(), "a", objects, tenantstore.ApplyOptions{})
			var problems tenantstore.Problems
			if errors.As(err, &problems) {
				err = tenantstore.Locate(documents, problems)
			}
			if snapshot, _ := store.Snapshot(t.Context()); len(snapshot.Objects) > 0 {
				t.Errorf("%s: %d objects were applied", file, len(snapshot.Objects))
			}
		}
		if err == nil {
			t.Errorf("%s: no problem was found", file)
			continue
		}
		golden := strings.TrimSuffix(file, ".yaml") + ".want"
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err2 := os.ReadFile(golden)
		if err2 != nil || err.Error()+"\n" != string(want) {
			t.Errorf("%s: got\n%v\nwant (%v)\n%s", file, err, err2, want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, object := range decode(t, mesh) {
		if clone := object.Clone(); !clone.Equal(object) {
			t.Errorf("%v changed in a round trip: %+v", object.Key(), clone)
		}
	}
}

func FuzzDecodeYAML(f *testing.F) {
	f.Add(mesh)
	f.Add("{")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		documents, err := tenantstore.DecodeYAML("f", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, d := range documents {
			if !d.Object.Clone().Equal(d.Object) {
				t.Errorf("%q: does not survive a round trip", text)
			}
		}
	})
}
