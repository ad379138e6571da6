package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// misdirectedRetry is how long a caller of the wrong cell should wait for the gateways to catch up.
const misdirectedRetry = time.Second

// inbound decides before the service.
func (a *attempt) inbound() {
	self, decision := a.set.Self, &a.answer.Decision
	peer, err := identity.ParsePrincipal(a.request.Peer)
	if err != nil {
		a.refuse(policy.UnauthenticatedPeer, "the connection shows no SPIFFE identity")
		return
	}
	decision.Principal = peer.String()
	if !a.known(peer) {
		return
	}
	shown, n := a.request.header(propagation.HeaderPeer)
	shown, names, named := strings.Cut(shown, " ")
	if named && names != a.request.Peer { // an SVID has one (X.509-SVID, section 2)
		a.refuse(policy.UnauthenticatedPeer, "the peer's certificate names several: "+names)
		return
	}
	if len(self.Fenced) > 0 && n != 1 {
		a.refuse(policy.UnauthenticatedPeer, "instances are shut out, and this one's certificate is not known")
		return
	} else if self.Fenced[shown] {
		a.refuse(policy.UnauthenticatedPeer, "the peer is an instance that an operator shut out")
		return
	}
	a.remove(propagation.HeaderTenantID, propagation.HeaderTenantTier, propagation.HeaderCell)
	token, n := a.request.header(propagation.HeaderTxnToken)
	request := &a.judged
	*request = authz.Request{Principal: peer, Own: self.BoundPeers[peer], Workload: self.Workload, Method: a.request.Method, Path: a.path, Now: a.now, Purpose: a.purpose(), Lapsed: a.Sets.Age(a.now) > a.Staleness.Grants}
	if peer.TrustDomain() != self.TrustDomain && n > 0 {
		a.refuse(policy.ContextForeign, "a peer of another trust domain brings no tenant context of this one")
		return
	}
	if n == 0 && self.Tenancy != "" && self.Tenancy != "require" && !a.hook() {
		decision.Proof, a.proof = "none: the workload's tenancy is "+self.Tenancy, coverage.None
		a.classify()
		if a.authorize(request) {
			a.enterUntenanted()
		}
		return
	}
	if n != 1 {
		a.refuse(policy.ContextMissing, fmt.Sprintf("the request must carry one tenant context (got %d)", n))
		return
	}
	claims, ok := a.verify(token)
	if !ok {
		return
	}
	decision.Proof, a.proof = claims.Proof, coverage.Context
	if hook := a.hook(); hook || claims.Context.Purpose == tenanttoken.Export || claims.Context.Role == tenanttoken.Replica {
		if t, ok := a.moved(peer, claims); !ok {
			return
		} else if hook {
			a.moveData(t, claims)
		} else {
			a.replica(t, claims, request)
		}
		return
	}
	t, ok := a.owned(peer, claims)
	if !ok {
		return
	}
	request.Tenant = authz.Tenant{ID: t.ID, UID: t.UID, Tier: t.Tier, Residency: t.Residency, Labels: t.Labels}
	if !a.authorize(request) {
		return
	}
	if !a.tried(t) {
		return
	}
	if !a.admit(t, a.classify(), false) {
		decision.Rules = slices.DeleteFunc(a.set.Policies.Nearest(request, decisionlog.MaxRules), func(r policy.RuleResult) bool { return !r.Matched })
		return
	}
	if !a.share(t) {
		a.release()
		return
	}
	// Before the request is entered: an end that comes first is known only there.
	if !a.Attribution.Open(a.now, a.request.Lease, t.UID, claims.Token, a.attributable(claims)) {
		a.release()
		a.refuse(policy.Overloaded, "too many requests are open to know theirs apart")
		return
	}
	if !a.enter(t) {
		a.release()
		return
	}
	a.put(propagation.HeaderTenantID, t.ID.String())
	a.put(propagation.HeaderTenantTier, t.Tier)
	if !self.DeliverContext {
		a.remove(propagation.HeaderTxnToken)
	}
}

// known refuses a peer that is none of this workload's. TLS lets in only those that are; a connection may outlive that.
func (a *attempt) known(peer identity.Principal) bool {
	return a.set.Self.Peers[peer] || a.refuse(policy.UnauthenticatedPeer, "the peer is no gateway of this mesh, and none that depends on the workload")
}

// hook reports whether the path is one by which the workload's data of tenants moves.
func (a *attempt) hook() bool {
	path, plain := a.readings()
	for _, d := range a.set.Self.TenantData {
		for _, hook := range [...]string{d.Export, d.Import, d.Digest, d.Delete} {
			if hook != "" && (hook == path || hook == plain) {
				return true
			}
		}
	}
	return false
}

