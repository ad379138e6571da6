package tenantstore_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// TestWritersAgree: what writers remember of the store between writes is never seen. Two of them over one store answer
// a random history as one that begins anew each time does over another, and what is there is valid as a whole.
func TestWritersAgree(t *testing.T) {
	const steps = 1000
	random := rand.New(rand.NewPCG(1, 1))
	store, fresh := memstore.New(), memstore.New()
	defer store.Close()
	defer fresh.Close()
	writers := []*tenantstore.Writer{tenantstore.NewWriter(store, time.Now), tenantstore.NewWriter(store, time.Now)}
	kinds := map[string]string{
		"Cell":         "region: us, capacity: {freeCpu: 0.9, freeDbConn: 1000, dbConnCap: 1000}",
		"Tier":         "weight: %d",
		"Tenant":       "region: us, tier: n-%d",
		"Workload":     "boundTenant: n-%d, dependsOn: [n-%d]",
		"Dependency":   "hosts: [h-%d], port: 443",
		"AccessPolicy": `effect: Permit, principals: ["spiffe://x/y"], tenants: {names: [n-%d]}, targets: [{workload: n-%d}]`,
	}
	names := slices.Sorted(maps.Keys(kinds))
	outcomes := map[string]int{}
	for step := range steps {
		var objects []*tenantstore.Object
		for i := range 1 + random.IntN(2) {
			kind := names[random.IntN(len(names))]
			spec := kinds[kind]
			for strings.Contains(spec, "%d") {
				spec = strings.Replace(spec, "%d", fmt.Sprint(random.IntN(4)), 1)
			}
			documents, err := tenantstore.DecodeYAML("", strings.NewReader(fmt.Sprintf("apiVersion: tenantmesh.dev/v1alpha1\nkind: %s\nmetadata: {name: n-%d}\nspec: {%s}\n", kind, 2*i+random.IntN(2), spec)))
			if err != nil {
				t.Fatal(err)
			}
			objects = append(objects, documents[0].Object)
		}
		options, remove := tenantstore.ApplyOptions{DryRun: random.IntN(5) == 0}, random.IntN(3) == 0
		write := func(w *tenantstore.Writer) string {
			var result tenantstore.Result
			var err error
			if remove {
				result, err = w.Delete(t.Context(), "test", []tenantstore.Key{objects[0].Key()}, options)
			} else {
				result, err = w.Apply(t.Context(), "test", objects, options)
			}
			said := fmt.Sprint(err)
			for _, c := range result.Changes {
				said += fmt.Sprint(" ", c.Action, " ", c.Key)
			}
			outcomes[fmt.Sprint(remove, " ", err == nil)]++
			return said
		}
		got, want := write(writers[random.IntN(2)]), write(tenantstore.NewWriter(fresh, time.Now))
		if got != want {
			t.Fatalf("step %d: got %s\nwant %s", step, got, want)
		}
		a, b := contents(t, store), contents(t, fresh)
		if !slices.Equal(a, b) {
			t.Fatalf("step %d: the stores hold\n%s\nand\n%s", step, strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
	}
	t.Logf("removal and success: %v", outcomes)
	for _, outcome := range []string{"true true", "true false", "false true", "false false"} {
		if outcomes[outcome] < steps/50 {
			t.Errorf("too little of %q came up to tell", outcome)
		}
	}
}

// contents are a store's objects, as a comparison may look at them.
func contents(t *testing.T, store tenantstore.Store) (lines []string) {
	t.Helper()
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if problems := tenantstore.Validate(snapshot.Objects, slices.Collect(maps.Keys(snapshot.Objects))); len(problems) > 0 {
		t.Errorf("what was written is not valid: %v", problems)
	}
	for key, o := range snapshot.Objects {
		o = o.Clone()
		o.Metadata.UID = ""
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(key, " ", string(text)))
	}
	slices.Sort(lines)
	return lines
}
