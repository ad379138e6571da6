package feature

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestTenantChangesUnderLoad: a tenant that goes from tier to tier while it is served sees no error; one that is deleted and made again
// is refused for as long as it is not there, served after, and leaves nothing open.
func TestTenantChangesUnderLoad(t *testing.T) {
	w := newWorld(t)
	tier := func(name string) string {
		return fmt.Sprintf("\napiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: globex}\nspec: {tier: %s, region: us, limits: {requestsPerSecond: -1, concurrency: -1}}\n", name)
	}
	w.Apply(t, tier("bronze"))
	var deleting atomic.Bool
	var served atomic.Int64
	stop := make(chan struct{})
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "globex")}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := deleting.Load()
				r := meshtest.Do(t, nil, http.MethodGet, w.gateway.URL+"/front/x", header, nil)
				switch {
				case r.Status == http.StatusOK:
					served.Add(1)
				case (began || deleting.Load()) && (r.Reason() == "tenant_unknown" || r.Reason() == "tenant_deleted"):
				default:
					t.Errorf("got %d %s: %s", r.Status, r.Reason(), r.Header.Get("x-tenantmesh-decision"))
				}
			}
		})
	}
	for i := range 8 {
		w.Apply(t, tier([]string{"platinum", "bronze", "gold"}[i%3]))
	}
	deleting.Store(true)
	key := tenantstore.Key{Kind: tenantstore.KindTenant, Name: "globex"}
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := snapshot.Objects[key].Metadata.UID
	kind, err := tenantstore.ParseKind("Tenant")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Admin.Delete(t.Context(), kind, "globex"); err != nil {
		t.Fatal(err)
	}
	w.Apply(t, tier("silver"))
	deleting.Store(false)
	if snapshot, err = w.Store.Snapshot(t.Context()); err != nil || snapshot.Objects[key].Metadata.UID == old {
		t.Errorf("it is the same incarnation: %v", err)
	}
	before := served.Load()
	until(t, func() bool { return served.Load() > before+20 })
	close(stop)
	wg.Wait()
	until(t, func() bool {
		return metric(t, w.front, "tenantmesh_admission_open") == 0 && leases(t, w.front) == 0 && leases(t, w.gateway) == 0
	})
}
