// Package dedupe answers WAS THIS EVENT HANDLED FOR THIS TENANT: consumers get events more than once, and each tenant's is handled once.
//
// Stores see a digest alone: SHA-256 of the tenant's incarnation and the event, each with its length before it, so that no two pairs are one
// key, and no store tells whose an event is.
//
// It imports identity/propagation.
package dedupe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
)

// Time is how long an event is remembered where nothing is said.
const Time = 7 * 24 * time.Hour

// Store keeps digests. Implementations may be used from many goroutines, and of two that put one digest at once, one is first.
type Store interface {
	// PutIfAbsent keeps a key for a time, and reports whether it was not there. On an error nothing is known of it.
	PutIfAbsent(ctx context.Context, key string, ttl time.Duration) (first bool, err error)
	// Remove forgets a key.
	Remove(ctx context.Context, key string) error
}

// Deduper remembers what was handled. It may be used from many goroutines.
type Deduper struct {
	Store Store
	TTL   time.Duration // 0: [Time]
}

// ErrNoEvent means that an event has no ID: nobody can tell whether it was handled.
var ErrNoEvent = errors.New("the event must have an ID")

// Do calls handle, unless the event was handled for the context's tenant, and reports whether it did. When handle fails, the event is forgotten, so
// that it may come again; when the process dies within, it is not: an event is handled at most once, and what must be handled at least once
// belongs into one transaction with its effect.
func (d *Deduper) Do(ctx context.Context, event string, handle func(context.Context) error) (did bool, err error) {
	t, ok := propagation.From(ctx)
	if !ok {
		return false, fmt.Errorf("event %q: %w", event, propagation.ErrMissing)
	}
	if event == "" {
		return false, ErrNoEvent
	}
	ttl := d.TTL
	if ttl == 0 {
		ttl = Time
	}
	key := Key(t.UID, event)
	first, err := d.Store.PutIfAbsent(ctx, key, ttl)
	if err != nil || !first {
		return false, err
	}
	if err := handle(ctx); err != nil {
		return true, errors.Join(err, d.Store.Remove(context.WithoutCancel(ctx), key))
	}
	return true, nil
}

// Key is the digest of an event of a tenant's incarnation, hexadecimal.
func Key(uid, event string) string {
	h := sha256.New()
	for _, part := range []string{uid, event} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		_, _ = h.Write(length[:]) // a hash does not fail (its package documentation)
		_, _ = h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Memory is a store of one process, for as long as that lives. It is bounded: where it is full, what is nearest to its end makes room. Use
// [NewMemory].
type Memory struct {
	most int
	now  func() time.Time

	mu    sync.Mutex
	until map[string]time.Time
}

// NewMemory returns an empty store of at most so many keys; 0: 1,000,000.
func NewMemory(most int) *Memory {
	if most <= 0 {
		most = 1_000_000
	}
	return &Memory{most: most, now: time.Now, until: map[string]time.Time{}}
}

// PutIfAbsent implements [Store].
func (m *Memory) PutIfAbsent(_ context.Context, key string, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if until, ok := m.until[key]; ok && now.Before(until) {
		return false, nil
	}
	if len(m.until) >= m.most {
		m.make(now)
	}
	m.until[key] = now.Add(ttl)
	return true, nil
}

// make makes room: of a few keys, in no order, it takes those that are over, or else the one that is nearest to it.
func (m *Memory) make(now time.Time) {
	nearest, looked := "", 0
	for key, until := range m.until {
		if !now.Before(until) {
			delete(m.until, key)
			continue
		}
		if nearest == "" || until.Before(m.until[nearest]) {
			nearest = key
		}
		if looked++; looked == 16 {
			break
		}
	}
	if len(m.until) >= m.most {
		delete(m.until, nearest)
	}
}

// Remove implements [Store].
func (m *Memory) Remove(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.until, key)
	return nil
}
