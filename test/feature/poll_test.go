package feature

import (
	"net/http"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const suspendedAcme = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us, suspended: true}
`

// TestPolled: what cannot be pushed is polled. With every stream to the control plane cut, a tenant that is suspended is
// refused all the same, and is served again; a sidecar gets what is its own and no more.
func TestPolled(t *testing.T) {
	m := meshtest.Start(t, objects, meshtest.Links(), meshtest.Polled(t))
	gateway := m.Gateway(t)
	front := m.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	want(t, "before", m.Get(t, gateway.URL+"/front/x", "acme"), 200, "")
	gateway.Link.Cut()
	front.Link.Cut()
	if _, err := m.ApplyOnly(t, suspendedAcme); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return m.Get(t, gateway.URL+"/front/x", "acme").Reason() == "tenant_suspended" })
	if _, err := m.ApplyOnly(t, objects); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return m.Get(t, gateway.URL+"/front/x", "acme").Status == 200 })
	gateway.Link.Mend(t)
	front.Link.Mend(t)
	until(t, func() bool {
		status, err := m.Admin.Status(t.Context(), 0, false, 1)
		return err == nil && status.Enforced == 2
	})
	m.Apply(t, suspendedAcme)
	want(t, "pushed again", m.Get(t, gateway.URL+"/front/x", "acme"), 403, "tenant_suspended")
}
