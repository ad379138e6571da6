package decide

import (
	"fmt"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// misdirectedRetry is how long a caller of the wrong cell should wait for the gateways to catch up.
const misdirectedRetry = time.Second

// inbound decides before the service.
func (a *attempt) inbound() {
	self, decision := a.set.Self, &a.answer.Decision
	peer, err := identity.ParsePrincipal(a.request.Peer)
	if err != nil || peer.TrustDomain() != self.TrustDomain {
		a.refuse(policy.UnauthenticatedPeer, "the connection shows no SPIFFE identity of this mesh")
		return
	}
	decision.Principal = peer.String()
	a.remove(propagation.HeaderTenantID, propagation.HeaderTenantTier, propagation.HeaderCell)
	token, n := a.request.header(propagation.HeaderTxnToken)
	request := &authz.Request{Principal: peer, Workload: self.Workload, Method: a.request.Method, Path: decision.Path, Now: a.now, Lapsed: a.Sets.Age(a.now) > a.Staleness.Grants}
	if n == 0 && self.Tenancy != "" && self.Tenancy != "require" && !a.hook() {
		decision.Proof = "none: the workload's tenancy is " + self.Tenancy
		a.authorize(request)
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
	decision.Proof = "context signed by " + claims.Issuer.String()
	if hook := a.hook(); hook || claims.Context.Purpose == tenanttoken.Export || claims.Context.Role == tenanttoken.Replica {
		a.moveData(peer, claims, hook)
		return
	}
	t, ok := a.owned(peer, claims)
	if !ok {
		return
	}
	request.Tenant = authz.Tenant{ID: t.ID, UID: t.UID, Tier: t.Tier, Residency: t.Residency, Labels: t.Labels}
	if !a.authorize(request) || !a.admit(t, authz.Classify(self.Classes, a.request.Method, decision.Path), false) {
		return
	}
	if !a.enter(t) {
		a.release()
		return
	}
	if !a.Attribution.Open(a.now, a.request.Lease, t.UID, token, a.attributable(claims)) {
		a.release()
		a.refuse(policy.Overloaded, "too many requests are open to know theirs apart")
		return
	}
	a.put(propagation.HeaderTenantID, t.ID.String())
	a.put(propagation.HeaderTenantTier, t.Tier)
	if !self.DeliverContext {
		a.remove(propagation.HeaderTxnToken)
	}
}

// hook reports whether the path is one by which the workload's data of tenants moves.
func (a *attempt) hook() bool {
	path := a.answer.Decision.Path
	for _, d := range a.set.Self.TenantData {
		switch path {
		case d.Export, d.Import, d.Digest, d.Delete:
			return path != ""
		}
	}
	return false
}

// moveData decides for the mover, who reads the tenant's data where it is and writes it where it goes, and for nobody
// else: hooks are no part of what a workload exposes.
func (a *attempt) moveData(peer identity.Principal, claims *tenanttoken.Claims, hook bool) {
	self, c := a.set.Self, &claims.Context
	a.answer.Decision.Rule = "Workload/" + self.Workload + " tenantData"
	if !hook || c.Purpose != tenanttoken.Export || peer != claims.Issuer || identity.InCell(peer, self.Cell) {
		a.refuse(policy.DeniedByPolicy, "a workload's hooks are for the gateway that moves the tenant, and its contexts for them only")
		return
	}
	t, ok := a.tenant(c.Tenant)
	if !ok {
		return
	}
	switch {
	case t.UID != c.UID:
		a.refuse(policy.TenantDeleted, "the context is of another incarnation of the tenant")
	case c.Cell != self.Cell || c.Epoch != t.Epoch || !t.Sealed:
		a.misdirected(fmt.Sprintf("the context is for cell %s at epoch %d, and this is %s at epoch %d", c.Cell, c.Epoch, self.Cell, t.Epoch))
	case c.Role == tenanttoken.Owner && (t.Cell != self.Cell || a.writes()), c.Role == tenanttoken.Replica && t.Target != self.Cell:
		a.misdirected("the owner's data is only read, and only the other cell's is written")
	case !a.enter(t):
		a.release()
	default:
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
	// Until the seal, what came in before the fence may finish what it began within the cell.
	if t.Cell == self.Cell && t.State == policyset.Fencing && c.Epoch <= t.Epoch && (t.Shut || a.writes() && (t.Sealed || !identity.InCell(peer, self.Cell))) {
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
	a.answer.Decision.Rule = rule
	if allowed {
		return true
	}
	// Only a refusal pays for the whole story.
	a.answer.Decision.Rules = a.set.Policies.Authorize(request).Results
	if rule != "" {
		return a.refuse(policy.DeniedByPolicy, "AccessPolicy "+rule+" forbids it")
	}
	return a.refuse(policy.DeniedByPolicy, "no AccessPolicy permits it")
}

// attributable are the IDs by which calls of the service may be known to belong to this request: the context itself,
// and those of the trace and request ID that the context vouches for.
func (a *attempt) attributable(claims *tenanttoken.Claims) []string {
	ids := append(make([]string, 0, 3), claims.Digest)
	for _, id := range a.ids() {
		for _, key := range claims.Context.Keys {
			if key == id.digest {
				ids = append(ids, key)
			}
		}
	}
	return ids
}

// id is an ID that a request carries.
type id struct{ header, digest string }

// ids are the digests of the request's trace ID and request ID, those that are there once.
func (a *attempt) ids() []id {
	var list []id
	if value, n := a.request.header(propagation.HeaderTraceparent); n == 1 && traceID(value) != "" {
		list = append(list, id{propagation.HeaderTraceparent, tenanttoken.KeyDigest(traceID(value))})
	}
	if value, n := a.request.header(propagation.HeaderRequestID); n == 1 && value != "" {
		list = append(list, id{propagation.HeaderRequestID, tenanttoken.KeyDigest(value)})
	}
	return list
}
