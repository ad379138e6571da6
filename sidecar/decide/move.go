package decide

import (
	"errors"
	"fmt"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Onward is where a request of a tenant that moves may go now.
type Onward struct {
	Cell  string
	Token string        // the context of the same transaction, for that cell
	Held  bool          // nowhere yet: the tenant's writes are fenced
	Hold  time.Duration // for how long, at most
}

// Onward decides again for a request that a gateway admitted and that its Go process holds. It counts the request under
// the epoch that it goes on by, so that a fence waits for it. When ok is false, the answer is a refusal.
func (d *Decider) Onward(request *Request) (onward Onward, answer Answer, ok bool) {
	a := &attempt{Decider: d, request: request, now: d.Now()}
	for range rounds {
		a.begin()
		a.answer.Decision.Revision = a.set.Revision
		if onward, ok = a.onward(); !a.stale {
			break
		}
	}
	if !ok {
		a.log()
	}
	return onward, a.answer, ok
}

// Refuse records a refusal of a request that was held.
func (d *Decider) Refuse(request *Request, reason policy.Reason, detail string) Answer {
	a := &attempt{Decider: d, request: request, now: d.Now()}
	a.begin()
	decision := &a.answer.Decision
	decision.Revision = a.set.Revision
	if token, n := request.header(propagation.HeaderTxnToken); n == 1 {
		if claims, ok := a.verify(token); ok {
			decision.TenantUID, decision.Tier = claims.Context.UID, claims.Context.Tier
		}
	}
	decision.RetryAfter = misdirectedRetry
	a.refuse(reason, detail)
	a.log()
	return a.answer
}

// ForData signs a context for the hooks of a tenant's data, for the owner's cell to read or for the other to write.
func (d *Decider) ForData(t *policyset.Tenant, cell string, role tenanttoken.Role) (string, error) {
	signer := d.Signer()
	if signer == nil {
		return "", errors.New("no signing key is in force")
	}
	now := d.Now()
	return signer.Sign(tenanttoken.Claims{
		Audience: d.Sets.Load().Self.TrustDomain, IssuedAt: now, Expiry: now.Add(contextLifetime), Txn: randomHex(16), Subject: "mover",
		Context: tenanttoken.Context{Tenant: t.ID, UID: t.UID, Tier: t.Tier, Cell: cell, Epoch: t.Epoch, Role: role, Purpose: tenanttoken.Export},
	})
}

func (a *attempt) log() {
	a.Log.Add(&a.answer.Decision)
	a.Metrics.decided(&a.answer.Decision)
	a.account()
}

func (a *attempt) onward() (Onward, bool) {
	token, n := a.request.header(propagation.HeaderTxnToken)
	if n != 1 {
		return Onward{}, a.refuse(policy.ContextMissing, fmt.Sprintf("the request must carry one tenant context (got %d)", n))
	}
	claims, ok := a.verify(token)
	if !ok {
		return Onward{}, false
	}
	t, ok := a.tenant(claims.Context.Tenant)
	if !ok || !a.placed(t) {
		return Onward{}, false
	}
	if t.UID != claims.Context.UID {
		return Onward{}, a.refuse(policy.TenantDeleted, "the context is of another incarnation of the tenant")
	}
	if !a.InFlight.Readmit(a.request.Lease, t.Epoch) {
		return Onward{}, a.refuse(policy.Overloaded, "the client hung up")
	}
	// Only now would a drain wait for it under this epoch.
	if now, ok := a.Sets.Load().Tenant(t.ID.String()); !ok || now.Placement != t.Placement {
		a.stale = true
		return Onward{}, a.misdirected("the tenant's placement changes")
	}
	if t.State == policyset.Fencing && (a.writes() || t.Shut) {
		return Onward{Held: true, Hold: t.Hold}, true
	}
	signer := a.Signer()
	if signer == nil {
		return Onward{}, a.refuse(policy.EnforcementUnavailable, "no signing key is in force")
	}
	fresh := *claims
	fresh.IssuedAt, fresh.Expiry = a.now, a.now.Add(contextLifetime)
	fresh.Context.Cell, fresh.Context.Epoch, fresh.Context.Role = t.Cell, t.Epoch, tenanttoken.Owner
	signed, err := signer.Sign(fresh)
	if err != nil {
		return Onward{}, a.refuse(policy.EnforcementUnavailable, "the context could not be signed: "+err.Error())
	}
	return Onward{Cell: t.Cell, Token: signed}, true
}
