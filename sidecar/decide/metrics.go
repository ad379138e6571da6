package decide

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Metrics of decisions. No label names a tenant.
type Metrics struct {
	decisions    *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	attributions *prometheus.CounterVec
	isolation    *prometheus.CounterVec
}

// How requests fare whose tenant is under its share. One that Envoy refuses for want of connections was served before.
const (
	isolationServed  = "served"
	isolationLate    = "late"
	isolationRefused = "refused"
)

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantmesh_decisions_total", Help: "Decisions, by where they were made, the tenant's tier, and the reason (empty: allowed).",
		}, []string{"point", "tier", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tenantmesh_decision_seconds", Help: "Time that a decision took.", Buckets: []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 5e-3, 25e-3},
		}, []string{"point"}),
		attributions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantmesh_attributions_total", Help: "Outbound calls, by how their tenant was proven (empty: not).",
		}, []string{"proof"}),
		isolation: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantmesh_isolation_requests_total",
			Help: "Requests that came while their tenant was under its share of the service, by its tier, and by outcome: served, late (decided after more than 10 ms), refused (for want of capacity).",
		}, []string{"tier", "outcome"}),
	}
	registry.MustRegister(m.decisions, m.seconds, m.attributions, m.isolation)
	return m
}

func (m *Metrics) decided(d *policy.Decision) {
	m.decisions.WithLabelValues(d.Point, d.Tier, d.Reason.String()).Inc()
	m.seconds.WithLabelValues(d.Point).Observe(d.Duration.Seconds())
}

func (m *Metrics) attributed(proof string) { m.attributions.WithLabelValues(proof).Inc() }
