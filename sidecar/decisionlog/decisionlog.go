// Package decisionlog remembers the last decisions of this sidecar, for `tenantmesh explain`, and writes each as one
// JSON line, within bounds that callers cannot choose. It may be used from many goroutines.
//
// It imports policy and zap.
package decisionlog

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Remembered is how many decisions are kept.
const Remembered = 16384

// Log remembers decisions.
type Log struct {
	member string // what every ID begins with
	zap    *zap.Logger

	mu   sync.Mutex
	ring []policy.Decision
	next int
	byID map[string]int
}

// New returns a log of the member of that ID (at least 12 hex digits), which writes to log.
func New(member string, log *zap.Logger) *Log {
	return &Log{member: member[:12], zap: log, byID: map[string]int{}}
}

// Add gives the decision its ID, remembers and writes it. What callers choose is written as JSON strings, so that
// no byte of theirs can begin a line of its own.
func (l *Log) Add(d *policy.Decision) {
	var random [8]byte
	binary.BigEndian.PutUint64(random[:], rand.Uint64())
	d.ID = l.member + "-" + hex.EncodeToString(random[:])
	d.Member = l.member
	kept := bounded(d)
	d = &kept
	l.mu.Lock()
	if len(l.ring) < Remembered {
		l.ring = append(l.ring, kept)
	} else {
		delete(l.byID, l.ring[l.next].ID)
		l.ring[l.next] = kept
	}
	l.byID[d.ID] = l.next
	l.next = (l.next + 1) % Remembered
	l.mu.Unlock()
	l.zap.Info("decision", zap.String("decision", d.ID), zap.String("point", d.Point), zap.Bool("allowed", d.Allowed),
		zap.String("tenant", d.Tenant), zap.String("principal", d.Principal), zap.String("workload", d.Workload),
		zap.String("method", d.Method), zap.String("path", d.Path), zap.Stringer("reason", d.Reason), zap.String("rule", d.Rule),
		zap.String("detail", d.Detail), zap.Int64("revision", d.Revision), zap.Duration("duration", d.Duration),
		said("clientRequestId", d.ClientRequestID), said("clientTraceparent", d.ClientTraceparent))
}

// said is a field for what most decisions do not have.
func said(name, value string) zap.Field {
	if value == "" {
		return zap.Skip()
	}
	return zap.String(name, value)
}

// What is kept of one decision, at most: bytes of each text, and policies. Callers choose what they send.
const (
	maxPath  = 1024
	maxText  = 512
	maxID    = 256 // of a client's own
	maxRules = 32
)

// bounded is the decision with texts of its own, cut where they are too long: those of the request would keep all of it.
// Of the policies, those that matched come first.
func bounded(d *policy.Decision) policy.Decision {
	kept := *d
	for _, text := range []*string{&kept.Tenant, &kept.Proof, &kept.Principal, &kept.Workload, &kept.Class, &kept.Txn, &kept.Method, &kept.Detail, &kept.Rule} {
		*text = cut(*text, maxText)
	}
	kept.Path, kept.ClientRequestID, kept.ClientTraceparent = cut(kept.Path, maxPath), cut(kept.ClientRequestID, maxID), cut(kept.ClientTraceparent, maxID)
	kept.Rules = nil
	for _, matched := range []bool{true, false} {
		for _, rule := range d.Rules {
			if rule.Matched == matched && len(kept.Rules) < maxRules {
				rule.Why = cut(rule.Why, maxText)
				kept.Rules = append(kept.Rules, rule)
			}
		}
	}
	return kept
}

// cut copies text, and says how much of it is missing.
func cut(text string, most int) string {
	if len(text) <= most {
		return strings.Clone(text)
	}
	return strings.ToValidUTF8(text[:most], "") + fmt.Sprintf("... (%d bytes more)", len(text)-most)
}

// Find returns the decision of that ID, if it is still remembered.
func (l *Log) Find(id string) (policy.Decision, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := l.byID[id]
	if !ok {
		return policy.Decision{}, false
	}
	return l.ring[i], true
}
