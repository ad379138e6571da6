package ir

import (
	"fmt"
	"testing"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestRollout: a tenant has its tier's candidate exactly when it is in the canary, and a policy that changes travels as
// two, of which exactly one is for each tenant.
func TestRollout(t *testing.T) {
	objects := map[tenantstore.Key]*tenantstore.Object{}
	put := func(o *tenantstore.Object) { objects[o.Key()] = o }
	meta := func(name string) tenantstore.Metadata {
		return tenantstore.Metadata{Name: name, UID: "uid-" + name, Revision: 7}
	}
	for i := range 1000 {
		put(&tenantstore.Object{Kind: tenantstore.KindTenant, Metadata: meta(fmt.Sprint("t", i)), Tenant: &tenantstore.TenantSpec{Tier: "gold"}})
	}
	put(&tenantstore.Object{Kind: tenantstore.KindTenant, Metadata: meta("silver"), Tenant: &tenantstore.TenantSpec{Tier: "silver"}})
	tier := &tenantstore.Object{Kind: tenantstore.KindTier, Metadata: meta("gold"), Tier: &policy.TierSpec{Limits: policy.Limits{Burst: 3}, Weight: 9}}
	old := &tenantstore.Object{Kind: tenantstore.KindAccessPolicy, Metadata: meta("p"), AccessPolicy: &policy.AccessPolicySpec{Effect: policy.Permit}}
	changed := &tenantstore.Object{Kind: tenantstore.KindAccessPolicy, Metadata: meta("p"), AccessPolicy: &policy.AccessPolicySpec{Effect: policy.Forbid}}
	put(old)
	for _, candidate := range []*tenantstore.Object{tier, changed} {
		put(&tenantstore.Object{Kind: tenantstore.KindRollout, Metadata: meta(tenantstore.RolloutKey(candidate.Key()).Name), Rollout: &tenantstore.RolloutSpec{
			Candidate: candidate, Tenants: []string{"t0", "silver"}, Steps: []float64{10, 100},
		}})
	}
	mesh := Build(tenantstore.Snapshot{Objects: objects}, Options{TrustDomain: "a.example"})
	in := 0
	canary := tenantstore.CanaryOf(tenantstore.RolloutOf(objects, tier.Key()))
	for _, tenant := range mesh.Tenants {
		want := tenant.Spec.Tier == "gold" && canary.Selects(tenant.Name, tenant.UID)
		if got := tenant.Limits.Burst == 3 && tenant.Weight == 9; got != want {
			t.Errorf("%s has %+v, in the canary: %v", tenant.Name, tenant.Limits, want)
		} else if got {
			in++
		}
		if alone, ok := BuildTenant(objects, tenantstore.Tiers(objects), tenant.Name); !ok || alone.Weight != tenant.Weight {
			t.Errorf("%s alone is %+v", tenant.Name, alone)
		}
	}
	if in < 70 || in > 130 {
		t.Errorf("10 %% of 1000 are %d", in)
	}
	if len(mesh.Policies) != 2 || mesh.Policies[0].Name != "p" || mesh.Policies[1].Name != "p@canary" || mesh.Policies[1].Spec.Effect != policy.Forbid {
		t.Fatalf("the policies are %+v", mesh.Policies)
	}
	for _, tenant := range append(mesh.Tenants, Tenant{}) {
		first, second := mesh.Policies[0].Canary.Selects(tenant.Name, tenant.UID), mesh.Policies[1].Canary.Selects(tenant.Name, tenant.UID)
		if first == second {
			t.Errorf("%q has both policies, or none", tenant.Name)
		}
	}
}
