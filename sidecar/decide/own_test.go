package decide

import (
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// TestOwn: a policy for the principal's own tenant lets a peer act for the tenant that it is bound to as this sidecar was told, and for no other.
func TestOwn(t *testing.T) {
	for tenant, want := range map[string]policy.Reason{"acme": policy.Permitted, "globex": policy.DeniedByPolicy, "": policy.DeniedByPolicy} {
		self := sidecar()
		if tenant != "" {
			self.BoundPeers = map[string]string{reports: tenant}
		}
		w := newWorld(t, self)
		set, err := w.decider.Sets.Load().With([]policyset.Change{{TypeURL: meshname.TypeAccessPolicy, Name: "own", Message: &api.AccessPolicy{
			Name: "own", KnownEffect: "Permit", Principals: []string{"spiffe://mesh.example/cell/*/workload/*"}, Tenants: &api.TenantSelector{Own: true}, Targets: []*api.Target{{Workload: "front"}},
		}}}, 43)
		check(t, err)
		w.decider.Sets.Store(set)
		a := w.want("bound to "+tenant, w.inbound(w.token(), func(r *Request) { r.Peer = reports }), want)
		if want != policy.Permitted && (len(a.Decision.Rules) == 0 || a.Decision.Rules[0] != policy.RuleResult{Rule: "own", Effect: policy.Permit, Why: "tenants.own"}) {
			t.Errorf("bound to %q: the rules are %+v", tenant, a.Decision.Rules)
		}
	}
}