// moved checks that what comes is from the gateway that moves the tenant, and of the very epoch: hooks are no part of
// what a workload exposes, and a copy of a request is not one.
func (a *attempt) moved(peer identity.Principal, claims *tenanttoken.Claims) (*policyset.Tenant, bool) {
	self, c := a.set.Self, &claims.Context
	a.answer.Decision.Rule = "Workload/" + self.Workload + " tenantData"
	if peer != claims.Issuer || !identity.IsGateway(peer) {
		return nil, a.refuse(policy.DeniedByPolicy, "a workload's hooks, and copies of requests, are for the gateway that moves the tenant")
	}
	t, ok := a.set.Tenant(c.Tenant.String()) // a suspended tenant moves too
	switch {
	case !ok:
		return nil, a.refuse(policy.TenantUnknown, "no tenant "+c.Tenant.String()+" is served here")
	case t.UID != c.UID:
		return nil, a.refuse(policy.TenantDeleted, "the context is of another incarnation of the tenant")
	case c.Cell != self.Cell || c.Epoch != t.Epoch:
		return nil, a.misdirected(fmt.Sprintf("the context is for cell %s at epoch %d, and this is %s at epoch %d", c.Cell, c.Epoch, self.Cell, t.Epoch))
	case t.Mover == "" || a.set.Holder(claims.KID) != t.Mover:
		return nil, a.refuse(policy.DeniedByPolicy, fmt.Sprintf("the tenant's mover is %q, and another member signed the context", t.Mover))
	case c.Role == tenanttoken.Owner && t.Cell != self.Cell, c.Role == tenanttoken.Replica && t.Target != self.Cell:
		return nil, a.misdirected("the owner's data is where the owner is, and only the other cell takes copies")
	}
	a.answer.Decision.TenantUID, a.answer.Decision.Tier, a.answer.Decision.Epoch, a.audited = t.UID, t.Tier, t.Epoch, t.Audited
	return t, true
}

// moveData decides for a hook of the workload's data. The owner's data is only read.
func (a *attempt) moveData(t *policyset.Tenant, claims *tenanttoken.Claims) {
	early := t.State == policyset.Migrating && a.set.Self.Strategy(a.set.Self.Workload) == policyset.StrategyFenced
	switch c := &claims.Context; {
	case c.Purpose != tenanttoken.Export:
		a.refuse(policy.DeniedByPolicy, "a workload's hooks are for contexts of purpose export")
	case c.Role == tenanttoken.Owner && a.writes():
		a.refuse(policy.DeniedByPolicy, "the owner's data is only read")
	case t.State == policyset.Cutover, t.State != policyset.Final && (!t.Copy || early), t.State == policyset.Final && !t.Sealed:
		a.misdirected(fmt.Sprintf("nothing is copied in this step of %s", t.State))
	default:
		a.judged.Workload = "" // no policy is asked about hooks
		if !a.enter(t) {
			a.release()
			return
		}
		a.remove(propagation.HeaderTxnToken)
		a.put(propagation.HeaderTenantID, t.ID.String())
		a.put(propagation.HeaderTenantTier, t.Tier)
	}
}

// classify is the request's class, "" for none. Where the class has a bulkhead, Envoy is told to use it.
func (a *attempt) classify() string {
	path, plain := a.readings()
	class := authz.Classify(a.set.Self.Classes, a.request.Method, path)
	if class == "" && plain != path {
		class = authz.Classify(a.set.Self.Classes, a.request.Method, plain)
	}
	if a.set.Self.Bulkheads[class] {
		a.put(propagation.HeaderClass, class)
	}
	return class
}

// replica decides for a write that the owner's cell has taken, and that comes here too. It was charged there.
func (a *attempt) replica(t *policyset.Tenant, claims *tenanttoken.Claims, request *authz.Request) {
	request.Tenant = authz.Tenant{ID: t.ID, UID: t.UID, Tier: t.Tier, Residency: t.Residency, Labels: t.Labels}
	switch {
	case claims.Context.Role != tenanttoken.Replica || claims.Context.Purpose != tenanttoken.Request || a.set.Self.Strategy(a.set.Self.Workload) != policyset.StrategyDualWrite:
		a.refuse(policy.DeniedByPolicy, "only copies of requests to a workload whose strategy is dualWrite are taken")
	case t.State != policyset.Migrating && t.State != policyset.Fencing || !t.Copy || t.Shut:
		a.misdirected(fmt.Sprintf("copies of requests are not taken in this step of %s", t.State))
	case !a.authorize(request):
	case !a.enter(t):
		a.release()
	case !a.Attribution.Open(a.now, a.request.Lease, t.UID, claims.Token, a.attributable(claims)):
		a.release()
		a.refuse(policy.Overloaded, "too many requests are open to know theirs apart")
	default:
		a.classify()
		a.remove(propagation.HeaderTxnToken)
		a.put(propagation.HeaderTenantID, t.ID.String())
		a.put(propagation.HeaderTenantTier, t.Tier)
	}
}

