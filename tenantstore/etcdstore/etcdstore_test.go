package etcdstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Compacter {
		store, err := Open(t.Context(), Config{DataDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	store, err := Open(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	revision, err := store.Apply(t.Context(), storetest.Put(snapshot.Revision, storetest.Cell("us-1", "us")))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store, err = Open(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if snapshot, err = store.Snapshot(t.Context()); err != nil || snapshot.Revision != revision || len(snapshot.Objects) != 1 {
		t.Errorf("after a restart: revision %d with %d objects, %v; want %d with 1", snapshot.Revision, len(snapshot.Objects), err, revision)
	}
}

func TestConfig(t *testing.T) {
	for _, config := range []Config{{}, {DataDir: "x", Endpoints: []string{"y"}}} {
		if _, err := Open(t.Context(), config); err == nil {
			t.Errorf("%+v opens", config)
		}
	}
}

// BenchmarkApplyOneTenant is one change of one tenant, by the number of tenants that there are. It should not grow with
// them: what is left is the copy of the snapshot's index.
func BenchmarkApplyOneTenant(b *testing.B) {
	for _, tenants := range []int{100, 12_000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			store, err := Open(b.Context(), Config{DataDir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer store.Close()
			writer := tenantstore.NewWriter(store, time.Now)
			tenant := func(i, rate int) *tenantstore.Object {
				return &tenantstore.Object{Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: fmt.Sprint("t", i)}, Tenant: &tenantstore.TenantSpec{
					Tier: "gold", Region: "us", Limits: policy.Limits{RequestsPerSecond: float64(rate)},
				}}
			}
			objects := []*tenantstore.Object{storetest.Cell("us-1", "us")}
			objects[0].Cell.Capacity = tenantstore.Capacity{FreeCPU: 0.9, FreeDBConn: 20_000, DBConnCap: 20_000}
			for i := range tenants {
				if objects = append(objects, tenant(i, 1)); len(objects) == 500 || i == tenants-1 {
					if _, err := writer.Apply(b.Context(), "bench", objects, tenantstore.ApplyOptions{}); err != nil {
						b.Fatal(err)
					}
					objects = nil
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if _, err := writer.Apply(b.Context(), "bench", []*tenantstore.Object{tenant(i%tenants, 2+i/tenants)}, tenantstore.ApplyOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
