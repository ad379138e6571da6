package xds

import (
	"context"
	"math"
	"time"

	"go.uber.org/zap"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

const (
	maxTop  = 100             // of one member
	topTime = 5 * time.Second // that what a member says is of now
)

// top is what a member says of who uses most.
type top struct {
	at      time.Time
	tenants []tenantstore.Top
}

// topped notes who uses most of what a member serves, of the tenants that there are.
func (m *Members) topped(ctx context.Context, peer *server.Peer, report *api.Top) error {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	said := top{at: time.Now()}
	for _, e := range report.Tenants[:min(len(report.Tenants), maxTop)] {
		tenant := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: e.Tenant}]
		if tenant == nil || tenant.Metadata.UID != e.TenantUid {
			m.Log.Debug("a report of use is of no tenant", zap.String("member", peer.Hello.MemberId))
			continue
		}
		said.tenants = append(said.tenants, tenantstore.Top{
			Tenant: e.Tenant, UID: e.TenantUid, Tier: tenant.Tenant.Tier, Requests: figure(e.Requests), Refused: figure(e.Refused), Over: figure(e.Over),
			Open: int(max(0, min(e.Open, math.MaxInt32))), Share: figure(e.Share), Level: figure(e.Level), Limit: e.Limit,
		})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tops[peer.Hello.MemberId] = said
	return nil
}

// figure is a number that may be added to others: at least 0, and finite.
func figure(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, 1e12)
}

// Top is who uses most now, of what the members serve that report to this control plane.
func (m *Members) Top() []tenantstore.Top {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []tenantstore.Top
	for _, said := range m.tops {
		if time.Since(said.at) < topTime {
			all = append(all, said.tenants...)
		}
	}
	return tenantstore.MergeTops(all)
}
