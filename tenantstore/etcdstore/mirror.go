package etcdstore

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// mirror is the store as the watch has it, so that a snapshot costs one small read and what changed, not the store.
type mirror struct {
	mu       sync.Mutex
	revision tenantstore.Revision // 0: not there yet
	objects  map[tenantstore.Key]*tenantstore.Object
	changed  chan struct{} // closed at the next change
}

// mirrorRetry is how soon a broken watch is made again.
const mirrorRetry = time.Second

// follow keeps the mirror until ctx ends.
func (m *mirror) follow(ctx context.Context, s *Store) {
	for ctx.Err() == nil {
		if err := m.once(ctx, s); err != nil && ctx.Err() == nil {
			m.set(0, nil)
			select {
			case <-ctx.Done():
			case <-time.After(mirrorRetry):
			}
		}
	}
}

func (m *mirror) once(ctx context.Context, s *Store) error {
	snapshot, err := s.read(ctx)
	if err != nil {
		return err
	}
	changes, err := s.Watch(ctx, snapshot.Revision)
	if err != nil {
		return err
	}
	m.set(snapshot.Revision, snapshot.Objects)
	for change := range changes {
		if change.Err != nil {
			return change.Err
		}
		m.apply(change)
	}
	return errors.New("the watch ended")
}

func (m *mirror) set(revision tenantstore.Revision, objects map[tenantstore.Key]*tenantstore.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision, m.objects = revision, objects
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *mirror) apply(change tenantstore.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range change.Put {
		m.objects[o.Key()] = o
	}
	for _, key := range change.Delete {
		delete(m.objects, key)
	}
	m.revision = change.Revision
	close(m.changed)
	m.changed = make(chan struct{})
}

// at returns the store at revision least or later; false when it does not come within patience.
func (m *mirror) at(ctx context.Context, least tenantstore.Revision, patience time.Duration) (tenantstore.Snapshot, bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		m.mu.Lock()
		if m.revision == 0 {
			m.mu.Unlock()
			return tenantstore.Snapshot{}, false
		}
		if m.revision >= least {
			defer m.mu.Unlock()
			return tenantstore.Snapshot{Revision: m.revision, Objects: maps.Clone(m.objects)}, true
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			return tenantstore.Snapshot{}, false
		case <-ctx.Done():
			return tenantstore.Snapshot{}, false
		}
	}
}
