package decide

import (
	"net/http"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// enter counts an admitted request among those that are open, with its usage where it reaches a service. A request
// that cannot be waited for is refused (the caller releases it), and so is one whose client has hung up, who will not see it.
func (a *attempt) enter(t *policyset.Tenant) bool {
	d := &a.answer.Decision
	r := inflight.Request{Tenant: t.ID, UID: t.UID, Epoch: t.Epoch, Stream: a.stream(), Held: a.hold(), Since: a.now, Place: a.place.ticket, Seat: &t.Seats.Usage}
	if r.Stream {
		peer, err := identity.ParsePrincipal(a.request.Peer)
		r.Within = err == nil && !identity.IsGateway(peer)
	}
	if a.request.Listener == meshname.ListenerInbound {
		r.Usage = ledger.UsageRecord{Minute: a.now, Tenant: d.Tenant, TenantUID: d.TenantUID, Workload: d.Workload, Class: d.Class, Requests: 1}
		a.isolated(&r.Usage, false)
	}
	switch a.InFlight.Begin(a.request.Lease, r) {
	case inflight.Begun:
		// Only now does a drain wait for this request: a placement that changed before may have been reported as
		// drained already.
		if set := a.Sets.Load(); set != a.set {
			if now, ok := set.Tenant(t.ID.String()); !ok || now.Placement != t.Placement {
				a.stale = true
				return a.misdirected("the tenant's placement changes")
			}
		}
		return true
	case inflight.Gone:
		a.place.under = false // nobody was kept out
		a.answer.HungUp = true
		return a.refuse(policy.Overloaded, "the client hung up before the decision")
	default:
		return a.refuse(policy.Overloaded, "too many requests are open")
	}
}

// account counts a refusal.
func (a *attempt) account() {
	d := &a.answer.Decision
	if d.Allowed || d.Tenant == "" || d.TenantUID == "" {
		return
	}
	usage := ledger.UsageRecord{Minute: a.now, Tenant: d.Tenant, TenantUID: d.TenantUID, Workload: d.Workload, Class: d.Class, Requests: 1, Refused: 1}
	if d.Reason == policy.Overloaded {
		a.isolated(&usage, true)
	}
	a.Meter.Add(usage, nil)
	a.Use.Add(a.now, Incarnation{d.Tenant, d.TenantUID}, true)
}

// Ended is told of each request once its stream has ended.
type Ended struct {
	Lease                    string
	Refused                  bool // by a decision: it holds nothing
	Settled                  bool // its check was answered, or there was none: nothing of it may come after its end
	Native                   bool // Envoy's own rules refused what the check allowed
	Status                   int  // 0: none was sent
	GRPCStatus               string
	Reason                   string // of a refusal by name that came back, "" for none
	Aborted                  bool   // whoever asked went away, or the check did not answer
	Broken                   bool   // what was asked could not be reached, reset the stream, or took too long
	BytesReceived, BytesSent int64
	Duration                 time.Duration
	Service                  time.Duration // between the last byte sent to the service and the first of its answer; 0: not known
	Unanswered               bool          // Service is how long it was waited for in vain
	Overflow                 bool          // Envoy had no connection to the service for it
}

// End releases what the request held, and counts what it used, once.
func (d *Decider) End(e Ended) {
	now := d.Now()
	if e.Refused {
		return
	}
	if e.Native {
		d.Metrics.native.Inc()
	}
	// In this order: what is admitted meanwhile finds that it has ended when it is entered, and gives back the rest.
	r, ok := d.InFlight.End(now, e.Lease, e.Settled)
	d.Limiter.Release(now, e.Lease)
	d.Attribution.Close(now, e.Lease)
	d.Breakers.End(now, e.Lease, e.outcome())
	d.Fair.Done(now, r.Place, e.answered())
	if ok && r.Usage.Requests > 0 {
		r.Usage.BytesReceived, r.Usage.BytesSent, r.Usage.Duration = e.BytesReceived, e.BytesSent, e.Duration
		if e.Status >= http.StatusInternalServerError {
			r.Usage.Errors = 1
		}
		if e.Overflow {
			d.overflowed(&r.Usage)
		}
		d.Use.Add(now, Incarnation{r.Usage.Tenant, r.Usage.TenantUID}, false)
		d.Meter.Add(r.Usage, r.Seat)
	}
}

// Abandoned is told of a check that nobody waits for any more: Envoy drops its answer. known: the decision knew it.
func (d *Decider) Abandoned(listener string, known bool) { d.Metrics.abandon(listener, known) }

// Renew notes that a request is still open.
func (d *Decider) Renew(lease string) {
	now := d.Now()
	d.Limiter.Renew(now, lease, meshname.LeaseTime)
	d.InFlight.Renew(now, lease)
}

// EnvoyEnded ends every request: the Envoy beside is gone. What they used but for their number is not known.
func (d *Decider) EnvoyEnded() {
	now := d.Now()
	for lease, r := range d.InFlight.Clear() {
		d.Attribution.Close(now, lease)
		if r.Usage.Requests > 0 {
			d.Meter.Add(r.Usage, r.Seat)
		}
	}
	d.Limiter.ReleaseAll()
	d.Fair.Clear(now)
}

// verifiers keeps the verifier of the trust domain, which is known only once configuration has come.
type verifiers struct {
	mu       sync.Mutex
	audience string
	verifier *tenanttoken.Verifier
}

func (v *verifiers) of(trustDomain string) *tenanttoken.Verifier {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifier == nil || v.audience != trustDomain {
		v.audience, v.verifier = trustDomain, tenanttoken.NewVerifier(tenanttoken.Options{Audience: trustDomain, Skew: maxClockSkew})
	}
	return v.verifier
}
