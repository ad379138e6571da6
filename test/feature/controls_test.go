package feature

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestControlPlanes runs three over one store, and stops one: the sidecars that it had go on with another, keep their
// endpoints, and get what changes.
func TestControlPlanes(t *testing.T) {
	const others = 2
	m := meshtest.Start(t, objects, meshtest.Others(others), meshtest.Lease(time.Second))
	gateway := m.Gateway(t)
	const sidecars = 3
	for _, name := range []string{"front", "back", "closed"} {
		m.Workload(t, "us-1", name, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "{}") }))
	}
	m.StopControl()
	other := m.Other(1)
	until(t, func() bool {
		total := 0
		for i := range others {
			status, err := m.Other(1+i).Status(t.Context(), 0, false, 1)
			if err != nil {
				t.Fatal(err)
			}
			total += status.Total
		}
		return total == 1+sidecars
	})
	// Twice the time that an endpoint has: those of the control plane that is gone have been taken over.
	over := time.After(2 * time.Second)
	for waiting := true; waiting; {
		select {
		case <-over:
			waiting = false
		case <-time.After(100 * time.Millisecond):
			want(t, "while one is gone", m.Get(t, gateway.URL+"/front/x", "acme"), 200, "")
		}
	}
	snapshot, err := m.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ready := 0
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindEndpoint && o.Endpoint.Ready && o.Endpoint.Workload != "" { // not a gateway's
			ready++
		}
	}
	if ready != sidecars {
		t.Errorf("%d endpoints are left, want %d", ready, sidecars)
	}
	kind, err := tenantstore.ParseKind("tenants")
	if err != nil {
		t.Fatal(err)
	}
	acme, err := other.Get(t.Context(), kind, "acme")
	if err != nil {
		t.Fatal(err)
	}
	acme.Status, acme.Tenant.Suspended = tenantstore.Status{}, true
	if _, err := other.Apply(t.Context(), []*tenantstore.Object{acme}, false); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return m.Get(t, gateway.URL+"/front/x", "acme").Reason() == "tenant_suspended" })
}
