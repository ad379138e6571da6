package translator_test

import (
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// TestPolicyInRollout: both versions of a policy are one resource, in which one that does not look for them finds nothing
// to enforce.
func TestPolicyInRollout(t *testing.T) {
	in := policy.Canary{Seed: "s", Percent: 10, Names: []string{"acme"}}
	others := in
	others.Others = true
	all := []policy.Target{{Workload: "*"}}
	mesh := &ir.Mesh{Policies: []ir.Policy{
		{Name: "plain", Spec: policy.AccessPolicySpec{Effect: policy.Permit, Targets: all}},
		{Name: "p", Spec: policy.AccessPolicySpec{Effect: policy.Permit, Targets: all}, Canary: &others},
		{Name: "p@canary", Spec: policy.AccessPolicySpec{Effect: policy.Forbid, Targets: all}, Canary: &in},
		{Name: "new@canary", Spec: policy.AccessPolicySpec{Effect: policy.Permit, Targets: all}, Canary: &in},
	}}
	policies := map[string]*api.AccessPolicy{}
	for _, r := range translator.Translate(mesh) {
		if m, ok := r.Message.(*api.AccessPolicy); ok && r.TypeURL == meshname.TypeAccessPolicy {
			policies[r.Name] = m
		}
	}
	p, fresh := policies["p"], policies["new"]
	if len(policies) != 3 || policies["plain"].Effect != "Permit" || policies["plain"].Canary != nil || p == nil || fresh == nil {
		t.Fatalf("the resources are %v", policies)
	}
	if c := p.Canary; p.Effect != "" || c.Seed != "s" || c.Percent != 10 || c.Names[0] != "acme" || c.Before.Effect != "Permit" || c.After.Effect != "Forbid" || c.After.Name != "p@canary" {
		t.Errorf("the policy is %v", p)
	}
	if c := fresh.Canary; fresh.Effect != "" || c.Before != nil || c.After.Effect != "Permit" {
		t.Errorf("the new policy is %v", fresh)
	}
}
