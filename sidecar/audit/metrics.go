package audit

import "github.com/prometheus/client_golang/prometheus"

// Metrics of a recorder.
type Metrics struct {
	lost, suppressed prometheus.Counter
	waiting          prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		lost:       prometheus.NewCounter(prometheus.CounterOpts{Name: "tenantmesh_audit_lost_total", Help: "Audit events of which only the number is known: there was no room for them, or the disk failed. Alarm on any."}),
		suppressed: prometheus.NewCounter(prometheus.CounterOpts{Name: "tenantmesh_audit_suppressed_total", Help: "Refusals that are counted in the next audit event of their tenant and reason."}),
		waiting:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tenantmesh_audit_spool_bytes", Help: "Audit events that wait for the control plane, on the disk."}),
	}
	registry.MustRegister(m.lost, m.suppressed, m.waiting)
	return m
}
