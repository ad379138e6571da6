package decide

import (
	"fmt"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// gateway decides where a transaction enters.
func (a *attempt) gateway() {
	client, _ := a.request.header(propagation.HeaderTraceparent)
	a.answer.Decision.ClientRequestID, _ = a.request.header(propagation.HeaderClientRequestID)
	a.answer.Decision.ClientTraceparent = client
	id, subject, ok := a.authenticate()
	if !ok {
		return
	}
	a.answer.Decision.Tenant = id.String()
	t, ok := a.tenant(id)
	if !ok || !a.placed(t) {
		return
	}
	if t.Moving() && a.stream() {
		a.fenced("upgrades wait until the tenant has moved")
		return
	}
	if !a.tried(t) || !a.admit(t, "", true) {
		return
	}
	a.answer.Decision.Txn = randomHex(16) // what is entered is known by it
	if !a.enter(t) {
		a.release()
		return
	}
	requestID, _ := a.request.header(propagation.HeaderRequestID)
	trace := randomHex(16)
	token, ok := a.sign(t, subject, []string{tenanttoken.KeyDigest(trace), tenanttoken.KeyDigest(requestID)})
	if !ok {
		a.release()
		return
	}
	a.answer.Decision.Cell = t.Cell
	a.put(propagation.HeaderTxnToken, token)
	if t.Moving() {
		a.put(propagation.HeaderCell, meshname.CellMove)
		a.put(propagation.HeaderTarget, a.request.Target)
	} else {
		a.put(propagation.HeaderCell, t.Cell)
	}
	a.put(propagation.HeaderTraceparent, "00-"+trace+"-"+randomHex(8)+"-"+sampled(client))
	if !a.request.ForwardAuthorization {
		a.remove("authorization")
	}
}

// tokenLetters are those of a JWT (RFC 7515, section 3.1).
const tokenLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// authenticate takes the tenant from the one token that Envoy verified.
func (a *attempt) authenticate() (id identity.TenantID, subject string, ok bool) {
	none := identity.TenantID{}
	value, n := a.request.header("authorization")
	if n > 1 {
		return none, "", a.refuse(policy.UnauthenticatedTenant, fmt.Sprintf("one Authorization header is read (got %d)", n))
	}
	var issuer *policyset.Issuer
	var claims Claims
	for i := range a.request.Tokens {
		found := a.set.Issuers[a.request.Tokens[i].Issuer]
		if found == nil {
			continue
		}
		if issuer != nil {
			return none, "", a.refuse(policy.UnauthenticatedTenant, "two tokens were sent")
		}
		issuer, claims = found, a.request.Tokens[i].Claims
	}
	if issuer == nil {
		detail := "no bearer token was sent"
		if a.request.TokenFailure != "" {
			detail = "the bearer token was not accepted: " + a.request.TokenFailure
		}
		return none, "", a.refuse(policy.UnauthenticatedTenant, detail)
	}
	// Envoy verifies the first token in it, and leaves it as it is: who reads it after the mesh might read another.
	if token, ok := strings.CutPrefix(value, "Bearer "); n == 1 && (!ok || strings.Trim(token, tokenLetters) != "") {
		return none, "", a.refuse(policy.UnauthenticatedTenant, "the Authorization header must hold one bearer token, and nothing else")
	}
	if age := a.Sets.Age(a.now); age > a.Staleness.Issuers {
		return none, "", a.refuse(policy.UnauthenticatedTenant, fmt.Sprintf("the issuers' keys are %v old, and are trusted for %v without the control plane", age.Round(time.Second), a.Staleness.Issuers))
	}
	if !issuer.Settled(a.now) || a.lasts() { // what lasts ends with the key that let it in
		var err error
		if a.key, err = issuer.Verify(value); err != nil {
			return none, "", a.refuse(policy.UnauthenticatedTenant, "the bearer token is not accepted by the keys that issuer "+issuer.Name+" has now: "+err.Error())
		}
	}
	subject = claims.Text("sub")
	a.issuer = issuer.Name
	a.answer.Decision.Principal = issuer.Name + "/" + subject
	id, err := identity.ParseTenantID(claims.Text(issuer.Claim))
	if err != nil {
		return none, "", a.refuse(policy.UnauthenticatedTenant, fmt.Sprintf("the token's claim %q: %v", issuer.Claim, err))
	}
	if !issuer.Speaks(id) {
		a.answer.Decision.Rule = "TokenIssuer/" + issuer.Name
		return none, "", a.refuse(policy.UnauthenticatedTenant, fmt.Sprintf("issuer %s may not speak for tenant %s", issuer.Name, id))
	}
	a.answer.Decision.Proof = "claim " + issuer.Claim + " of a verified token of issuer " + issuer.Name
	return id, subject, true
}

// placed checks that the tenant's cell exists and may serve it.
func (a *attempt) placed(t *policyset.Tenant) bool {
	residency, ok := a.set.Self.Cells[t.Cell]
	if !ok {
		return a.refuse(policy.EnforcementUnavailable, fmt.Sprintf("the tenant's cell %q is not known here", t.Cell))
	}
	if t.Residency != "" && residency != t.Residency {
		a.answer.Decision.Rule = "Tenant/" + t.ID.String()
		return a.refuse(policy.Residency, fmt.Sprintf("the tenant's data must stay in %q, and cell %s is in %q", t.Residency, t.Cell, residency))
	}
	return true
}
