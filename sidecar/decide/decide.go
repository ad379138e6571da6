package decide

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/policy/limit/breaker"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
	"github.com/tenantmesh/tenantmesh/policy/limit/heavy"
	"github.com/tenantmesh/tenantmesh/policy/limit/retry"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/audit"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/quota"
	"github.com/tenantmesh/tenantmesh/sidecar/shadow"
)

// Answer is what to do.
type Answer struct {
	Decision policy.Decision
	Fields   Fields      // when it is allowed
	Level    limit.Level // the strictest limit, when Limited
	Limited  bool
	Hidden   bool // nobody is told of the limits
	HungUp   bool // the end of the request was seen before the decision
}

// Config says what a decider stands on. Every field is required but those that say otherwise.
type Config struct {
	Sets        *policyset.Holder
	Limiter     *limit.Limiter
	Shares      *quota.Shares // what of limits that several members enforce may be used here; nil: all
	Attribution *attribution.Ledger
	InFlight    *inflight.Ledger
	Log         *decisionlog.Log
	Meter       *ledger.Meter
	Signer      func() *tenanttoken.Signer // nil while no key is in force
	Member      string                     // this member's ID
	Metrics     *Metrics
	Now         func() time.Time
	Staleness   Staleness
	Fair        *fair.Controller // of the service; nil: a new one
	Audit       *audit.Recorder  // nil: nothing is recorded
	Shadows     *shadow.Table    // of what policies that are only watched would do; nil: it is not counted
	Uses        *shadow.Table    // of the policies that permitted something; nil: it is not counted
	Coverage    *coverage.Table  // of how tenants were proven; nil: it is not counted
}

// Staleness bounds how long what was pushed counts while the control plane is out of reach; zero fields take the
// defaults named there. Routing and limits count as long as they last.
type Staleness struct {
	Grants  time.Duration // AccessGrants lapse; default 5 min
	Issuers time.Duration // token issuers' keys are not trusted any more; default 24 h
}

// outOfReach is the age at which the control plane counts as out of reach.
const outOfReach = 5 * time.Second

// How long things live.
const (
	contextLifetime = 5 * time.Minute
	maxClockSkew    = 30 * time.Second
	unknownRetry    = 10 * time.Second
)

// Decider decides.
type Decider struct {
	Config
	Use       *heavy.Sketch[Incarnation] // of those that ended here, and those that were refused
	Breakers  *breaker.Set
	Retries   *retry.Budgets
	verifiers verifiers
}

// New returns a decider.
func New(config Config) *Decider {
	if config.Staleness.Grants == 0 {
		config.Staleness.Grants = meshname.GrantTime
	}
	if config.Staleness.Issuers == 0 {
		config.Staleness.Issuers = meshname.IssuerTime
	}
	if config.Fair == nil {
		config.Fair = fair.New(0)
	}
	return &Decider{
		Config: config, Breakers: breaker.New(breaker.Options{Lifetime: meshname.LeaseTime}), Retries: retry.New(retry.Options{}), Use: heavy.New[Incarnation](heaviest),
	}
}

// attempt is one decision in the making.
type attempt struct {
	*Decider
	request *Request
	path    string // to match by
	spelled bool   // path is one
	set     *policyset.Set
	now     time.Time
	answer  Answer
	judged  authz.Request // what the policies are asked
	counted retry.Admission
	stale   bool // the tenant's placement changed meanwhile: the set is not the one to decide by
	place   place
	audited bool                 // the tenant asks for every decision
	issuer  string               // of the token that was verified
	key     policyset.Thumbprint // of the issuer's that signed it, where it was verified here

	differences differences
	permitted   string // the policy that permitted it
	proof       string // how the tenant was proven: one of coverage's; "" nobody has looked
}

// rounds bounds how often a decision is made again because the placement changed under it.
const rounds = 3

// Decide decides. It always returns an answer.
func (d *Decider) Decide(request *Request) Answer {
	a := attempts.Get().(*attempt)
	*a = attempt{Decider: d, request: request, now: d.Now()}
	decision := &a.answer.Decision
	for range rounds {
		a.begin()
		if a.judge(); !a.stale {
			break
		}
	}
	decision.Allowed = decision.Reason == policy.Permitted
	if !decision.Allowed {
		a.untry()
		a.answer.Fields = Fields{}
	}
	decision.Duration = d.Now().Sub(a.now)
	a.log()
	a.countPolicies()
	a.cover()
	answer := a.answer
	*a = attempt{} // nothing of it is kept
	attempts.Put(a)
	return answer
}

