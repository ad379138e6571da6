package decide

import (
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Metrics of decisions. No label names a tenant.
type Metrics struct {
	decisions    *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	attributions *prometheus.CounterVec
	ended        *prometheus.CounterVec
	isolation    *prometheus.CounterVec
	abandoned    *prometheus.CounterVec
	native       prometheus.Counter

	outcomes atomic.Pointer[map[outcome]counted] // nobody changes a map once it is here
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
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantmesh_streams_ended_total", Help: "Open streams that were ended, by the reason for which they would be refused now.",
		}, []string{"reason"}),
		isolation: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantmesh_isolation_requests_total",
			Help: "Requests that came while their tenant was under its share of the service, by its tier, and by outcome: served, late (decided after more than 10 ms), refused (for want of capacity).",
		}, []string{"tier", "outcome"}),
		abandoned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantmesh_abandoned_checks_total", Help: "Checks whose client hung up before their answer, by where they were made, and by whether the end of the request was known before the decision.",
		}, []string{"point", "known"}),
		native: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantmesh_native_refusals_total", Help: "Requests that were allowed, and that Envoy's own rules refused: one of the two had policies that the other had not yet.",
		}),
	}
	registry.MustRegister(m.decisions, m.seconds, m.attributions, m.abandoned, m.ended, m.isolation, m.native)
	return m
}

func (m *Metrics) decided(d *policy.Decision) {
	m.of(outcome{d.Point, d.Tier, d.Reason}).add(d.Duration)
}

// outcome is what decisions are counted by. There are as many as points, tiers and reasons.
type outcome struct {
	point, tier string
	reason      policy.Reason
}

// counted are the metrics of one outcome.
type counted struct {
	decisions prometheus.Counter
	seconds   prometheus.Observer
}

func (c counted) add(took time.Duration) {
	c.decisions.Inc()
	c.seconds.Observe(took.Seconds())
}

// of finds the metrics of an outcome, without the work of finding them by their labels once they were found.
func (m *Metrics) of(o outcome) counted {
	known := m.outcomes.Load()
	if known != nil {
		if found, ok := (*known)[o]; ok {
			return found
		}
	}
	made := counted{m.decisions.WithLabelValues(o.point, o.tier, o.reason.String()), m.seconds.WithLabelValues(o.point)}
	next := map[outcome]counted{o: made}
	if known != nil {
		maps.Copy(next, *known)
	}
	m.outcomes.CompareAndSwap(known, &next) // another outcome that came first stays; this one is found again
	return made
}

func (m *Metrics) abandon(point string, known bool) {
	m.abandoned.WithLabelValues(point, strconv.FormatBool(known)).Inc()
}

func (m *Metrics) attributed(proof string) { m.attributions.WithLabelValues(proof).Inc() }
