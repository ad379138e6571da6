package decide

import (
	"fmt"
	"testing"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/breaker"
)

// TestBreaker: one tenant's calls to one target are refused once they keep failing, and nobody else's.
func TestBreaker(t *testing.T) {
	self := sidecar()
	for _, d := range self.DependsOn {
		if d.Name == "mail" {
			d.Breaker = &api.Breaker{Failures: 2}
		}
	}
	w := newWorld(t, self)
	token := w.token()
	w.want("inbound", w.inbound(token), policy.Permitted)
	n := 0
	call := func(target string, reason policy.Reason, ended Ended) Answer {
		n++
		r := outbound(target, map[string][]string{"txn-token": {token}})
		r.Lease = fmt.Sprint("call-", n)
		a := w.want(fmt.Sprintf("call %d, to %s", n, target), r, reason)
		ended.Lease = r.Lease
		w.decider.End(ended)
		return a
	}
	for _, harmless := range []Ended{{Status: 429}, {Status: 200}, {Status: 503, Reason: "overloaded"}, {Aborted: true, Status: 503}, {}, {Status: 404}, {Status: 200, GRPCStatus: "8"}} {
		for range 5 {
			call("dependency/mail", policy.Permitted, harmless)
		}
	}
	call("dependency/mail", policy.Permitted, Ended{Status: 500})
	call("dependency/mail", policy.Permitted, Ended{Broken: true})
	a := call("dependency/mail", policy.BreakerOpen, Ended{})
	if a.Decision.Rule != "Dependency/mail breaker" || a.Decision.RetryAfter != 5*time.Second {
		t.Errorf("the refusal is %+v", a.Decision)
	}
	if w.decider.Breakers.Open() != 1 {
		t.Errorf("%d are open", w.decider.Breakers.Open())
	}
	call("workload/back", policy.Permitted, Ended{Status: 200})
	w.now = w.now.Add(5 * time.Second)
	call("dependency/mail", policy.Permitted, Ended{Status: 200, GRPCStatus: "0"})
	call("dependency/mail", policy.Permitted, Ended{Status: 200, GRPCStatus: "14"})
	call("dependency/mail", policy.Permitted, Ended{Status: 503, Reason: "enforcement_unavailable"})
	call("dependency/mail", policy.BreakerOpen, Ended{})

	// What needs no tenant is nobody's.
	for range 10 {
		w.want("untenanted", outbound("workload/open", nil), policy.Permitted)
		w.decider.End(Ended{Lease: "out", Broken: true})
	}
	if (&Ended{Broken: true}).outcome() != breaker.Failure {
		t.Error("what is broken is no failure")
	}
}

// TestBreakerOfBound: a bound workload's call that is refused gives back what its tenant was charged.
func TestBreakerOfBound(t *testing.T) {
	self := sidecar()
	self.BoundTenant = "acme"
	w := newWorld(t, self, func(p *api.TenantPolicy) { p.Limits = &api.Limits{RequestsPerSecond: -1, Concurrency: 2} })
	for i := range 5 {
		r := outbound("workload/back", nil)
		r.Lease = fmt.Sprint(i)
		w.want("a call", r, policy.Permitted)
		w.decider.End(Ended{Lease: r.Lease, Settled: true, Status: 502})
	}
	w.want("the sixth", outbound("workload/back", nil), policy.BreakerOpen)
	if n := w.decider.Limiter.Leases(w.now); n != 0 {
		t.Errorf("%d leases", n)
	}
}
