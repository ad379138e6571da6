package xds

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestRevokes: what may take something from somebody goes first, and what only gives does not.
func TestRevokes(t *testing.T) {
	tenant := func(change func(*tenantstore.Object)) *tenantstore.Object {
		o := &tenantstore.Object{Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: "acme", Labels: map[string]string{"plan": "paid"}}, Tenant: &tenantstore.TenantSpec{Tier: "gold", Residency: "eu"}}
		if change != nil {
			change(o)
		}
		return o
	}
	workload := func(change func(*tenantstore.WorkloadSpec)) *tenantstore.Object {
		w := &tenantstore.WorkloadSpec{
			SPIFFEIDs: []tenantstore.WorkloadIdentity{{Cell: "us-1", ID: "spiffe://mesh.example/front"}}, DependsOn: []string{"back"}, Callers: []string{"spiffe://other.example/x"}, Tenancy: tenantstore.Untenanted,
		}
		if change != nil {
			change(w)
		}
		return &tenantstore.Object{Kind: tenantstore.KindWorkload, Metadata: tenantstore.Metadata{Name: "front"}, Workload: w}
	}
	accessPolicy := func(effect policy.Effect) *tenantstore.Object {
		return &tenantstore.Object{Kind: tenantstore.KindAccessPolicy, Metadata: tenantstore.Metadata{Name: "p"}, AccessPolicy: &policy.AccessPolicySpec{Effect: effect}}
	}
	rollout := func(candidate *tenantstore.Object) *tenantstore.Object {
		return &tenantstore.Object{Kind: tenantstore.KindRollout, Rollout: &tenantstore.RolloutSpec{Candidate: candidate}}
	}
	for name, test := range map[string]struct {
		old, now *tenantstore.Object
		want     bool
	}{
		"a new tenant":          {nil, tenant(nil), false},
		"a topic is taken away": {workload(func(w *tenantstore.WorkloadSpec) { w.Events.Consumes = []string{"orders"} }), workload(nil), true},
		"a topic more":          {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.Events.Produces = []string{"orders"} }), false},
		"a tenant as it was":    {tenant(nil), tenant(nil), false},
		"a tenant is suspended": {tenant(nil), tenant(func(o *tenantstore.Object) { o.Tenant.Suspended = true }), true},
		"another tier":          {tenant(nil), tenant(func(o *tenantstore.Object) { o.Tenant.Tier = "bronze" }), true},
		"another residency":     {tenant(nil), tenant(func(o *tenantstore.Object) { o.Tenant.Residency = "" }), true},
		"a label goes":          {tenant(nil), tenant(func(o *tenantstore.Object) { o.Metadata.Labels = nil }), true},
		"another limit":         {tenant(nil), tenant(func(o *tenantstore.Object) { o.Tenant.Limits.Burst = 7 }), false},
		"a new workload":        {nil, workload(nil), false},
		"a workload as it was":  {workload(nil), workload(nil), false},
		"it may call more":      {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.DependsOn = append(w.DependsOn, "mail") }), false},
		"it may call less":      {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.DependsOn = []string{"mail"} }), true},
		"it is somebody else":   {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.SPIFFEIDs = nil }), true},
		"a caller goes":         {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.Callers = nil }), true},
		"it wants a tenant now": {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.Tenancy = tenantstore.Require }), true},
		"it is bound":           {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.BoundTenant = "acme" }), true},
		"another port":          {workload(nil), workload(func(w *tenantstore.WorkloadSpec) { w.Port = 81 }), false},
		"a new permit":          {nil, accessPolicy(policy.Permit), false},
		"a new forbid":          {nil, accessPolicy(policy.Forbid), true},
		"a permit that changes": {accessPolicy(policy.Permit), accessPolicy(policy.Permit), true},
		"a rollout of a policy": {nil, rollout(accessPolicy(policy.Permit)), true},
		"a rollout of a tenant": {nil, rollout(tenant(nil)), false},
	} {
		if got := revokes(test.old, test.now); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
