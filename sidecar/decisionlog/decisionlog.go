// Package decisionlog remembers the last decisions of this sidecar, for `tenantmesh explain`, and writes each as one
// JSON line, within bounds that callers cannot choose. It may be used from many goroutines.
//
// It imports policy and zap.
package decisionlog

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Remembered is how many decisions are kept: a power of two.
const Remembered = 16384

// Log remembers decisions.
type Log struct {
	member string // what every ID begins with
	zap    *zap.Logger

	mu   sync.Mutex
	ring []remembered
	next uint64 // where in ring; an ID ends with where its decision is
}

// maxReused is the size of a record's memory that is used again for the next.
const maxReused = 4096

type remembered struct {
	id     uint64
	record []byte
}

// New returns a log of the member of that ID (at least 12 hex digits), which writes to log.
func New(member string, log *zap.Logger) *Log {
	return &Log{member: member[:12], zap: log}
}

// Add gives the decision its ID, remembers and writes it. What callers choose is written as JSON strings, so that
// no byte of theirs can begin a line of its own.
func (l *Log) Add(d *policy.Decision) {
	id := l.remember(rand.Uint64(), d)
	var text [64]byte
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], id)
	d.ID = string(hex.AppendEncode(append(append(text[:0], l.member...), '-'), number[:]))
	d.Member = l.member
	entry := l.zap.Check(zap.InfoLevel, "decision")
	if entry == nil {
		return
	}
	written := fields.Get().(*[]zap.Field)
	*written = append((*written)[:0], zap.String("decision", d.ID), zap.String("point", d.Point), zap.Bool("allowed", d.Allowed),
		zap.String("tenant", visible(cut(d.Tenant, maxText))), zap.String("principal", visible(cut(d.Principal, maxText))), zap.String("workload", visible(cut(d.Workload, maxText))),
		zap.String("method", visible(cut(d.Method, maxText))), zap.String("path", visible(cut(d.Path, maxPath))), zap.String("reason", d.Reason.String()), zap.String("rule", visible(cut(d.Rule, maxText))),
		zap.String("detail", visible(cut(d.Detail, maxText))), zap.Int64("revision", d.Revision), zap.Duration("duration", d.Duration),
		said("authority", visible(cut(d.Authority, maxText))), said("requestId", visible(cut(d.RequestID, maxID))),
		said("clientRequestId", visible(cut(d.ClientRequestID, maxID))), said("clientTraceparent", visible(cut(d.ClientTraceparent, maxID))))
	entry.Write(*written...)
	fields.Put(written)
}

// visible is text without what a terminal would obey, beyond what JSON escapes: a log is read on one, too.
func visible(text string) string {
	plain := true
	for i := range len(text) {
		plain = plain && text[i] < 0x7f
	}
	if plain {
		return text
	}
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return utf8.RuneError
		}
		return r
	}, text)
}

// hidden are the controls that JSON does not escape (C1, and DEL), and what changes the order of what is shown.
func hidden(r rune) bool {
	return r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}

// said is a field for what most decisions do not have.
func said(name, value string) zap.Field {
	if value == "" {
		return zap.Skip()
	}
	return zap.String(name, value)
}

var fields = sync.Pool{New: func() any { return new([]zap.Field) }}

// remember keeps a decision, and makes its ID of a random number and of where that is.
func (l *Log) remember(random uint64, d *policy.Decision) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < Remembered {
		l.ring = append(l.ring, remembered{})
	}
	kept := &l.ring[l.next]
	if cap(kept.record) > maxReused {
		kept.record = nil
	}
	kept.id, kept.record = random-random%Remembered+l.next, appendRecord(kept.record[:0], d)
	l.next = (l.next + 1) % Remembered
	return kept.id
}

// Find returns the decision of that ID, if it is still remembered.
func (l *Log) Find(id string) (policy.Decision, bool) {
	number, ok := strings.CutPrefix(id, l.member+"-")
	parsed, err := strconv.ParseUint(number, 16, 64)
	if !ok || err != nil || len(number) != 16 {
		return policy.Decision{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := parsed % Remembered
	if i >= uint64(len(l.ring)) || l.ring[i].id != parsed {
		return policy.Decision{}, false
	}
	d := decision(l.ring[i].record)
	d.ID, d.Member = id, l.member
	return d, true
}
