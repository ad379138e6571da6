package trail

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Kind is what an event is about.
type Kind string

// The kinds.
const (
	Decision Kind = "decision" // one decision; Suppressed says how many alike were not written before it
	Summary  Kind = "summary"  // Suppressed refusals of one reason, none of which was written on its own
	Gap      Kind = "gap"      // Lost events were not kept: there was no room for them, or the disk failed
	Restart  Kind = "restart"  // the process before this one ended without a farewell: what it had not written yet is gone
)

// Event is one event of a stream. Its fields are fixed: docs/audit.md has them, and a field that is added is added there.
// What callers choose is cut to a length, and written as a JSON string, so that no byte of theirs can begin a line.
type Event struct {
	Sequence   int64     `json:"sequence"`             // 1, 2, 3, ... in its stream
	Time       time.Time `json:"time"`                 // UTC
	Kind       Kind      `json:"kind"`                 // decision, summary, gap, restart
	Tenant     string    `json:"tenant,omitempty"`     // its name; "" for what was refused before a tenant was known
	TenantUID  string    `json:"tenantUid,omitempty"`  // of its incarnation; the stream is that incarnation's
	Member     string    `json:"member"`               // who decided
	Decision   string    `json:"decision,omitempty"`   // its ID, as x-tenantmesh-decision has it
	Point      string    `json:"point,omitempty"`      // gateway, inbound, outbound; stream: one that was open, and was ended
	Cell       string    `json:"cell,omitempty"`       // where
	Workload   string    `json:"workload,omitempty"`   // what was asked
	Principal  string    `json:"principal,omitempty"`  // who asked: a SPIFFE ID, or a token's issuer and subject
	Method     string    `json:"method,omitempty"`     // of the request
	Path       string    `json:"path,omitempty"`       // of the request, no query
	Txn        string    `json:"txn,omitempty"`        // the transaction, from the tenant context
	Allowed    bool      `json:"allowed"`              // the decision
	Reason     string    `json:"reason,omitempty"`     // of a refusal, see docs/reasons.md
	Detail     string    `json:"detail,omitempty"`     // the sentence that says what was wrong
	Rule       string    `json:"rule,omitempty"`       // the policy or setting that decided
	Grant      string    `json:"grant,omitempty"`      // the AccessGrant that was used
	BreakGlass bool      `json:"breakGlass,omitempty"` // nobody else had approved the grant
	Purpose    string    `json:"purpose,omitempty"`    // why the grant was used, in the caller's words
	Revision   int64     `json:"revision,omitempty"`   // of the store, by which it was decided
	Epoch      int64     `json:"epoch,omitempty"`      // of the tenant's placement
	Suppressed int64     `json:"suppressed,omitempty"` // refusals of the same reason that were counted, not written
	Lost       int64     `json:"lost,omitempty"`       // of a gap: events that were not kept
	From       time.Time `json:"from,omitzero"`        // of what was suppressed or lost: the first
	To         time.Time `json:"to,omitzero"`          // and the last
}

// Bounds of what callers choose, in bytes.
const (
	maxText = 256
	maxPath = 1024
)

// Clean cuts and cleans what callers choose. The result keeps no memory of theirs.
func (e *Event) Clean() {
	e.Path = clean(e.Path, maxPath)
	for _, text := range []*string{&e.Tenant, &e.TenantUID, &e.Member, &e.Decision, &e.Point, &e.Cell, &e.Workload, &e.Principal, &e.Method, &e.Txn, &e.Reason, &e.Detail, &e.Rule, &e.Grant, &e.Purpose} {
		*text = clean(*text, maxText)
	}
}

func clean(text string, most int) string {
	if text == "" {
		return ""
	}
	missing := ""
	if len(text) > most {
		missing = "... (" + strconv.Itoa(len(text)-most) + " bytes more)"
		text = text[:most]
	}
	return strings.Clone(strings.ToValidUTF8(text, "\ufffd")) + missing
}

// encode is the event as it is hashed and kept.
func (e *Event) encode() json.RawMessage {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // a year over 9999: no clock shows it
	}
	return text
}

// Crosses reports whether a refusal kept someone from what is another tenant's, or may be.
func (e *Event) Crosses() bool {
	switch e.Reason {
	case "context_foreign", "context_unattributed", "denied_by_policy", "tenant_deleted", "unauthenticated_tenant", "unauthenticated_peer", "residency":
		return !e.Allowed
	default:
		return false
	}
}
