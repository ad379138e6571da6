// Package memstore is a tenantstore.Store in memory, for tests and for tools that read files.
//
// # Concurrency
//
// One mutex guards all. Each watcher is a goroutine that reads the log of changes at its own pace.
//
// It imports tenantstore and ledger.
package memstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// logLength is how many changes a watcher may be behind, at least.
const logLength = 4096

// Store is a store in memory.
type Store struct {
	done chan struct{}

	mu      sync.Mutex
	closed  bool
	objects map[tenantstore.Key]*tenantstore.Object
	log     []tenantstore.Change // the last logLength, or up to twice as many
	head    ledger.Head
	events  []ledger.Event
	rev     tenantstore.Revision
	changed chan struct{} // closed at the next change
	leads   map[string]chan struct{}
	live    map[string]struct{}
}

// New returns an empty store.
func New() *Store {
	return &Store{objects: map[tenantstore.Key]*tenantstore.Object{}, changed: make(chan struct{}), done: make(chan struct{}), leads: map[string]chan struct{}{}, live: map[string]struct{}{}}
}

// Apply implements [tenantstore.Store].
func (s *Store) Apply(ctx context.Context, tx tenantstore.Transaction) (tenantstore.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if tx.Expect != s.rev {
		return 0, tenantstore.ErrConflict
	}
	for _, key := range tx.Delete {
		if s.objects[key] == nil {
			return 0, fmt.Errorf("delete %v: %w", key, tenantstore.ErrNotFound)
		}
	}
	s.rev++
	change := tenantstore.Change{Revision: s.rev, Delete: tx.Delete}
	for _, object := range tx.Put {
		put := object.Clone()
		put.Metadata.Revision = s.rev
		s.objects[put.Key()] = put
		change.Put = append(change.Put, put)
	}
	for _, key := range tx.Delete {
		delete(s.objects, key)
	}
	for _, event := range tx.Events {
		event, s.head = s.head.Seal(event)
		s.events = append(s.events, event)
	}
	if len(s.log) == 2*logLength {
		s.log = slices.Clone(s.log[logLength:])
	}
	s.log = append(s.log, change)
	close(s.changed)
	s.changed = make(chan struct{})
	return s.rev, nil
}

// Snapshot implements [tenantstore.Store].
func (s *Store) Snapshot(context.Context) (tenantstore.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tenantstore.Snapshot{Revision: s.rev, Objects: maps.Clone(s.objects)}, nil
}

// Watch implements [tenantstore.Store].
func (s *Store) Watch(ctx context.Context, after tenantstore.Revision) (<-chan tenantstore.Change, error) {
	if _, _, err := s.since(after); err != nil {
		return nil, err
	}
	out := make(chan tenantstore.Change)
	go func() {
		defer close(out)
		for {
			changes, more, err := s.since(after)
			if err != nil {
				changes = []tenantstore.Change{{Err: err}}
			}
			for _, change := range changes {
				select {
				case out <- change:
					after = change.Revision
				case <-ctx.Done():
					return
				case <-s.done:
					return
				}
			}
			if err != nil {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			case <-s.done:
				return
			}
		}
	}()
	return out, nil
}

// since returns the changes after a revision, and what is closed at the next one.
func (s *Store) since(after tenantstore.Revision) ([]tenantstore.Change, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.rev - int64(len(s.log)) // the revision before the log
	if after < first {
		return nil, nil, tenantstore.ErrCompacted
	}
	return s.log[min(after-first, int64(len(s.log))):], s.changed, nil
}

// Events implements [tenantstore.Store].
func (s *Store) Events(_ context.Context, after int64, limit int) ([]ledger.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := min(max(0, after), int64(len(s.events)))
	to := min(from+int64(limit), int64(len(s.events)))
	return append([]ledger.Event(nil), s.events[from:to]...), nil
}

// Head implements [tenantstore.Store].
func (s *Store) Head(context.Context) (ledger.Head, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head, nil
}

// Close implements [tenantstore.Store].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	return nil
}

// Compact forgets the changes up to now, as a store does in time.
func (s *Store) Compact(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
	return nil
}

// Lead implements [tenantstore.Store].
func (s *Store) Lead(ctx context.Context, name string, work func(context.Context) error) error {
	s.mu.Lock()
	lead := s.leads[name]
	if lead == nil {
		lead = make(chan struct{}, 1)
		s.leads[name] = lead
	}
	s.mu.Unlock()
	select {
	case lead <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errors.New("the store is closed")
	}
	defer func() { <-lead }()
	return work(ctx)
}

// Present implements [tenantstore.Store].
func (s *Store) Present(ctx context.Context, id string) error {
	s.mu.Lock()
	s.live[id] = struct{}{}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, id)
	return nil
}

// Live implements [tenantstore.Store].
func (s *Store) Live(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.live)), nil
}
