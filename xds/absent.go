package xds

import (
	"context"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// Absent returns the members that neither left nor were fenced, and report to no control plane that lives: what they
// enforce is what they had.
func (m *Members) Absent(ctx context.Context) ([]server.Member, error) {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	live, err := m.Store.Live(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var absent []server.Member
	for key, o := range snapshot.Objects {
		if key.Kind != tenantstore.KindMember || o.Member.Left || o.Member.Fenced || m.present[key.Name] != nil {
			continue
		}
		if o.Member.Control != m.ID && slices.Contains(live, o.Member.Control) {
			continue // it is that one's to say
		}
		absent = append(absent, server.Member{
			ID: key.Name, Principal: o.Member.Principal, Role: string(o.Member.Role), Cell: o.Member.Cell, Workload: o.Member.Workload, OutOfReach: true,
		})
	}
	slices.SortFunc(absent, func(a, b server.Member) int { return strings.Compare(a.ID, b.ID) })
	return absent, nil
}