var attempts = sync.Pool{New: func() any { return &attempt{} }}

// begin begins a decision, or begins it anew, by the set in force.
func (a *attempt) begin() {
	a.untry()
	a.set, a.stale, a.answer, a.place, a.audited, a.issuer, a.differences.n, a.permitted = a.Sets.Load(), false, Answer{}, place{}, false, "", 0, ""
	a.key, a.proof = policyset.Thumbprint{}, ""
	decision := &a.answer.Decision
	decision.Time, decision.Method, decision.Point = a.now.UTC(), a.request.Method, a.request.Listener
	decision.Path, _ = authz.SplitPath(a.request.Path)
	decision.Authority = a.host()
	decision.RequestID, _ = a.request.header(propagation.HeaderRequestID)
	a.path, a.spelled = authz.Canonical(decision.Path)
}

func (a *attempt) judge() {
	if a.set == nil || a.set.Self == nil {
		a.refuse(policy.EnforcementUnavailable, "no configuration has arrived yet")
		return
	}
	if !a.spelling() {
		return
	}
	decision := &a.answer.Decision
	decision.Revision, decision.Cell, decision.Workload = a.set.Revision, a.set.Self.Cell, a.set.Self.Workload
	switch a.request.Listener {
	case meshname.ListenerGateway:
		a.gateway()
	case meshname.ListenerInbound:
		a.inbound()
	case meshname.ListenerOutbound:
		a.outbound()
	case meshname.ListenerCaptured:
		a.connection()
	default:
		a.refuse(policy.EnforcementUnavailable, "the request came by a listener that is not known: "+a.request.Listener)
	}
}

// refuse makes the answer a refusal. It returns false, so that a check can end with it.
func (a *attempt) refuse(reason policy.Reason, detail string) bool {
	a.answer.Decision.Reason, a.answer.Decision.Detail = reason, detail
	return false
}

func (a *attempt) put(name, value string) { a.answer.Fields.Put(Field{Name: name, Value: value}) }

func (a *attempt) remove(names ...string) {
	for _, name := range names {
		a.answer.Fields.Put(Field{Name: name, Remove: true})
	}
}

// tenant looks up a tenant and refuses one that may not be served; it does not look at placement.
func (a *attempt) tenant(id identity.TenantID) (*policyset.Tenant, bool) {
	t, ok := a.set.Tenant(id.String())
	if !ok {
		if age := a.Sets.Age(a.now); age > outOfReach {
			// It may be a new one.
			a.answer.Decision.RetryAfter = unknownRetry
			return nil, a.refuse(policy.EnforcementUnavailable, fmt.Sprintf("no tenant %s is known here, and the control plane has not been heard for %v", id, age.Round(time.Second)))
		}
		return nil, a.refuse(policy.TenantUnknown, "no tenant "+id.String()+" is served here")
	}
	a.answer.Decision.Tenant = t.ID.String() // what is counted under it keeps no message alive
	a.answer.Decision.TenantUID, a.answer.Decision.Tier, a.answer.Decision.Epoch = t.UID, t.Tier, t.Epoch
	a.audited = t.Audited
	switch t.Phase {
	case "Active":
		return t, a.limitsKnown(t)
	case "Suspended":
		return nil, a.refuse(policy.TenantSuspended, "tenant "+id.String()+" is suspended")
	case "Deleting", "Deleted":
		return nil, a.refuse(policy.TenantDeleted, "tenant "+id.String()+" is deleted")
	default:
		return nil, a.refuse(policy.EnforcementUnavailable, "tenant "+id.String()+" has no cell yet")
	}
}

// admit counts the request against its limits.
func (a *attempt) admit(t *policyset.Tenant, class string, chargeTenant bool) bool {
	verdict := a.Shares.Admit(a.Limiter, a.now, t.ID.String(), &limit.Request{
		UID: t.UID, Class: class, Limits: t.Limits, ChargeTenant: chargeTenant, Lease: a.request.Lease, LeaseTTL: meshname.LeaseTime,
	})
	decision := &a.answer.Decision
	decision.Class = class
	decision.Limits = a.request.limits[:0]
	for _, level := range verdict.Levels() {
		decision.Limits = append(decision.Limits, policy.LimitResult{
			Limit: level.Kind.String(), Level: level.Of - level.Remaining, Of: level.Of, Remaining: level.Remaining, Exceeded: level.Exceeded, Retry: level.Retry,
		})
	}
	a.answer.Level, a.answer.Limited = verdict.Strictest()
	a.answer.Hidden = a.set.Self.HideLimits[strings.TrimPrefix(cmp.Or(a.request.Target, a.set.Self.Workload), "workload/")]
	if verdict.Reason == policy.Permitted {
		return true
	}
	decision.RetryAfter = max(a.answer.Level.Retry, time.Second)
	decision.Rule = a.answer.Level.Kind.String()
	return a.refuse(verdict.Reason, "the "+a.answer.Level.Kind.String()+" of tenant "+t.ID.String()+" is used up")
}

