package decisionlog

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// What is kept of one decision, at most: bytes of each text. Callers choose what they send.
const (
	maxPath = 1024
	maxText = 512
	maxID   = 256 // of a client's own
)

// MaxRules is how many policies are kept of one decision.
const MaxRules = 32

// A record is a decision as bytes: thousands of decisions are remembered, and as values their texts would keep all of
// the requests that they were cut from, and make the garbage collector look at each.

// text is one of a decision's, and how many bytes of it are kept.
type text struct {
	of   *string
	most int
}

// texts are those of a decision, in the order of its record; its ID and member are not in it.
func texts(d *policy.Decision) [18]text {
	return [...]text{
		{&d.Path, maxPath}, {&d.ClientRequestID, maxID}, {&d.ClientTraceparent, maxID},
		{&d.Point, maxText}, {&d.Cell, maxText}, {&d.Tenant, maxText}, {&d.TenantUID, maxText}, {&d.Tier, maxText}, {&d.Proof, maxText}, {&d.Principal, maxText},
		{&d.Authority, maxText}, {&d.RequestID, maxID},
		{&d.Workload, maxText}, {&d.Class, maxText}, {&d.Txn, maxText}, {&d.Method, maxText}, {&d.Detail, maxText}, {&d.Rule, maxText},
	}
}

// numbers are those of a decision.
func numbers(d *policy.Decision) [4]*int64 {
	return [...]*int64{&d.Revision, &d.Epoch, (*int64)(&d.RetryAfter), (*int64)(&d.Duration)}
}

// appendRecord appends the record of d.
func appendRecord(b []byte, d *policy.Decision) []byte {
	b = binary.AppendVarint(b, d.Time.UnixNano())
	b = append(b, byte(d.Reason))
	b = appendBool(b, d.Allowed)
	for _, text := range texts(d) {
		b = appendText(b, *text.of, text.most)
	}
	for _, number := range numbers(d) {
		b = binary.AppendVarint(b, *number)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Limits)))
	for i := range d.Limits {
		l := &d.Limits[i]
		b = appendText(b, l.Limit, maxText)
		for _, level := range [...]float64{l.Level, l.Of, l.Remaining} {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(level))
		}
		b = binary.AppendVarint(appendBool(b, l.Exceeded), int64(l.Retry))
	}
	return appendRules(b, d.Rules)
}

// appendRules appends as many as are kept; those that matched come first.
func appendRules(b []byte, rules []policy.RuleResult) []byte {
	n := min(len(rules), MaxRules)
	b = binary.AppendUvarint(b, uint64(n))
	for _, matched := range []bool{true, false} {
		for i := range rules {
			if r := &rules[i]; r.Matched == matched && n > 0 {
				n--
				for _, text := range [...]string{r.Rule, string(r.Effect), string(r.Mode), r.Why} {
					b = appendText(b, text, maxText)
				}
				b = appendBool(b, r.Matched)
			}
		}
	}
	return b
}

func appendBool(b []byte, value bool) []byte {
	if value {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendText appends text, and, where it is cut, how much of it is missing.
func appendText(b []byte, text string, most int) []byte {
	if len(text) > most {
		text = cut(text, most)
	}
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "... (" + strconv.Itoa(len(text)-most) + " bytes more)"
}

// record reads what appendRecord wrote.
type record struct{ rest []byte }

func decision(b []byte) (d policy.Decision) {
	r := record{slices.Clone(b)}
	d.Time = time.Unix(0, r.varint()).UTC()
	d.Reason, d.Allowed = policy.Reason(r.byte()), r.byte() == 1
	for _, text := range texts(&d) {
		*text.of = r.text()
	}
	for _, number := range numbers(&d) {
		*number = r.varint()
	}
	for range r.length() {
		l := policy.LimitResult{Limit: r.text(), Level: r.float(), Of: r.float(), Remaining: r.float(), Exceeded: r.byte() == 1, Retry: time.Duration(r.varint())}
		d.Limits = append(d.Limits, l)
	}
	for range r.length() {
		d.Rules = append(d.Rules, policy.RuleResult{Rule: r.text(), Effect: policy.Effect(r.text()), Mode: policy.Mode(r.text()), Why: r.text(), Matched: r.byte() == 1})
	}
	return d
}

func (r *record) take(n int) []byte {
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *record) byte() byte { return r.take(1)[0] }

func (r *record) varint() int64 {
	value, n := binary.Varint(r.rest)
	r.take(n)
	return value
}

func (r *record) length() int {
	value, n := binary.Uvarint(r.rest)
	r.take(n)
	return int(value)
}

func (r *record) text() string { return string(r.take(r.length())) }

func (r *record) float() float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(r.take(8)))
}
