package sidecar

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/shadow"
)

// watching is what the control plane is told of policies that are only watched, since the process began; changes grow with it. It
// is nil while nothing is watched.
func (s *sidecar) watching() (report *api.ShadowReport, changes int64) {
	set := s.sets.Load()
	if set == nil || set.Self == nil {
		return nil, 0
	}
	watched := set.Policies.Watched()
	counts, lost, changes := shadow.Counts(s.decider.Shadows, watched)
	if len(watched) == 0 {
		return nil, changes
	}
	report = &api.ShadowReport{Since: timestamppb.New(s.began), Lost: lost}
	for _, key := range slices.SortedFunc(maps.Keys(counts), func(a, b shadow.Key) int {
		return cmp.Or(strings.Compare(a.Policy, b.Policy), cmp.Compare(counts[b].Requests, counts[a].Requests))
	}) {
		c := counts[key]
		report.Entries = append(report.Entries, &api.ShadowEntry{
			Policy: key.Policy, Revision: key.Revision, Allowed: key.Allowed, Tenant: key.Tenant, TenantUid: key.TenantUID, Principal: key.Principal,
			Workload: set.Self.Workload, Method: key.Method, Route: key.Route, Requests: c.Requests, Decision: c.Decision, Path: valid(c.Path), Last: timestamppb.New(c.Last),
		})
	}
	return report, changes
}

// valid is a text as a protobuf string may be: it is cut anywhere, and callers choose its bytes.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// usesInterval is how often it is said again how often policies were used; what was not used before is said at once.
const usesInterval = time.Minute

// uses is what the control plane is told of the policies that permitted something; changes tell when that is worth saying again.
func (s *sidecar) uses() (report *api.UseReport, changes int64) {
	counts, lost, entered := s.decider.Uses.All()
	if len(counts) == 0 {
		return nil, 0
	}
	report = &api.UseReport{Since: timestamppb.New(s.began), Lost: lost}
	for key, c := range counts {
		report.Entries = append(report.Entries, &api.UseEntry{
			Policy: strings.TrimSuffix(key.Policy, policy.CanarySuffix), Principal: key.Principal, Requests: c.Requests, Last: timestamppb.New(c.Last),
		})
	}
	return report, entered + int64(time.Since(s.began)/usesInterval)
}
