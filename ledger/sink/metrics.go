package sink

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of a sink.
type Metrics struct {
	sent, failed prometheus.Counter
	lost         *prometheus.CounterVec
	since        atomic.Pointer[time.Time] // when what waits began to; nil: nothing waits
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		sent:   prometheus.NewCounter(prometheus.CounterOpts{Name: "tenantmesh_control_audit_otlp_sent_total", Help: "Audit events that the OTLP receiver took."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "tenantmesh_control_audit_otlp_failures_total", Help: "Requests to the OTLP receiver that it did not answer, or refused for now; their events are sent again."}),
		lost:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tenantmesh_control_audit_otlp_lost_total", Help: "Audit events that the OTLP receiver never got: their files went away before (rotated), or it refused them for good (refused). Alarm on any."}, []string{"why"}),
	}
	registry.MustRegister(m.sent, m.failed, m.lost, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tenantmesh_control_audit_otlp_waiting_seconds", Help: "How long the OTLP receiver has taken nothing of what waits for it; 0 when nothing waits.",
	}, m.waited))
	for _, why := range []string{rotated, refused} {
		m.lost.WithLabelValues(why)
	}
	return m
}

// Why events are lost.
const (
	rotated = "rotated"
	refused = "refused"
)

func (m *Metrics) waited() float64 {
	if since := m.since.Load(); since != nil {
		return time.Since(*since).Seconds()
	}
	return 0
}

// waits notes whether something waits that the receiver has not taken since now.
func (m *Metrics) waits(something bool, now time.Time) {
	switch {
	case !something:
		m.since.Store(nil)
	case m.since.Load() == nil:
		m.since.Store(&now)
	}
}
