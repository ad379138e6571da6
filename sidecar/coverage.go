package sidecar

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
)

// coverage is what the control plane is told of how tenants were proven; changes tell when that is worth saying again.
func (s *sidecar) coverage() (report *api.CoverageReport, changes int64) {
	counts, lost, entered := s.decider.Coverage.All()
	if len(counts) == 0 {
		return nil, 0
	}
	report = &api.CoverageReport{Since: timestamppb.New(s.began), Lost: lost}
	for key, c := range counts {
		report.Entries = append(report.Entries, &api.CoverageEntry{
			Inbound: key.Inbound, Peer: valid(key.Peer), Method: valid(key.Method), Route: valid(key.Route), Proof: key.Proof, Refused: key.Refused,
			Requests: c.Requests, Decision: c.Decision, Path: valid(c.Path), Last: timestamppb.New(c.Last),
		})
	}
	return report, entered + int64(time.Since(s.began)/coverageInterval)
}

// coverageInterval is how often it is said again how tenants were proven; what is new is said at once.
const coverageInterval = 10 * time.Second
