package xds

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// Absent returns the members that neither left nor were fenced, and report to no control plane that lives: what they
// enforce is what they had.
func (m *Members) Absent(ctx context.Context) ([]server.Member, error) {
	if err := m.know(ctx); err != nil {
		return nil, err
	}
	live, err := m.Store.Live(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	m.mu.Lock()
	defer m.mu.Unlock()
	var absent []server.Member
	for name, o := range m.known {
		if o.Member.Left || o.Member.Fenced || m.present[name] != nil {
			continue
		}
		if o.Member.Control != m.ID && slices.Contains(live, o.Member.Control) {
			continue // it is that one's to say
		}
		// Where it was not seen to go, it may have gone just now.
		heard := now
		if at, ok := m.gone[name]; ok && o.Member.Control == m.ID {
			heard = at.UTC()
		}
		absent = append(absent, server.Member{
			Heard: &heard, GrantAge: o.Member.GrantAge, IssuerAge: o.Member.IssuerAge, ID: name, Principal: o.Member.Principal, Role: string(o.Member.Role), Cell: o.Member.Cell, Workload: o.Member.Workload, OutOfReach: true,
		})
	}
	slices.SortFunc(absent, func(a, b server.Member) int { return strings.Compare(a.ID, b.ID) })
	return absent, nil
}

// know sees to it that the members of the store are known, from whoever watches it: what is asked with each change may
// not cost a look at every tenant.
func (m *Members) know(ctx context.Context) error {
	m.mu.Lock()
	known := m.known != nil && m.follows
	m.mu.Unlock()
	if known {
		return nil
	}
	snapshot, err := m.Store.Snapshot(ctx)
	if err == nil {
		m.learn(snapshot.Objects, false)
	}
	return err
}

// learn takes the members of a snapshot, and whether what changes after it will be noted.
func (m *Members) learn(objects map[tenantstore.Key]*tenantstore.Object, follows bool) {
	known := map[string]*tenantstore.Object{}
	for key, o := range objects {
		if key.Kind == tenantstore.KindMember {
			known[key.Name] = o
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if follows || !m.follows {
		m.known, m.follows = known, follows
	}
}

// note takes a change.
func (m *Members) note(change tenantstore.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range change.Put {
		if o.Kind == tenantstore.KindMember {
			m.known[o.Metadata.Name] = o
		}
	}
	for _, key := range change.Delete {
		if key.Kind == tenantstore.KindMember {
			delete(m.known, key.Name)
		}
	}
}

// unfollowed notes that nobody notes changes any more.
func (m *Members) unfollowed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follows = false
}
