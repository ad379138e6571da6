package decide

import (
	"fmt"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
)

// outbound decides for a call that the service makes.
func (a *attempt) outbound() {
	self, decision := a.set.Self, &a.answer.Decision
	decision.Principal = self.Principal.String()
	tenancy, listed := self.Dependencies[a.request.Target]
	if name, foreign := strings.CutPrefix(a.request.Target, meshname.TargetForeign); foreign {
		decision.Rule = "Workload/" + self.Workload + " dependsOn"
		a.refuse(policy.DeniedByPolicy, fmt.Sprintf("host %q, of %s, was called at an address that is not its own", a.host(), name))
		return
	}
	if !listed {
		decision.Rule = "Workload/" + self.Workload + " dependsOn"
		a.refuse(policy.DeniedByPolicy, fmt.Sprintf("host %q is not listed in dependsOn of workload %s", a.host(), self.Workload))
		return
	}
	decision.Workload = self.Workload + " -> " + a.request.Target
	token, ok := a.attribute(tenancy)
	if !ok {
		return
	}
	if !a.triedOut() || !a.closed() {
		a.release()
		return
	}
	a.remove(propagation.HeaderTenantID, propagation.HeaderTenantTier, propagation.HeaderCell)
	if strings.HasPrefix(a.request.Target, "dependency/") {
		a.removeSent(propagation.HeaderPurpose) // it is for the mesh alone
	}
	if token == "" || strings.HasPrefix(a.request.Target, "dependency/") {
		a.remove(propagation.HeaderTxnToken)
		return
	}
	a.put(propagation.HeaderTxnToken, token)
}

func (a *attempt) host() string {
	host, _ := a.request.header(":authority")
	return host
}

// attribute proves which tenant the call belongs to, in the order of the ways there are to prove it. "" and true
// means none, where none is needed.
func (a *attempt) attribute(tenancy string) (token string, ok bool) {
	token, proof, ok := a.caused()
	if !ok {
		return "", false
	}
	if token == "" && !a.set.Self.BoundTenant.IsZero() {
		return a.mint()
	}
	a.Metrics.attributed(proof)
	if token == "" {
		if tenancy == "untenanted" || tenancy == "observe" { // what is called looks at it as it will
			a.answer.Decision.Proof, a.proof = "none: the target's tenancy is "+tenancy, coverage.None
			return "", true
		}
		return "", a.refuse(policy.ContextMissing, "the call carries no Txn-Token, traceparent or x-request-id of a request being served")
	}
	a.answer.Decision.Proof = "forwarded " + proof + " of a request being served"
	if a.proof = proof; proof == propagation.HeaderTxnToken {
		a.proof = coverage.Context
	}
	claims, ok := a.verify(token)
	if !ok {
		return "", false
	}
	if claims.Context.Role == tenanttoken.Replica {
		return "", a.refuse(policy.DeniedByPolicy, "the call is for a copy of a request that the owner's cell has taken: what it calls has been called there")
	}
	a.answer.Decision.TenantUID, a.answer.Decision.Tier = claims.Context.UID, claims.Context.Tier
	if t, ok := a.set.Tenant(a.answer.Decision.Tenant); ok {
		a.audited = t.Audited
	}
	return token, true
}

// caused finds the request that the call was made for; "" when the call names none.
func (a *attempt) caused() (token, proof string, ok bool) {
	if sent, n := a.request.header(propagation.HeaderTxnToken); n > 1 {
		return "", "", a.refuse(policy.ContextUnattributed, fmt.Sprintf("the call must carry one Txn-Token (got %d)", n))
	} else if n == 1 {
		return a.sentToken(sent)
	}
	for _, id := range a.ids() {
		if id.header == "" {
			continue
		}
		found, match := a.Attribution.Find(a.now, tenanttoken.DigestOf(id.text))
		switch {
		case match == attribution.Conflicted:
			return "", "", a.refuse(policy.ContextUnattributed, "the "+id.header+" is of requests of several tenants")
		case match == attribution.Unknown:
		case token != "" && !a.sameTenant(token, found):
			return "", "", a.refuse(policy.ContextUnattributed, "traceparent and x-request-id are of requests of two tenants")
		case token == "":
			token, proof = found, id.header
		}
	}
	return token, proof, true
}

func (a *attempt) sameTenant(one, other string) bool {
	if one == other {
		return true
	}
	verifier := a.verifiers.of(a.set.Self.TrustDomain)
	x, err := verifier.Verify(one, a.set.Keys, a.now)
	y, err2 := verifier.Verify(other, a.set.Keys, a.now)
	return err == nil && err2 == nil && x.Context.UID == y.Context.UID
}

// mint signs a context for the tenant that the workload is bound to; the transaction begins here, and is charged here.
func (a *attempt) mint() (token string, ok bool) {
	bound := a.set.Self.BoundTenant
	a.answer.Decision.Tenant, a.proof = bound.String(), coverage.Bound
	t, ok := a.tenant(bound)
	if !ok {
		return "", false
	}
	if t.Cell != a.set.Self.Cell {
		return "", a.misdirected("cell " + t.Cell + " owns the tenant that the workload is bound to")
	}
	if t.Moving() && a.writes() {
		return "", a.fenced("the tenant that the workload is bound to moves, and a write that does not enter by a gateway cannot follow")
	}
	if !a.admit(t, "", true) {
		return "", false
	}
	if a.InFlight.HungUp(a.request.Lease) {
		a.answer.HungUp = true
		a.release()
		return "", a.refuse(policy.Overloaded, "the service hung up before the decision")
	}
	a.answer.Decision.Proof = "the workload is bound to tenant " + bound.String()
	a.Metrics.attributed("bound")
	var keys []string
	for _, id := range a.ids() {
		if id.header != "" {
			keys = append(keys, tenanttoken.DigestOf(id.text).String())
		}
	}
	token, ok = a.sign(t, a.set.Self.Principal.String(), keys)
	if !ok {
		a.release()
	}
	return token, ok
}
