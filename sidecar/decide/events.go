package decide

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Event asks for an event's token, or for a context by one. Beside a service it is judged by what that may; the gateway, which signs, judges it again by
// what the Peer may.
type Event struct {
	Open  bool // Token is an event's: a context is wanted. Else it is a context
	Topic string
	Token string
	Peer  identity.Principal // at a gateway: the workload whose sidecar asks
}

// DecideEvent decides about an exchange. At a gateway it returns the token that was asked for.
func (d *Decider) DecideEvent(e Event) (signed string, answer Answer) {
	a := &attempt{Decider: d, request: &Request{Listener: meshname.PointEvents, Method: "POST", Path: "/events"}, now: d.Now()}
	a.begin()
	decision := &a.answer.Decision
	if a.set == nil || a.set.Self == nil {
		a.refuse(policy.EnforcementUnavailable, "no configuration has arrived yet")
	} else {
		decision.Revision = a.set.Revision
		signed = a.event(e)
	}
	decision.Allowed = decision.Reason == policy.Permitted
	decision.Duration = d.Now().Sub(a.now)
	a.log()
	return signed, a.answer
}

func (a *attempt) event(e Event) string {
	self, decision := a.set.Self, &a.answer.Decision
	decision.Cell, decision.Workload, decision.Principal = self.Cell, self.Workload, self.Principal.String()
	gateway := self.Role == "gateway"
	events, cell := self.Events, self.Cell
	if gateway {
		peer, ok := self.EventPeers[e.Peer]
		if !ok {
			a.refuse(policy.UnauthenticatedPeer, "the peer is of no workload that has events")
			return ""
		}
		events, cell, decision.Principal, decision.Cell = peer.Events, peer.Cell, e.Peer.String(), peer.Cell
	}
	listed, what := events.Produces, "produces"
	if e.Open {
		listed, what = events.Consumes, "consumes"
	}
	if !listed[e.Topic] {
		decision.Rule = "Workload/" + self.Workload + " events"
		a.refuse(policy.DeniedByPolicy, fmt.Sprintf("topic %q is not listed in events.%s of the workload", e.Topic, what))
		return ""
	}
	claims, ok := a.exchanged(e, cell, gateway)
	if !ok {
		return ""
	}
	decision.Proof = claims.Proof
	t, ok := a.tenant(claims.Context.Tenant)
	if !ok {
		return ""
	}
	if t.UID != claims.Context.UID {
		a.refuse(policy.TenantDeleted, "it is of another incarnation of the tenant")
		return ""
	}
	if e.Open && !a.here(t, cell) {
		return ""
	}
	if !gateway {
		return ""
	}
	return a.signEvent(e, claims, t, events.Lifetime)
}

// exchanged verifies what is to be exchanged: an event's token for the topic, or the context of a request of the service's, or of an event that it handles.
func (a *attempt) exchanged(e Event, cell string, gateway bool) (*tenanttoken.Claims, bool) {
	if !e.Open {
		claims, ok := a.verify(e.Token)
		switch {
		case !ok:
			return nil, false
		case claims.Context.Role == tenanttoken.Replica:
			return nil, a.refuse(policy.DeniedByPolicy, "it is for a copy of a request that the owner's cell has taken: its events were produced there")
		case claims.Context.Purpose == tenanttoken.Export:
			return nil, a.refuse(policy.DeniedByPolicy, "the moving of a tenant's data produces no events")
		case claims.Context.Cell != cell:
			return nil, a.misdirected(fmt.Sprintf("the context is for cell %s, and the workload is in %s", claims.Context.Cell, cell))
		case !gateway && !a.served(e.Token):
			return nil, a.refuse(policy.ContextUnattributed, "the context is of no request being served here, and of no event that was opened here")
		}
		return claims, true
	}
	event, err := a.verifiers.of(a.set.Self.TrustDomain).VerifyEvent(e.Token, e.Topic, a.set.Keys, a.now)
	switch {
	case errors.Is(err, tenanttoken.ErrExpired):
		return nil, a.refuse(policy.ContextMissing, err.Error())
	case err != nil:
		return nil, a.refuse(policy.ContextForeign, err.Error())
	}
	a.answer.Decision.Tenant, a.answer.Decision.Txn = event.Context.Tenant.String(), event.Txn
	if a.set.Revoked[event.Txn] {
		return nil, a.refuse(policy.ContextRevoked, "transaction "+event.Txn+" was revoked")
	}
	return &event.Claims, true
}

// here checks that the tenant may be served in the consumer's cell now. While it moves its events wait: what they change could not follow.
func (a *attempt) here(t *policyset.Tenant, cell string) bool {
	switch {
	case t.Cell != cell:
		return a.misdirected("cell " + t.Cell + " owns the tenant")
	case t.Moving():
		return a.fenced(fmt.Sprintf("the tenant moves to cell %s, and its events wait", t.Target))
	case a.set.Self.Role == "gateway":
		return a.placed(t)
	case t.Residency != "" && a.set.Self.Residency != t.Residency:
		return a.refuse(policy.Residency, fmt.Sprintf("the tenant's data must stay in %q, and this cell is in %q", t.Residency, a.set.Self.Residency))
	}
	return true
}

// opener is the ID by which the context of an event is known to be a workload's: among the keys that its signer vouches for.
func opener(p identity.Principal) string { return "opened by " + p.String() }

// served reports whether a context is of a request that the service has open, or of an event that its sidecar opened for it.
func (a *attempt) served(token string) bool {
	if _, match := a.Attribution.Find(a.now, tenanttoken.DigestOf(token)); match == attribution.Found {
		return true
	}
	claims, err := a.verifiers.of(a.set.Self.TrustDomain).Verify(token, a.set.Keys, a.now)
	return err == nil && claims.Context.Purpose == tenanttoken.Job && slices.Contains(claims.Keys, tenanttoken.DigestOf(opener(a.set.Self.Principal)))
}

func (a *attempt) signEvent(e Event, claims *tenanttoken.Claims, t *policyset.Tenant, lifetime time.Duration) string {
	signer := a.Signer()
	if signer == nil {
		a.refuse(policy.EnforcementUnavailable, errNoKey.Error())
		return ""
	}
	fresh := tenanttoken.Claims{
		Audience: a.set.Self.TrustDomain, IssuedAt: a.now, Txn: claims.Txn, Subject: claims.Subject,
		Context: tenanttoken.Context{Tenant: t.ID, UID: t.UID, Tier: t.Tier, Cell: t.Cell, Epoch: t.Epoch, Role: tenanttoken.Owner, Purpose: tenanttoken.Job},
	}
	var signed string
	var err error
	if e.Open {
		fresh.Expiry, fresh.Context.Keys = a.now.Add(contextLifetime), []string{tenanttoken.KeyDigest(opener(e.Peer))}
		signed, err = signer.Sign(fresh)
	} else {
		fresh.Expiry = a.now.Add(lifetime)
		signed, err = signer.SignEvent(tenanttoken.Event{Claims: fresh, Topic: e.Topic})
	}
	if err != nil {
		a.refuse(policy.EnforcementUnavailable, "it could not be signed: "+err.Error())
		return ""
	}
	return signed
}

// sentToken is the context that a call carries, of whom it is for.
func (a *attempt) sentToken(sent string) (token, proof string, ok bool) {
	if !a.served(sent) {
		return "", "", a.refuse(policy.ContextUnattributed, "the Txn-Token is of no request being served here, and of no event that was opened here")
	}
	return sent, propagation.HeaderTxnToken, true
}
