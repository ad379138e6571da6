package policy

import "fmt"

// Reason says why a request was refused. The list is closed: a reason is at once the answer's
// x-tenantmesh-reason header, a metric label, the audit field and an anchor in docs/reasons.md.
// The zero value, [Permitted], is no refusal.
type Reason uint8

// The reasons, in the order of docs/reasons.md.
const (
	Permitted Reason = iota
	UnauthenticatedTenant
	UnauthenticatedPeer
	TenantUnknown
	TenantSuspended
	TenantDeleted
	ContextMissing
	ContextForeign
	ContextUnattributed
	ContextRevoked
	DeniedByPolicy
	Residency
	Misdirected
	RateLimited
	ConcurrencyLimited
	RetryBudget
	Overloaded
	WriteFenced
	BodyTooLarge
	BreakerOpen
	EnforcementUnavailable

	numReasons
)

type reasonInfo struct {
	name   string
	status int
	title  string
	advice string
}

var reasons = [numReasons]reasonInfo{
	Permitted:              {"", 200, "The request was permitted.", ""},
	UnauthenticatedTenant:  {"unauthenticated_tenant", 401, "No proven tenant.", "Send one valid bearer token of an issuer that may speak for the tenant."},
	UnauthenticatedPeer:    {"unauthenticated_peer", 401, "The peer has no SPIFFE identity of this mesh.", "Call through a sidecar or gateway that holds an SVID of the trust domain."},
	TenantUnknown:          {"tenant_unknown", 403, "The tenant does not exist.", "Check the tenant's name, or have an operator apply it."},
	TenantSuspended:        {"tenant_suspended", 403, "The tenant is suspended.", "Ask an operator to lift the suspension."},
	TenantDeleted:          {"tenant_deleted", 403, "The tenant, or this incarnation of it, is deleted.", "Get a token for the tenant as it is now."},
	ContextMissing:         {"context_missing", 403, "The call carries no tenant context that can be proven.", "Forward the Txn-Token, traceparent or x-request-id of the request being served, or bind the workload to one tenant."},
	ContextForeign:         {"context_foreign", 403, "The tenant context was not signed for this place, or was altered.", "Send the context as it was received; look at explain for the check that failed."},
	ContextUnattributed:    {"context_unattributed", 403, "The call's identifiers belong to no request, or to those of several tenants.", "Do not share or invent trace and request IDs across requests."},
	ContextRevoked:         {"context_revoked", 403, "The transaction of the tenant context was revoked.", "Begin a new one at the gateway; the audit says who revoked it, and why."},
	DeniedByPolicy:         {"denied_by_policy", 403, "No policy permits this, or one forbids it.", "Have the security team add a permit; explain names what was considered."},
	Residency:              {"residency", 403, "The tenant's data may not be served here.", "Place the tenant in a cell of its residency."},
	Misdirected:            {"misdirected", 421, "Another cell owns this tenant.", "Repeat the request through the gateway after Retry-After."},
	RateLimited:            {"rate_limited", 429, "The tenant's rate limit is used up.", "Wait as long as Retry-After says."},
	ConcurrencyLimited:     {"concurrency_limited", 429, "Too many of the tenant's requests are open.", "Wait until some are done."},
	RetryBudget:            {"retry_budget", 429, "Too many of the tenant's requests are repetitions.", "Repeat less, with backoff that grows; first tries pass."},
	Overloaded:             {"overloaded", 503, "The service is at its limit.", "Repeat later, with backoff."},
	WriteFenced:            {"write_fenced", 503, "The tenant is moving; writes are held.", "Repeat after Retry-After."},
	BodyTooLarge:           {"body_too_large", 413, "The tenant is moving, and the body is larger than can be kept for a repetition.", "Repeat after the move, or have an operator raise the bound."},
	BreakerOpen:            {"breaker_open", 503, "The dependency keeps failing for this tenant.", "Repeat after Retry-After."},
	EnforcementUnavailable: {"enforcement_unavailable", 503, "The decision could not be made.", "Repeat; if it lasts, look at the sidecar's health."},
}

// Reasons lists every reason but [Permitted], in order.
func Reasons() []Reason {
	list := make([]Reason, 0, numReasons-1)
	for r := Permitted + 1; r < numReasons; r++ {
		list = append(list, r)
	}
	return list
}

// String is the reason's name on the wire, "" for [Permitted].
func (r Reason) String() string { return reasons[r].name }

// Status is the reason's HTTP status code.
func (r Reason) Status() int { return reasons[r].status }

// Title is one sentence that says what is wrong, for problem+json's title (RFC 9457, section 3.1.4).
func (r Reason) Title() string { return reasons[r].title }

// Advice is one sentence that says what to do about it.
func (r Reason) Advice() string { return reasons[r].advice }

// ParseReason returns the reason of that name on the wire.
func ParseReason(name string) (Reason, error) {
	for _, r := range Reasons() {
		if reasons[r].name == name {
			return r, nil
		}
	}
	return Permitted, fmt.Errorf("reason must be one of the closed list in docs/reasons.md (got %q)", name)
}

// MarshalText implements [encoding.TextMarshaler].
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *Reason) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Permitted
		return nil
	}
	parsed, err := ParseReason(string(text))
	*r = parsed
	return err
}
