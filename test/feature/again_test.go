package feature

import (
	"net/http"
	"sync"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestTenantMadeAgain: a tenant of one export at a time is deleted and made again under load, while its export is open. The
// new one has an export of its own, which the end of the old one's does not free, and nothing is left at the end.
func TestTenantMadeAgain(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	arrived, release := make(chan struct{}), map[string]chan struct{}{"old": make(chan struct{}), "new": make(chan struct{})}
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if which := r.URL.Query().Get("slow"); which != "" {
			arrived <- struct{}{}
			select {
			case <-release[which]:
			case <-r.Context().Done():
			}
		}
		tell(rw, r)
	}))
	tenant := globex("limits: {requestsPerSecond: -1, concurrency: -1, classes: {exports: {concurrency: 1}}}")
	w.Apply(t, tenant+`
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec:
  expose: [{pathPrefix: /front, stripPrefix: true}]
  classes: [{name: exports, methods: [POST], paths: ["/documents/*/export"]}]
`)
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "globex")}}
	export := w.gateway.URL + "/front/documents/7/export"
	var wg sync.WaitGroup
	open := func(which string) {
		t.Helper()
		wg.Go(func() {
			if r := meshtest.Do(t, nil, http.MethodPost, export+"?slow="+which, header, nil); r.Status != 200 {
				t.Errorf("the %s export: %d %s", which, r.Status, r.Reason())
			}
		})
		<-arrived
		want(t, "beside the "+which+" export", meshtest.Do(t, nil, http.MethodPost, export, header, nil), 429, "concurrency_limited")
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := meshtest.Do(t, nil, http.MethodGet, w.gateway.URL+"/front/x", header, nil)
				switch r.Reason() {
				case "", "tenant_unknown", "tenant_deleted", "enforcement_unavailable": // which it is while it is not there
				default:
					t.Errorf("under load: %d %s", r.Status, r.Reason())
				}
			}
		})
	}
	open("old")
	kind, err := tenantstore.ParseKind("Tenant")
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := w.Admin.Delete(t.Context(), kind, "globex")
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, deleted.Revision)
	if r := meshtest.Do(t, nil, http.MethodPost, export, header, nil); r.Status != 403 {
		t.Errorf("without the tenant: %d %s", r.Status, r.Reason())
	}
	w.Apply(t, tenant)
	open("new")
	close(stop)
	load.Wait()
	until(t, func() bool { return leases(t, w.front) == 2 })
	close(release["old"])
	until(t, func() bool { return leases(t, w.front) == 1 })
	want(t, "after the end of the old export", meshtest.Do(t, nil, http.MethodPost, export, header, nil), 429, "concurrency_limited")
	close(release["new"])
	wg.Wait()
	until(t, func() bool { return leases(t, w.front) == 0 && leases(t, w.gateway) == 0 })
	if r := meshtest.Do(t, nil, http.MethodPost, export, header, nil); r.Status != 200 {
		t.Errorf("an export at the end: %d %s", r.Status, r.Reason())
	}
}
