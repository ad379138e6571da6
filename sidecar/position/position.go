// Package position answers HOW FAR AM I: for each tenant that moves, the epoch that this member has applied and keeps
// on its disk, and whether what it admitted before has ended. A move goes on by these reports alone, so nothing is
// said here before it is true after a crash too.
//
// # Concurrency
//
// A [Tracker] may be used from many goroutines.
//
// It imports api, sidecar/policyset and sidecar/inflight.
package position

import (
	"cmp"
	"slices"
	"sync"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Tracker knows the positions.
type Tracker struct {
	inflight *inflight.Ledger

	mu      sync.Mutex
	saved   *policyset.Set
	copies  map[string]copied // by tenant
	changed chan struct{}
}

// New returns a tracker of the requests of a ledger.
func New(ledger *inflight.Ledger) *Tracker {
	return &Tracker{inflight: ledger, changed: make(chan struct{}), copies: map[string]copied{}}
}

// Saved notes that a set is in force, and is on the disk (fsync).
func (t *Tracker) Saved(set *policyset.Set) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.saved = set
	t.signal()
}

// Copied notes what this member did, as the mover of a tenant, at an epoch.
func (t *Tracker) Copied(tenant string, epoch int64, copies []*api.Copy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.copies[tenant] = copied{epoch, copies}
	t.signal()
}

func (t *Tracker) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

type copied struct {
	epoch  int64
	copies []*api.Copy
}

// Positions are those of the tenants that move, by name. changed is closed when there are others.
func (t *Tracker) Positions(now time.Time) (positions []*api.Position, changed <-chan struct{}) {
	t.mu.Lock()
	set, changed := t.saved, t.changed
	t.mu.Unlock()
	for name, tenant := range set.Moving() {
		older, streams := t.inflight.Older(now, tenant.UID, tenant.Epoch)
		if !tenant.EndsStreams() {
			older -= streams // they are ended when the tenant is fenced
		}
		position := &api.Position{Tenant: name, TenantUid: tenant.UID, Epoch: tenant.Epoch, Drained: older == 0}
		t.mu.Lock()
		if c, ok := t.copies[name]; ok && c.epoch == tenant.Epoch {
			position.Copies = c.copies
		} else if ok && c.epoch < tenant.Epoch {
			delete(t.copies, name)
		}
		t.mu.Unlock()
		positions = append(positions, position)
	}
	slices.SortFunc(positions, func(a, b *api.Position) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return positions, changed
}