// release gives back what a request took that is refused after all; Envoy reports no end of it.
func (a *attempt) release() {
	a.Limiter.Release(a.now, a.request.Lease)
	a.Attribution.Close(a.now, a.request.Lease)
	a.InFlight.End(a.now, a.request.Lease, true)
	a.Fair.Done(a.now, a.place.ticket, fair.Answered{})
}

// writes reports whether the request may change something; an upgrade or a CONNECT counts as one that does.
// Safe methods are those of RFC 9110, section 9.2.1.
func (a *attempt) writes() bool {
	switch a.request.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return a.stream()
	default:
		return true
	}
}

// fenced refuses a write of a tenant that moves.
func (a *attempt) fenced(detail string) bool {
	a.answer.Decision.RetryAfter = misdirectedRetry
	return a.refuse(policy.WriteFenced, detail)
}

// verify checks a context that came with the request.
func (a *attempt) verify(token string) (*tenanttoken.Claims, bool) {
	claims, err := a.verifiers.of(a.set.Self.TrustDomain).Verify(token, a.set.Keys, a.now)
	switch {
	case err == nil:
		a.answer.Decision.Tenant, a.answer.Decision.Txn = claims.Context.Tenant.String(), claims.Txn
		// A copy repeats what the owner's cell has taken: without it the two would differ.
		if a.set.Revoked[claims.Txn] && claims.Context.Role != tenanttoken.Replica {
			return nil, a.refuse(policy.ContextRevoked, "transaction "+claims.Txn+" was revoked")
		}
		return claims, true
	case errors.Is(err, tenanttoken.ErrExpired):
		return nil, a.refuse(policy.ContextMissing, err.Error())
	default:
		return nil, a.refuse(policy.ContextForeign, err.Error())
	}
}

// sign makes the context of a transaction that begins here.
func (a *attempt) sign(t *policyset.Tenant, subject string, keys []string) (token string, ok bool) {
	signer := a.Signer()
	if signer == nil {
		return "", a.refuse(policy.EnforcementUnavailable, "no signing key is in force yet")
	}
	decision := &a.answer.Decision
	if decision.Txn == "" {
		decision.Txn = randomHex(16)
	}
	token, err := signer.Sign(tenanttoken.Claims{
		Audience: a.set.Self.TrustDomain, IssuedAt: a.now, Expiry: a.now.Add(contextLifetime), Txn: decision.Txn, Subject: subject,
		Context: tenanttoken.Context{
			Tenant: t.ID, UID: t.UID, Tier: t.Tier, Cell: t.Cell, Epoch: t.Epoch, Role: tenanttoken.Owner, Purpose: tenanttoken.Request, Keys: keys,
		},
	})
	if err != nil {
		return "", a.refuse(policy.EnforcementUnavailable, "the context could not be signed: "+err.Error())
	}
	return token, true
}

func randomHex(bytes int) string {
	buffer := make([]byte, bytes)
	_, _ = rand.Read(buffer) // does not fail (its package documentation)
	return hex.EncodeToString(buffer)
}

// traceID is the trace ID of a traceparent (W3C Trace Context, section 3.2), "" when it is malformed.
func traceID(traceparent string) string {
	version, rest, ok := strings.Cut(traceparent, "-")
	id, rest, ok2 := strings.Cut(rest, "-")
	if !ok || !ok2 || !strings.Contains(rest, "-") || len(version) != 2 || len(id) != 32 {
		return ""
	}
	zero := true
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
		zero = zero && id[i] == '0'
	}
	if zero {
		return ""
	}
	return id
}

// sampled are the flags of a new traceparent: the client's wish to be sampled is kept.
func sampled(traceparent string) string {
	if traceID(traceparent) != "" && strings.HasSuffix(traceparent, "-01") {
		return "01"
	}
	return "00"
}
