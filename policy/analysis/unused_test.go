package analysis

import (
	"slices"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

func TestFindUnused(t *testing.T) {
	named := func(name string, effect policy.Effect, mode policy.Mode) authz.Policy {
		return authz.Policy{Name: name, Spec: policy.AccessPolicySpec{Effect: effect, Mode: mode, Principals: []string{"spiffe://a.example/gateway/*", "spiffe://a.example/job"}}}
	}
	m := &Mesh{Policies: []authz.Policy{
		named("used", policy.Permit, ""), named("unused", policy.Permit, policy.Enforce), named("whole", policy.Permit, ""), named("forbid", policy.Forbid, ""), named("watched", policy.Permit, policy.Shadow),
	}}
	gateway, job := principalOf("spiffe://a.example/gateway/edge"), principalOf("spiffe://a.example/job")
	got := FindUnused(m, map[string][]identity.Principal{"used": {gateway}, "whole": {job, gateway}, "gone": {job}}, noon)
	want := []Finding{
		{Unused, "used", `principals[1]: it decided no request of "spiffe://a.example/job" since 2026-01-02T12:00:00Z`},
		{Unused, "unused", "it decided no request since 2026-01-02T12:00:00Z"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
