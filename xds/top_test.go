package xds

import (
	"math"
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

type said struct {
	peer *server.Peer
	list []*api.TopEntry
}

// TestTop: what members say of one tenant is summed, of tenants that there are; numbers that are none do no harm, and who is gone
// says nothing any more.
func TestTop(t *testing.T) {
	m := newMembers(t)
	acme := &tenantstore.Object{
		APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: "acme"}, Tenant: &tenantstore.TenantSpec{Tier: "gold", Region: "us"},
	}
	result, err := m.Writer.Apply(t.Context(), "a", []*tenantstore.Object{acme}, tenantstore.ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	uid := result.Changes[0].Object.Metadata.UID
	entry := func(requests, level float64) *api.TopEntry {
		return &api.TopEntry{Tenant: "acme", TenantUid: uid, Requests: requests, Refused: 1, Open: 2, Share: 3, Level: level, Limit: "tenant rate"}
	}
	one, two := gatewayPeer(t, "edge", memberA, "127.0.0.1"), gatewayPeer(t, "edge", "f"+memberA[1:], "127.0.0.1")
	for _, say := range []said{{one, []*api.TopEntry{
		entry(10, 0.5), {Tenant: "acme", TenantUid: "another", Requests: 1e6}, {Tenant: "nobody", Requests: 1e6},
	}}, {two, []*api.TopEntry{entry(5, 0.9), {Tenant: "acme", TenantUid: uid, Requests: math.NaN(), Refused: math.Inf(-1), Share: math.Inf(1), Open: math.MinInt64, Level: math.NaN()}}}} {
		if err := m.Joined(t.Context(), say.peer); err != nil {
			t.Fatal(err)
		}
		if err := m.Reported(t.Context(), say.peer, &api.MemberReport{Report: &api.MemberReport_Top{Top: &api.Top{Tenants: say.list}}}); err != nil {
			t.Fatal(err)
		}
	}
	top := m.Top()
	if len(top) != 1 || top[0].Tier != "gold" || top[0].Requests != 15 || top[0].Refused != 2 || top[0].Open != 4 || top[0].Level != 0.9 || top[0].Share != 6+1e12 {
		t.Errorf("%+v", top)
	}
	if m.Gone(two); m.Top()[0].Requests != 10 {
		t.Errorf("one is gone: %+v", m.Top())
	}
}
