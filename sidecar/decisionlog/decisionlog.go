// Package decisionlog remembers the last decisions of this sidecar, for `tenantmesh explain`, and writes each as one
// JSON line. It may be used from many goroutines.
//
// It imports policy and zap.
package decisionlog

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
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

// Add gives the decision its ID, remembers and writes it. The tenant and the path are written as JSON strings, so
// that no byte of theirs can begin a line of its own.
func (l *Log) Add(d *policy.Decision) {
	var random [8]byte
	binary.BigEndian.PutUint64(random[:], rand.Uint64())
	d.ID = l.member + "-" + hex.EncodeToString(random[:])
	d.Member = l.member
	l.mu.Lock()
	if len(l.ring) < Remembered {
		l.ring = append(l.ring, *d)
	} else {
		delete(l.byID, l.ring[l.next].ID)
		l.ring[l.next] = *d
	}
	l.byID[d.ID] = l.next
	l.next = (l.next + 1) % Remembered
	l.mu.Unlock()
	l.zap.Info("decision", zap.String("decision", d.ID), zap.String("point", d.Point), zap.Bool("allowed", d.Allowed),
		zap.String("tenant", d.Tenant), zap.String("principal", d.Principal), zap.String("workload", d.Workload),
		zap.String("method", d.Method), zap.String("path", d.Path), zap.Stringer("reason", d.Reason), zap.String("rule", d.Rule),
		zap.String("detail", d.Detail), zap.Int64("revision", d.Revision), zap.Duration("duration", d.Duration))
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
