package xds

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// TestPublishesWhatChanged: a tier, and a rollout of it, make its own tenants anew and nothing else; a rollout of a policy
// makes no tenant anew; the end of one does not wait.
func TestPublishesWhatChanged(t *testing.T) {
	p := NewPublisher(PublisherConfig{Cache: server.NewCache(), TrustDomain: "mesh.test", Log: zap.NewNop()})
	defer p.keys.stop()
	p.objects = map[tenantstore.Key]*tenantstore.Object{}
	var tenants []*tenantstore.Object
	for i := range 9 {
		tier := []string{"gold", "silver", "bronze"}[i%3]
		tenants = append(tenants, &tenantstore.Object{Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: fmt.Sprint(tier, "-", i)}, Tenant: &tenantstore.TenantSpec{Tier: tier}})
	}
	p.note(newBatch(), tenantstore.Change{Put: tenants})
	if err := p.publishAll(1); err != nil {
		t.Fatal(err)
	}
	gold := []string{"gold-0", "gold-3", "gold-6"}
	tier := &tenantstore.Object{Kind: tenantstore.KindTier, Metadata: tenantstore.Metadata{Name: "gold"}, Tier: &policy.TierSpec{}}
	allowed := &tenantstore.Object{Kind: tenantstore.KindAccessPolicy, Metadata: tenantstore.Metadata{Name: "p"}, AccessPolicy: &policy.AccessPolicySpec{Effect: policy.Permit}}
	rollout := func(candidate *tenantstore.Object) *tenantstore.Object {
		return &tenantstore.Object{Kind: tenantstore.KindRollout, Metadata: tenantstore.Metadata{Name: tenantstore.RolloutKey(candidate.Key()).Name}, Rollout: &tenantstore.RolloutSpec{Candidate: candidate, Steps: []float64{1, 100}}}
	}
	for i, test := range []struct {
		change  tenantstore.Change
		tenants []string
		shared  bool
		urgent  bool
	}{
		{tenantstore.Change{Put: []*tenantstore.Object{rollout(tier)}}, gold, false, false},
		{tenantstore.Change{Put: []*tenantstore.Object{rollout(allowed)}}, nil, true, true},
		{tenantstore.Change{Put: []*tenantstore.Object{tier}, Delete: []tenantstore.Key{rollout(tier).Key()}}, gold, false, true},
		{tenantstore.Change{Delete: []tenantstore.Key{rollout(allowed).Key()}}, nil, true, true},
	} {
		b := newBatch()
		urgent := p.note(b, test.change)
		if err := p.publish(int64(i)+2, b); err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(b.tenants)); !slices.Equal(got, test.tenants) || b.shared != test.shared || urgent.any() != test.urgent {
			t.Errorf("change %d makes %v anew, and the rest: %v; urgent: %v", i, got, b.shared, urgent.any())
		}
	}
}
