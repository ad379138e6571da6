package decide

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Onward is where a request of a tenant that moves may go now.
type Onward struct {
	Cell   string
	Token  string              // the context of the same transaction, for that cell
	Held   bool                // nowhere yet: the tenant's writes are fenced, or its mover is out of reach
	Hold   time.Duration       // for how long, at most
	Repeat *policyset.Tenant   // set: a write that this member, as the tenant's mover, repeats at the other cell
	Claims *tenanttoken.Claims // of Repeat: what the repetition's context is made from
	Via    string              // host:port of the gateway that is the tenant's mover, and must take the write instead
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
		return "", errNoKey
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
	a.record()
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
	if a.request.Forwarded {
		if a.InFlight.Begin(a.request.Lease, inflight.Request{Tenant: t.ID, UID: t.UID, Epoch: t.Epoch, Since: a.now}) != inflight.Begun {
			return Onward{}, a.refuse(policy.Overloaded, "too many requests are open")
		}
	} else if !a.InFlight.Readmit(a.request.Lease, t.Epoch) {
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
	onward := Onward{Cell: t.Cell, Claims: claims}
	if a.twice(t) {
		if t.Mover != a.Member {
			via := a.set.Self.Movers[t.Mover]
			return Onward{Held: via == "" || a.request.Forwarded, Hold: misdirectedRetry, Via: via}, true
		}
		onward.Repeat = t
	} else if a.request.Forwarded {
		return Onward{Held: true}, true
	}
	var err error
	if onward.Token, err = a.Again(claims, t, t.Cell, tenanttoken.Owner); err != nil {
		return Onward{}, a.refuse(policy.EnforcementUnavailable, "the context could not be signed: "+err.Error())
	}
	return onward, true
}

// twice reports whether the request is a write that both cells must get, which only the tenant's mover can see to.
func (a *attempt) twice(t *policyset.Tenant) bool {
	if t.State != policyset.Migrating || t.Mover == "" || !a.writes() {
		return false
	}
	workload, ok := strings.CutPrefix(a.request.Target, "workload/")
	return ok && a.set.Self.Strategy(workload) == policyset.StrategyDualWrite
}

// Again signs the context of a transaction anew, for a cell of a tenant that moves.
func (d *Decider) Again(claims *tenanttoken.Claims, t *policyset.Tenant, cell string, role tenanttoken.Role) (string, error) {
	signer := d.Signer()
	if signer == nil {
		return "", errNoKey
	}
	fresh, now := *claims, d.Now()
	fresh.IssuedAt, fresh.Expiry = now, now.Add(contextLifetime)
	fresh.Context.Cell, fresh.Context.Epoch, fresh.Context.Role = cell, t.Epoch, role
	return signer.Sign(fresh)
}

var errNoKey = errors.New("no signing key is in force")
