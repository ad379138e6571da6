package decide

import (
	"strings"
	"unicode"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/audit"
)

// maxPurpose bounds the reason for the use of a grant, in bytes.
const maxPurpose = 200

// purpose is why the caller uses an AccessGrant, in its words: one header, printable, at most [maxPurpose] bytes. "" when it
// is none. The service does not get it.
func (a *attempt) purpose() string {
	sent, n := a.request.header(propagation.HeaderPurpose)
	if n == 0 {
		return ""
	}
	a.removeSent(propagation.HeaderPurpose)
	sent = strings.TrimSpace(sent)
	if n != 1 || len(sent) > maxPurpose || strings.ContainsFunc(sent, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return ""
	}
	return sent
}

// removeSent takes out a header that the request has.
func (a *attempt) removeSent(name string) {
	if _, n := a.request.header(name); n > 0 {
		a.remove(name)
	}
}

// record hands over what leaves an audit event: refusals, uses of grants, and what the tenant or the policy asks for.
func (a *attempt) record() {
	d := &a.answer.Decision
	if a.Audit == nil {
		return
	}
	if !d.Allowed {
		a.Audit.Record(d, audit.Why{})
		return
	}
	rule, ok := a.set.Policies.Audited(d.Rule)
	if !ok && !a.audited {
		return
	}
	a.Audit.Record(d, audit.Why{Grant: rule.Grant, BreakGlass: rule.Unproven, Purpose: a.judged.Purpose})
}
