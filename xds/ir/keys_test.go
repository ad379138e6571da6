package ir

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestScopeOfKeys: what a sidecar's key may sign is what its workload is bound to now, and not when it was published.
func TestScopeOfKeys(t *testing.T) {
	const id = "spiffe://mesh.test/cell/us-1/workload/reports"
	for name, test := range map[string]struct {
		bound     string
		principal string
		role      tenantstore.Role
		want      []tenantstore.SignerKeySpec // cell and tenant
	}{
		"bound":               {"acme", id, tenantstore.RoleSidecar, []tenantstore.SignerKeySpec{{Cell: "us-1", Tenant: "acme"}}},
		"bound to another":    {"globex", id, tenantstore.RoleSidecar, []tenantstore.SignerKeySpec{{Cell: "us-1", Tenant: "globex"}}},
		"not bound any more":  {"", id, tenantstore.RoleSidecar, nil},
		"no workload's":       {"acme", "spiffe://mesh.test/cell/us-1/workload/gone", tenantstore.RoleSidecar, nil},
		"of a cell that left": {"acme", "spiffe://mesh.test/cell/us-2/workload/reports", tenantstore.RoleSidecar, nil},
		"a gateway's":         {"", "spiffe://mesh.test/gateway/edge", tenantstore.RoleGateway, []tenantstore.SignerKeySpec{{}}},
	} {
		objects := map[tenantstore.Key]*tenantstore.Object{
			{Kind: tenantstore.KindCell, Name: "us-1"}:        {Kind: tenantstore.KindCell, Cell: &tenantstore.CellSpec{}},
			{Kind: tenantstore.KindWorkload, Name: "reports"}: {Kind: tenantstore.KindWorkload, Workload: &tenantstore.WorkloadSpec{BoundTenant: test.bound}},
		}
		spec := &tenantstore.SignerKeySpec{Principal: test.principal, Role: test.role, NotAfter: "2030-01-01T00:00:00Z"}
		if test.role == tenantstore.RoleSidecar {
			spec.Cell, spec.Tenant = "us-1", "acme"
		}
		objects[tenantstore.Key{Kind: tenantstore.KindSignerKey, Name: "k"}] = &tenantstore.Object{Kind: tenantstore.KindSignerKey, SignerKey: spec}
		keys := Build(tenantstore.Snapshot{Objects: objects}, Options{TrustDomain: "mesh.test"}).Keys
		if len(keys) != len(test.want) {
			t.Errorf("%s: %d keys, want %d", name, len(keys), len(test.want))
			continue
		}
		for i, k := range keys {
			if k.Spec.Cell != test.want[i].Cell || k.Spec.Tenant != test.want[i].Tenant {
				t.Errorf("%s: for %q in %q, want %+v", name, k.Spec.Tenant, k.Spec.Cell, test.want[i])
			}
		}
	}
}
