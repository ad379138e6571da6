package xds

import (
	"slices"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// covered is what a member says of how tenants were proven.
type covered struct {
	by    identity.Principal
	since time.Time
	calls []tenantstore.CoveredCalls
	lost  int64
}

func (c covered) size() (identity.Principal, int) { return c.by, len(c.calls) }

// proofs are those that there are.
var proofs = []string{"context", "traceparent", "x-request-id", "bound", "none"}

// covers notes what a member says. A member speaks of its own workload alone.
func (m *Members) covers(peer *server.Peer, report *api.CoverageReport) {
	said := covered{by: peer.Principal, since: report.Since.AsTime(), lost: max(0, report.Lost)}
	m.mu.Lock()
	defer m.mu.Unlock()
	most := min(maxSaid, room(m.covered, peer))
	for _, e := range report.Entries {
		c := tenantstore.CoveredCalls{
			Workload: peer.Subject.Workload, Inbound: e.Inbound, Peer: e.Peer, Method: e.Method, Route: e.Route, Proof: e.Proof, Refused: e.Refused,
			Requests: max(0, e.Requests), Decision: e.Decision, Path: e.Path, Last: e.Last.AsTime(),
		}
		long := slices.ContainsFunc([]string{c.Peer, c.Method, c.Route, c.Decision, c.Path}, func(text string) bool { return len(text) > 2*maxSaidText })
		if long || !slices.Contains(proofs, c.Proof) || len(said.calls) == most {
			said.lost += c.Requests
			continue
		}
		said.calls = append(said.calls, c)
	}
	m.covered[peer.Hello.MemberId] = said
}

// Coverage is how the tenants of calls were proven, by the members that report to this control plane.
func (m *Members) Coverage() tenantstore.Coverage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var report tenantstore.Coverage
	var said []tenantstore.CoveredCalls
	for _, c := range m.covered {
		said = append(said, c.calls...)
		report.Lost += c.lost
		report.Members++
		if report.Since == nil || c.since.After(*report.Since) {
			report.Since = &c.since
		}
	}
	report.Calls = tenantstore.MergeCoverage(said)
	report.Workloads = tenantstore.CoverageOf(report.Calls)
	return report
}
