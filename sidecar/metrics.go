package sidecar

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Gauges are read each time that metrics are asked for.
type Gauges struct {
	Age, Revision, Leases, Open, Restarts, Breakers func() float64
	Limit, Placed, WithoutLoad                      func() float64 // of the service
	Shared, Pools                                   func() float64 // of limits that several members enforce
}

// RegisterMetrics registers a sidecar's own metrics; those of decisions are its decider's.
func RegisterMetrics(registry prometheus.Registerer, gauges Gauges) {
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"tenantmesh_config_age_seconds", "Time since the control plane was last heard.", gauges.Age},
		{"tenantmesh_config_revision", "Revision of the store that is enforced.", gauges.Revision},
		{"tenantmesh_leases", "Requests that hold a lease.", gauges.Leases},
		{"tenantmesh_open_requests", "Requests that were admitted and have not ended.", gauges.Open},
		{"tenantmesh_breakers_open", "Pairs of a tenant and what it calls whose calls are refused because they keep failing.", gauges.Breakers},
		{"tenantmesh_admission_limit", "Requests that the service may hold open before tenants have shares of it.", gauges.Limit},
		{"tenantmesh_admission_open", "Requests that are open at the service, as admission counts them.", gauges.Placed},
		{"tenantmesh_admission_latency_without_load_seconds", "Latency of the service's answers of no class to requests that only read, when hardly any are open; 0 when that is not known.", gauges.WithoutLoad},
		{"tenantmesh_quota_session", "Whether limits are divided by demand for this member: 1, or 0 while it has only its part of them.", gauges.Shared},
		{"tenantmesh_quota_pools", "Limits shared with other members that were used here lately.", gauges.Pools},
		{"tenantmesh_envoy_restarts", "How often Envoy was started again.", gauges.Restarts},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value))
	}
}

func (s *sidecar) gauges() Gauges {
	return Gauges{
		Age: func() float64 { return s.sets.Age(time.Now()).Seconds() },
		Revision: func() float64 {
			if set := s.sets.Load(); set != nil {
				return float64(set.Revision)
			}
			return 0
		},
		Leases:   func() float64 { return float64(s.decider.Limiter.Leases(time.Now())) },
		Open:     func() float64 { return float64(s.inflight.Open()) },
		Breakers: func() float64 { return float64(s.decider.Breakers.Open()) },
		Shared: func() float64 {
			if s.shares.InSession(time.Now()) {
				return 1
			}
			return 0
		},
		Pools:    func() float64 { return float64(s.shares.Pools()) },
		Restarts: func() float64 { return float64(s.envoy.Restarts()) },

		Limit:       func() float64 { return s.decider.Fair.State(0).Limit },
		Placed:      func() float64 { return float64(s.decider.Fair.State(0).Open) },
		WithoutLoad: func() float64 { return s.decider.Fair.State(0).WithoutLoad },
	}
}