// owned checks that the context is for a tenant that this cell owns, in this incarnation.
func (a *attempt) owned(peer identity.Principal, claims *tenanttoken.Claims) (*policyset.Tenant, bool) {
	self, c := a.set.Self, &claims.Context
	if c.Cell != self.Cell {
		return nil, a.misdirected(fmt.Sprintf("the context is for cell %s, and this is %s", c.Cell, self.Cell))
	}
	t, ok := a.tenant(c.Tenant)
	if !ok {
		return nil, false
	}
	if t.UID != c.UID {
		return nil, a.refuse(policy.TenantDeleted, "the context is of another incarnation of the tenant")
	}
	if t.Cell != self.Cell && c.Epoch <= t.Epoch {
		return nil, a.misdirected("cell " + t.Cell + " owns the tenant")
	}
	if t.Cell == self.Cell && c.Epoch < t.Since {
		return nil, a.misdirected(fmt.Sprintf("the context is of epoch %d, and the cell owns the tenant since epoch %d", c.Epoch, t.Since))
	}
	// Until the seal, what came in before the fence may finish what it began within the cell. A gateway that knows of a
	// newer epoch and lets a write through knows that it is not fenced any more; a workload of the cell knows no such
	// thing: its context may be that of a read.
	within := !identity.IsGateway(peer) // whatever its ID's scheme: nobody else may connect
	if t.Cell == self.Cell && t.State == policyset.Fencing && (within || c.Epoch <= t.Epoch) && (t.Shut || a.writes() && (t.Sealed || !within)) {
		return nil, a.fenced(fmt.Sprintf("the tenant moves to cell %s: fenced at epoch %d, and the context is of epoch %d", t.Target, t.Epoch, c.Epoch))
	}
	if t.Residency != "" && self.Residency != t.Residency {
		return nil, a.refuse(policy.Residency, fmt.Sprintf("the tenant's data must stay in %q, and this cell is in %q", t.Residency, self.Residency))
	}
	return t, true
}

func (a *attempt) misdirected(detail string) bool {
	a.answer.Decision.RetryAfter = misdirectedRetry
	return a.refuse(policy.Misdirected, detail)
}

func (a *attempt) authorize(request *authz.Request) bool {
	rule, allowed := a.set.Policies.Allowed(request)
	if path, plain := a.readings(); allowed && plain != path {
		request.Path = plain
		rule, allowed = a.set.Policies.Allowed(request)
	}
	a.answer.Decision.Rule = rule
	a.watch(request)
	if allowed {
		a.permitted = rule
		return true
	}
	// Only a refusal pays for the whole story.
	a.answer.Decision.Rules = a.set.Policies.Nearest(request, decisionlog.MaxRules)
	if rule != "" {
		return a.refuse(policy.DeniedByPolicy, "AccessPolicy "+rule+" forbids it")
	}
	return a.refuse(policy.DeniedByPolicy, "no AccessPolicy permits it")
}

// attributable are the IDs by which calls of the service may be known to belong to this request: the context itself,
// and those of the trace and request ID that the context vouches for.
func (a *attempt) attributable(claims *tenanttoken.Claims) (ids attribution.IDs) {
	ids.Add(claims.Digest)
	for _, id := range a.ids() {
		if id.header == "" {
			continue
		}
		if digest, ok := claims.Vouches(id.text); ok {
			ids.Add(digest)
		}
	}
	return ids
}

// id is an ID that a request carries.
type id struct {
	header string // "" for none
	text   string
}

// ids are the request's trace ID and request ID, those that are there once.
func (a *attempt) ids() (list [2]id) {
	if value, n := a.request.header(propagation.HeaderTraceparent); n == 1 {
		if trace := traceID(value); trace != "" {
			list[0] = id{propagation.HeaderTraceparent, trace}
		}
	}
	if value, n := a.request.header(propagation.HeaderRequestID); n == 1 && value != "" {
		list[1] = id{propagation.HeaderRequestID, value}
	}
	return list
}
