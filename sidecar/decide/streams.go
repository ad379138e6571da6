package decide

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// stream reports whether the request is one that lasts as long as it is used.
func (a *attempt) stream() bool { return a.upgrade() || a.long() }

func (a *attempt) upgrade() bool {
	_, n := a.request.header("upgrade")
	return n > 0 || a.request.Method == http.MethodConnect
}

// long reports whether the request is of a class that streams.
func (a *attempt) long() bool {
	self := a.set.Self
	if self.Role == "gateway" {
		return self.Streams.Long(strings.TrimPrefix(a.request.Target, "workload/"), a.request.Method, a.path)
	}
	return a.request.Listener == meshname.ListenerInbound && len(self.Streaming) > 0 && !a.hook() && self.Streaming[authz.Classify(self.Classes, a.request.Method, a.path)]
}

// events reports whether the client asks for server-sent events, which may go on for as long as an answer may.
func (a *attempt) events() bool {
	accept, _ := a.request.header("accept")
	return strings.Contains(accept, "text/event-stream")
}

// lasts reports whether the request may go on for as long as it is used, or as its answer may.
func (a *attempt) lasts() bool { return a.stream() || a.events() }

// hold has Envoy hold a call open beside a request that may last, and returns what that is judged by again; nil for any other.
func (a *attempt) hold() *inflight.Held {
	if a.request.Listener != meshname.ListenerInbound && a.request.Listener != meshname.ListenerGateway {
		return nil
	}
	switch {
	case !a.lasts():
		return nil
	case a.long():
		a.put(propagation.HeaderStream, propagation.StreamLong)
	case a.events():
		a.put(propagation.HeaderStream, propagation.StreamHeld)
	default: // upgrades are held anyway
	}
	d := &a.answer.Decision
	held := &inflight.Held{Txn: strings.Clone(d.Txn), Issuer: a.issuer, Key: a.key, Method: strings.Clone(a.request.Method), Path: strings.Clone(a.path)}
	if a.request.Listener == meshname.ListenerInbound {
		held.Peer = a.judged.Principal.Clone()
		held.Workload, held.Purpose = a.judged.Workload, strings.Clone(a.judged.Purpose)
		shown, _ := a.request.header(propagation.HeaderPeer)
		shown, _, _ = strings.Cut(shown, " ") // the names follow
		held.Shown = strings.Clone(shown)
	}
	return held
}

// enterUntenanted enters a request without a tenant, if it is one that may last.
func (a *attempt) enterUntenanted() {
	held := a.hold()
	if held == nil {
		return
	}
	if a.InFlight.Begin(a.request.Lease, inflight.Request{Held: held, Stream: a.stream(), Since: a.now}) != inflight.Begun {
		a.refuse(policy.Overloaded, "too many requests are open")
	}
}

// Timed reports whether what let a request in may end by the clock.
func (d *Decider) Timed(r *inflight.Request) bool {
	set := d.Sets.Load()
	return r.Held != nil && r.Held.Workload != "" && set != nil && set.Policies.Timed()
}

// Lapsed reports whether the policies are too old to know whether an exception still holds.
func (d *Decider) Lapsed() bool { return d.Sets.Age(d.Now()) > d.Staleness.Grants }

// Outlived says why a stream that was let in may not stay open, with the refusal that it would get now; false: it may
// stay. What ends one is whatever ends all of its tenant's: the tenant is not served any more, or it moves.
func (d *Decider) Outlived(r *inflight.Request) (Answer, bool) {
	a := &attempt{Decider: d, request: &Request{}, now: d.Now(), set: d.Sets.Load()}
	decision := &a.answer.Decision
	decision.Time, decision.Point, decision.Tenant, decision.Revision = a.now.UTC(), "stream", r.Tenant.String(), a.set.Revision
	if a.stays(r) {
		return a.answer, false
	}
	decision.TenantUID = r.UID
	a.Log.Add(decision)
	a.record()
	return a.answer, true
}

func (a *attempt) stays(r *inflight.Request) bool {
	if a.set == nil || a.set.Self == nil {
		return a.refuse(policy.EnforcementUnavailable, "there is no configuration any more")
	}
	if r.Tenant.IsZero() {
		return a.justified(r.Held, authz.Tenant{})
	}
	t, ok := a.tenant(r.Tenant)
	switch {
	case !ok:
		return false
	case t.UID != r.UID:
		return a.refuse(policy.TenantDeleted, "the stream is of another incarnation of the tenant")
	case !a.justified(r.Held, authz.Tenant{ID: t.ID, UID: t.UID, Tier: t.Tier, Residency: t.Residency, Labels: t.Labels}):
		return false
	case !r.Stream, r.Epoch >= t.Epoch:
		return true
	case r.Epoch < t.Since:
		return a.misdirected(fmt.Sprintf("the stream is of epoch %d, and cell %s owns the tenant since epoch %d", r.Epoch, t.Cell, t.Since))
	case a.set.Self.Role == "gateway":
		return !t.EndsStreams() || a.fenced("upgrades end before the tenant moves")
	default:
		// As for what comes in: until the seal, what came in before the fence may finish what it began within the cell.
		return t.State != policyset.Fencing || r.Within && !t.Sealed || a.fenced(fmt.Sprintf("the tenant moves to cell %s: fenced at epoch %d", t.Target, t.Epoch))
	}
}

// justified reports whether what let a request in still does.
func (a *attempt) justified(h *inflight.Held, tenant authz.Tenant) bool {
	if h == nil {
		return true
	}
	a.answer.Decision.Txn, a.answer.Decision.Method, a.answer.Decision.Path, a.answer.Decision.Workload = h.Txn, h.Method, h.Path, a.set.Self.Workload
	if a.set.Revoked[h.Txn] {
		return a.refuse(policy.ContextRevoked, "transaction "+h.Txn+" was revoked")
	}
	if h.Issuer != "" {
		issuer := a.set.Issuers[h.Issuer]
		if issuer == nil || !issuer.Speaks(tenant.ID) {
			return a.refuse(policy.UnauthenticatedTenant, "issuer "+h.Issuer+" may not speak for the tenant any more")
		}
		return issuer.Has(h.Key) || a.refuse(policy.UnauthenticatedTenant, "the key that signed the token is none of issuer "+h.Issuer+"'s any more")
	}
	if h.Workload == "" {
		return true
	}
	a.answer.Decision.Principal = h.Peer.String()
	if !a.known(h.Peer) {
		return false
	}
	if a.set.Self.Fenced[h.Shown] {
		return a.refuse(policy.UnauthenticatedPeer, "the peer is an instance that an operator shut out")
	}
	return a.authorize(&authz.Request{Principal: h.Peer, Own: a.set.Self.BoundPeers[h.Peer], Tenant: tenant, Workload: h.Workload, Method: h.Method, Path: h.Path, Now: a.now, Purpose: h.Purpose, Lapsed: a.Lapsed()})
}

// StreamEnded counts a stream that was ended.
func (d *Decider) StreamEnded(reason policy.Reason) {
	d.Metrics.ended.WithLabelValues(reason.String()).Inc()
}
