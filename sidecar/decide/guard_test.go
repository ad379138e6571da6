package decide

import (
	"fmt"
	"math"
	"testing"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/breaker"
	"github.com/tenantmesh/tenantmesh/policy/limit/retry"
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

// TestRetryBudget: what is repeated is a share of what is tried, at each place where a request may be refused early.
func TestRetryBudget(t *testing.T) {
	free := func(p *api.TenantPolicy) {
		p.Limits = &api.Limits{RequestsPerSecond: -1, Concurrency: -1, RetryShare: 0.5}
	}
	bound := sidecar()
	bound.BoundTenant = "acme"
	for name, test := range map[string]struct {
		self    *api.ProxyConfig
		request func(w *world) *Request
		repeat  func(h *Headers) // nil: it cannot be one
	}{
		"a client, by its key": {
			&api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}}, func(*world) *Request { return gatewayRequest() },
			func(h *Headers) { h.Add("idempotency-key", "k") },
		},
		"a gRPC client": {
			&api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}}, func(*world) *Request { return gatewayRequest() },
			func(h *Headers) { h.Add("grpc-previous-rpc-attempts", "1") },
		},
		"a caller's Envoy": {
			sidecar(), func(w *world) *Request { return w.inbound(w.token()) }, func(h *Headers) { h.Add("x-envoy-attempt-count", "2") },
		},
		"a call to a dependency": {
			bound, func(*world) *Request { return outbound("dependency/mail", map[string][]string{}) },
			func(h *Headers) { h.Add("idempotency-key", "k") },
		},
		"a call to a workload, which counts itself": {
			bound, func(*world) *Request { return outbound("workload/back", map[string][]string{"idempotency-key": {"k"}}) }, nil,
		},
		"a client that says what only Envoy may": {
			&api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}},
			func(*world) *Request {
				return gatewayRequest(func(r *Request) { r.Headers.Add("x-envoy-attempt-count", "2") })
			}, nil,
		},
		"the first attempt": {
			sidecar(), func(w *world) *Request {
				return w.inbound(w.token(), func(r *Request) { r.Headers.Add("x-envoy-attempt-count", "1") })
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, n := newWorld(t, test.self, free), 0
			send := func(repeat bool, reason policy.Reason) Answer {
				n++
				r := test.request(w)
				r.Lease = fmt.Sprint(n)
				if repeat && test.repeat != nil {
					test.repeat(&r.Headers)
				}
				return w.want(fmt.Sprintf("request %d, repeat %v", n, repeat), r, reason)
			}
			if test.repeat == nil {
				for range 50 {
					send(true, policy.Permitted)
				}
				return
			}
			if name != "a gRPC client" && name != "a caller's Envoy" {
				send(true, policy.Permitted) // by its key, the first try
			} else {
				send(false, policy.Permitted)
			}
			for range 9 {
				send(false, policy.Permitted)
			}
			for range retry.Floor + 5 {
				send(true, policy.Permitted)
			}
			a := send(true, policy.RetryBudget)
			if a.Decision.Rule != "limits.retryShare" || a.Decision.RetryAfter <= 0 || a.Decision.RetryAfter > retry.Window {
				t.Errorf("the refusal is %+v", a.Decision)
			}
			if test.self.BoundTenant != "" && w.decider.Limiter.Leases(w.now) > n-1 {
				t.Error("the repeat that was refused holds a lease")
			}
			send(false, policy.Permitted)
		})
	}
}

// TestRefusedIsNoTry: a request that was refused may be sent again, as often as it is refused.
func TestRefusedIsNoTry(t *testing.T) {
	w := newWorld(t, &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}}, func(p *api.TenantPolicy) {
		p.Limits = &api.Limits{RequestsPerSecond: 1, Burst: 1, RetryShare: 0.001}
	})
	send := func(reason policy.Reason) {
		w.want("a write", gatewayRequest(func(r *Request) { r.Headers.Add("idempotency-key", "k") }), reason)
	}
	w.want("the burst", gatewayRequest(), policy.Permitted)
	for range 2 * retry.Floor {
		send(policy.RateLimited)
	}
	w.now = w.now.Add(time.Second)
	send(policy.Permitted)
	for range retry.Floor {
		w.now = w.now.Add(time.Second)
		w.decider.End(Ended{Lease: "lease-1", Settled: true})
		send(policy.Permitted)
	}
	signer := w.signer
	w.signer = nil
	w.now = w.now.Add(2 * retry.Window)
	for range 2 * retry.Floor {
		w.now = w.now.Add(time.Second)
		send(policy.EnforcementUnavailable)
	}
	w.signer = signer
}

// TestLimitsUnknown: a tenant whose limits are none is held to the safe ones, or refused, as its tier says.
func TestLimitsUnknown(t *testing.T) {
	self := func() *api.ProxyConfig {
		return &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}}
	}
	bad := map[string]*api.Limits{
		"none": nil, "zero": {}, "NaN": {RequestsPerSecond: math.NaN(), Burst: 1, Concurrency: 1}, "negative": {RequestsPerSecond: -5, Burst: -1, Concurrency: -3},
	}
	for name, limits := range bad {
		for _, mode := range []policy.OnUnknown{"", policy.SafeDefaults, policy.RefuseUnknown} {
			w := newWorld(t, self(), func(p *api.TenantPolicy) {
				p.Limits, p.FailMode = limits, &api.FailMode{LimitsUnknown: string(mode)}
			})
			if mode == policy.RefuseUnknown {
				if a := w.want(name, gatewayRequest(), policy.EnforcementUnavailable); a.Decision.Rule != "Tier/gold failMode.limitsUnknown" || a.Decision.RetryAfter == 0 {
					t.Errorf("%s: the refusal is %+v", name, a.Decision)
				}
				continue
			}
			admitted := 0
			for i := range 100 {
				a := w.decider.Decide(gatewayRequest(func(r *Request) { r.Lease = fmt.Sprint(i) }))
				if a.Decision.Allowed {
					admitted++
				}
				w.decider.End(Ended{Lease: fmt.Sprint(i), Settled: true})
			}
			if admitted < 1 || admitted > policy.SafeLimits().Burst {
				t.Errorf("%s: %d of 100 requests at once pass", name, admitted)
			}
		}
	}
	w := newWorld(t, self(), func(p *api.TenantPolicy) { p.FailMode = &api.FailMode{LimitsUnknown: "refuse"} })
	w.want("whose limits are known", gatewayRequest(), policy.Permitted)
}
