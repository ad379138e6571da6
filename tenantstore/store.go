package tenantstore

import (
	"context"
	"errors"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Store is where objects live. Its contract is tenantstore/storetest; memstore and etcdstore keep it.
type Store interface {
	// Apply writes all of tx or nothing, as one compare-and-set, and returns the new revision.
	// It fails with [ErrConflict] when tx.Expect is not the store's revision any more, so a writer reads a
	// Snapshot, validates against it, and applies what it made of it: nothing dangling can slip in between.
	// The events of tx are appended to the audit chain in the same transaction.
	Apply(ctx context.Context, tx Transaction) (Revision, error)

	// Snapshot returns every object at one revision.
	Snapshot(ctx context.Context) (Snapshot, error)

	// Watch calls for every change after revision after, in order and none twice, until ctx ends (then the
	// channel is closed). It fails with [ErrCompacted] when after is too old: take a Snapshot and go on from its
	// revision. A compaction that catches up with a slow watcher arrives as a Change whose Err is ErrCompacted,
	// and closes the channel.
	Watch(ctx context.Context, after Revision) (<-chan Change, error)

	// Events returns up to limit audit events with Sequence > after, oldest first.
	Events(ctx context.Context, after int64, limit int) ([]ledger.Event, error)

	// Head returns the end of the audit chain, as it is kept beside the events: what is missing at their end shows.
	Head(ctx context.Context) (ledger.Head, error)

	// Lead waits until this process alone leads under a name, then runs work, whose context ends when the lead is
	// lost; it returns work's error. One leader may not yet know that it has lost its lead while the next begins, so
	// what it writes must stand on a compare-and-set.
	Lead(ctx context.Context, name string, work func(ctx context.Context) error) error

	// Present keeps id among the live control planes until ctx ends. It comes back by itself after the store was out
	// of reach.
	Present(ctx context.Context, id string) error

	// Live returns the control planes that are present. One that died stays for a few seconds.
	Live(ctx context.Context) ([]string, error)

	// Close releases what the store holds. Watches end.
	Close() error
}

// Revision is the store's version: it grows with every Apply, not always by one. 0 is the empty store.
type Revision = int64

// Transaction is what Apply does at once. No key may appear twice.
type Transaction struct {
	Expect Revision  // the Snapshot's revision that the writer looked at
	Put    []*Object // written whole; Metadata.Revision is set by the store in its own copy
	Delete []Key     // of objects that exist
	Events []ledger.Event
}

// Snapshot is the store at one revision.
type Snapshot struct {
	Revision Revision
	Objects  map[Key]*Object
}

// Change is one Apply, seen by a watcher.
type Change struct {
	Revision Revision
	Put      []*Object
	Delete   []Key
	Err      error
}

var (
	// ErrConflict means that the store changed since the revision that a transaction expected.
	ErrConflict = errors.New("the store changed since it was read")
	// ErrNotFound means that an object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrPrecondition means that an object is not at the revision that the writer named.
	ErrPrecondition = errors.New("the object changed since it was read")
	// ErrCompacted means that a watch asked for revisions that are gone.
	ErrCompacted = errors.New("the revision was compacted")
	// ErrFenced means that a member that was fenced wrote something.
	ErrFenced = errors.New("the member was fenced by an operator")
	// ErrTooLarge means that a transaction is over what the store takes at once.
	ErrTooLarge = errors.New("too many objects in one transaction")
)
