package tenantstore_test

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestIsolationSLOs: requests count for the tier that their tenant has now, and a tier without any has missed nothing.
func TestIsolationSLOs(t *testing.T) {
	tenant := func(name, uid, tier string) *tenantstore.Object {
		return &tenantstore.Object{Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: name, UID: uid}, Tenant: &tenantstore.TenantSpec{Tier: tier}}
	}
	objects := map[tenantstore.Key]*tenantstore.Object{
		{Kind: tenantstore.KindTenant, Name: "acme"}:   tenant("acme", "a", "gold"),
		{Kind: tenantstore.KindTenant, Name: "globex"}: tenant("globex", "g", "bronze"),
		{Kind: tenantstore.KindTier, Name: "free"}:     {Kind: tenantstore.KindTier, Tier: &policy.TierSpec{}},
	}
	slos := map[string]tenantstore.IsolationSLO{}
	for _, s := range tenantstore.IsolationSLOs(objects, []ledger.UsageRecord{
		{Tenant: "acme", TenantUID: "a", UnderShare: 10_000, UnderShareRefused: 3, UnderShareLate: 1},
		{Tenant: "globex", TenantUID: "g", UnderShare: 100, UnderShareRefused: 1},
		{Tenant: "globex", TenantUID: "old", UnderShare: 5, UnderShareLate: 50},
		{Tenant: "acme", TenantUID: "a", Requests: 7},
	}) {
		slos[s.Tier] = s
	}
	for tier, want := range map[string]tenantstore.IsolationSLO{
		"gold":     {Tier: "gold", Requests: 10_000, Refused: 3, Late: 1, Good: 0.9996, Objective: 0.9995, Met: true, Worst: "acme"},
		"bronze":   {Tier: "bronze", Requests: 100, Refused: 1, Good: 0.99, Objective: 0.999, Worst: "globex"},
		"silver":   {Tier: "silver", Good: 1, Objective: 0.999, Met: true},
		"free":     {Tier: "free", Good: 1, Met: true},
		"":         {Requests: 5, Late: 50, Met: true, Worst: "globex"},
		"platinum": {Tier: "platinum", Good: 1, Objective: 0.9995, Met: true},
	} {
		if slos[tier] != want {
			t.Errorf("%+v, want %+v", slos[tier], want)
		}
	}
	if n := len(tenantstore.IsolationSLOs(nil, nil)); n != len(policy.BuiltInTiers()) {
		t.Errorf("%d tiers of nobody", n)
	}
}
