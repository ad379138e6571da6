package control

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantmesh/tenantmesh/xds/server"
)

// RegisterMetrics registers a control plane's metrics; status is how far the newest revision is, quota how many members
// are in a session with its allocator, and how many limits that divides, and breakGlass how many grants are in force that
// nobody else approved.
func RegisterMetrics(registry prometheus.Registerer, status func() server.Status, quota func() (sessions, pools int), breakGlass func() float64) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tenantmesh_control_break_glass_grants", Help: "AccessGrants in force that nobody but who asked for them has approved. Alarm on any.",
	}, breakGlass))
	for _, g := range []struct {
		name, help string
		value      func(server.Status) int64
	}{
		{"tenantmesh_control_sidecars_connected", "Sidecars that are connected to this control plane.", func(s server.Status) int64 { return int64(s.Total) }},
		{"tenantmesh_control_sidecars_enforcing", "Those of them that enforce the newest revision.", func(s server.Status) int64 { return int64(s.Enforced) }},
		{"tenantmesh_control_sidecars_refusing", "Those of them that refused some of what was pushed.", func(s server.Status) int64 { return int64(s.Refused) }},
		{"tenantmesh_control_published_revision", "Newest revision of the store that was published.", func(s server.Status) int64 { return s.Published }},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, func() float64 { return float64(g.value(status())) }))
	}
	for _, g := range []struct {
		name, help string
		value      func(sessions, pools int) int
	}{
		{"tenantmesh_control_quota_sessions", "Members whose shares of limits this control plane divides; 0 where another does.", func(sessions, _ int) int { return sessions }},
		{"tenantmesh_control_quota_pools", "Limits that it divides now.", func(_, pools int) int { return pools }},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, func() float64 { return float64(g.value(quota())) }))
	}
}
