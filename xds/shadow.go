package xds

import (
	"context"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// shadow is what a member says of policies that are only watched.
type shadow struct {
	by          identity.Principal
	since       time.Time
	differences []tenantstore.ShadowDifference
	lost        int64
}

func (s shadow) size() (identity.Principal, int) { return s.by, len(s.differences) }

// shadowed notes what a member says. It outlives the member's stream for a while, and is gone with what is watched.
func (m *Members) shadowed(peer *server.Peer, report *api.ShadowReport) {
	said := shadow{by: peer.Principal, since: report.Since.AsTime(), lost: max(0, report.Lost)}
	for _, e := range report.Entries {
		d := tenantstore.ShadowDifference{
			Policy: e.Policy, Revision: e.Revision, Outcome: tenantstore.WouldRefuse, Tenant: e.Tenant, TenantUID: e.TenantUid, Principal: e.Principal,
			Workload: peer.Subject.Workload, Method: e.Method, Route: e.Route, Requests: max(0, e.Requests), Decision: e.Decision, Path: e.Path, Last: e.Last.AsTime(),
		}
		if e.Allowed {
			d.Outcome = tenantstore.WouldAllow
		}
		long := false
		for _, text := range []string{d.Policy, d.Tenant, d.TenantUID, d.Principal, d.Method, d.Route, d.Decision, d.Path} {
			long = long || len(text) > maxSaidText
		}
		if long || len(said.differences) == maxSaid {
			said.lost += d.Requests
			continue
		}
		said.differences = append(said.differences, d)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := min(len(said.differences), room(m.shadows, peer))
	for _, d := range said.differences[kept:] {
		said.lost += d.Requests
	}
	said.differences = said.differences[:kept]
	m.shadows[peer.Hello.MemberId] = said
}

// Shadow is what policies that are only watched would have done, by the members that report to this control plane.
func (m *Members) Shadow(ctx context.Context) (tenantstore.ShadowReport, error) {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return tenantstore.ShadowReport{}, err
	}
	report := tenantstore.ShadowReport{Watched: tenantstore.WatchedPolicies(snapshot.Objects)}
	if report.Watched == nil {
		report.Watched = []tenantstore.WatchedPolicy{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(report.Watched) == 0 {
		clear(m.shadows)
	}
	var said []tenantstore.ShadowDifference
	for _, s := range m.shadows {
		said = append(said, s.differences...)
		report.Lost += s.lost
		report.Members++
		if report.Since == nil || s.since.After(*report.Since) {
			report.Since = &s.since
		}
	}
	var lost int64
	report.Differences, lost = tenantstore.MergeShadows(report.Watched, said)
	report.Lost += lost
	return report, nil
}

// uses are what a member says of the policies that permitted something.
type uses struct {
	by    identity.Principal
	since time.Time
	list  []tenantstore.PolicyUse
	lost  int64
}

func (u uses) size() (identity.Principal, int) { return u.by, len(u.list) }

// used notes what a member says.
func (m *Members) used(peer *server.Peer, report *api.UseReport) {
	said := uses{by: peer.Principal, since: report.Since.AsTime(), lost: max(0, report.Lost)}
	m.mu.Lock()
	defer m.mu.Unlock()
	most := min(maxSaid, room(m.uses, peer))
	for _, e := range report.Entries {
		u := tenantstore.PolicyUse{Policy: e.Policy, Principal: e.Principal, Requests: max(0, e.Requests), Last: e.Last.AsTime()}
		if len(u.Policy) > maxSaidText || len(u.Principal) > 2*maxSaidText || len(said.list) == most {
			said.lost += u.Requests
			continue
		}
		said.list = append(said.list, u)
	}
	m.uses[peer.Hello.MemberId] = said
}

// Uses are which policies permitted something, by the members that report to this control plane.
func (m *Members) Uses() tenantstore.PolicyUses {
	m.mu.Lock()
	defer m.mu.Unlock()
	var report tenantstore.PolicyUses
	var said []tenantstore.PolicyUse
	for _, u := range m.uses {
		said = append(said, u.list...)
		report.Lost += u.lost
		report.Members++
		if report.Since == nil || u.since.After(*report.Since) {
			report.Since = &u.since
		}
	}
	report.Uses = tenantstore.MergeUses(said)
	return report
}
