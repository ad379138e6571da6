package tenantstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/ledger"
)

// Writer is the one way in for what people and members write: it validates against the whole store, gives
// new objects their UID and tenants their place, and leaves an audit event, in one transaction.
//
// It may be used from many goroutines, and beside other writers of the same store.
type Writer struct {
	store Store
	now   func() time.Time
	keys  func(uri string) error // nil: keys may be fetched from anywhere
	turn  chan struct{}          // guards kept: who writes
	kept  *view                  // the store after the last write; nil: not known
}

// NewWriter returns a writer to store.
func NewWriter(store Store, now func() time.Time) *Writer {
	return &Writer{store: store, now: now, turn: make(chan struct{}, 1)}
}

// CheckKeys has issuers refused whose keys must not be fetched from the URI that they name. It is for before the first write.
func (w *Writer) CheckKeys(check func(uri string) error) { w.keys = check }

// ApplyOptions say how to write.
type ApplyOptions struct {
	DryRun  bool                              // validate and report, write nothing
	IfMatch map[Key]int64                     // revision that an object must have; 0: it must not exist
	If      map[Key]func(revision int64) bool // what the revision of an object must meet; 0: it does not exist

	// Author writes by its RoleBindings alone, as they are in the store then; zero: who writes may write everything. What lies beyond
	// is an [OutsideError].
	Author identity.Principal

	// Proven says how many calls to a workload were counted, and what share of them had a proven tenant: a workload is not turned from
	// Observe to Require below [LeastProven]. nil: it is not asked.
	Proven func(workload string) (share float64, calls int64)
}

// Action is what became of an object.
type Action string

// The actions.
const (
	Created   Action = "create"
	Updated   Action = "update"
	Unchanged Action = "unchanged"
	Removed   Action = "delete"
)

// ObjectChange is what became of one object.
type ObjectChange struct {
	Key    Key
	Action Action
	Object *Object // as it is now; as it was, for Removed
}

// Result is what a write did. Revision is the store's after it, or as it was when nothing changed.
type Result struct {
	Revision Revision
	Changes  []ObjectChange
}

// Apply writes objects, each whole. Its errors are [Problems], [ErrPrecondition], or the store's.
func (w *Writer) Apply(ctx context.Context, actor string, objects []*Object, options ApplyOptions) (Result, error) {
	var problems Problems
	seen := map[Key]bool{}
	for _, object := range objects {
		if key := object.Key(); seen[key] {
			problems = append(problems, Problem{Object: key.String(), Text: "must be given once (got it again)"})
		} else if seen[key] = true; object.Kind == KindTokenIssuer && object.TokenIssuer.JWKS.URI != "" && w.keys != nil {
			if err := w.keys(object.TokenIssuer.JWKS.URI); err != nil {
				problems = append(problems, Problem{Object: key.String(), Path: "spec.jwks.uri", Text: err.Error()})
			}
		} else if !object.Kind.Writable() {
			problems = append(problems, Problem{Object: key.String(), Path: "kind", Text: fmt.Sprintf("must not be one that the control plane keeps for itself (got %q)", object.Kind)})
		}
	}
	if len(problems) > 0 {
		return Result{}, problems
	}
	return w.transact(ctx, options, func(t *draft) {
		for _, object := range objects {
			t.put(object)
		}
		t.ask(actor, w.now())
		t.keepRollouts()
		t.proven(options.Proven)
		if options.Author.IsZero() {
			t.place()
		}
		t.audit(actor, w.now())
	})
}

// Delete removes objects. It fails with [ErrNotFound] when one is not there, and with [Problems] when one is
// still named by another. The rollout of an object ends with it: to take a permit away never waits.
func (w *Writer) Delete(ctx context.Context, actor string, keys []Key, options ApplyOptions) (Result, error) {
	return w.transact(ctx, options, func(t *draft) {
		for _, key := range keys {
			t.remove(key)
			if RolloutOf(t.objects, key) != nil {
				t.remove(RolloutKey(key))
			}
		}
		t.audit(actor, w.now())
	})
}

// PutSystem writes and removes objects of the kinds that the control plane keeps for itself. What is to be
// removed and is not there is passed over. Members and keys are audited; endpoints come and go.
func (w *Writer) PutSystem(ctx context.Context, actor string, put []*Object, remove []Key) (Revision, error) {
	result, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		for _, object := range put {
			t.put(object)
		}
		for _, key := range remove {
			if t.objects[key] != nil {
				t.remove(key)
			}
		}
		t.audit(actor, w.now())
	})
	return result.Revision, err
}

// RemoveEndpoints removes the endpoints that gone says are gone, as they are in the store when that happens.
func (w *Writer) RemoveEndpoints(ctx context.Context, gone func(member string, at *EndpointSpec) bool) error {
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		for key, o := range t.few {
			if key.Kind == KindEndpoint && gone(key.Name, o.Endpoint) {
				t.remove(key)
			}
		}
	})
	return err
}

// FenceMember shuts a member out for good: it counts for no move, its signing keys are taken away, and what it reports
// is refused.
func (w *Writer) FenceMember(ctx context.Context, actor, id string) (Revision, error) {
	result, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		key := Key{KindMember, id}
		member := t.objects[key]
		if member == nil {
			t.err = fmt.Errorf("%v: %w", key, ErrNotFound)
			return
		}
		fenced := member.Clone()
		fenced.Member.Fenced = true
		t.put(fenced)
		for key, o := range t.few {
			if key.Kind == KindEndpoint && key.Name == id || key.Kind == KindSignerKey && o.SignerKey.Member == id {
				t.remove(key)
			}
		}
		t.audit(actor, w.now())
	})
	return result.Revision, err
}

// CountMembers notes that members' parts of the limits that a group shares are their own.
func (w *Writer) CountMembers(ctx context.Context, actor, group string, ids []string) error {
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		for _, id := range ids {
			member := t.objects[Key{KindMember, id}]
			if member == nil || member.Member.Fenced || member.Member.Left || slices.Contains(member.Member.Counted, group) {
				continue
			}
			counted := member.Clone()
			counted.Member.Counted = append(counted.Member.Counted, group)
			t.put(counted)
		}
	})
	return err
}

// KeepKeys keeps the key set that was fetched for an issuer, unless it names another URI by now.
func (w *Writer) KeepKeys(ctx context.Context, actor, issuer string, keys IssuerKeys) error {
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		o := t.objects[Key{KindTokenIssuer, issuer}]
		if o == nil || o.TokenIssuer.JWKS.URI != keys.URI {
			return
		}
		o = o.Clone()
		o.Status.Keys = &keys
		t.replace(o)
		t.audit(actor, w.now())
	})
	return err
}

// attempts bounds how often a write is made again because the store changed meanwhile.
const attempts = 50

// transact makes a change on the store as this writer has it, which costs what the change touches. That may be old by
// now: whatever comes of it but a write, which the store would have refused, is looked at again by the store as it is.
func (w *Writer) transact(ctx context.Context, options ApplyOptions, change func(*draft)) (Result, error) {
	select {
	case w.turn <- struct{}{}:
	default:
		select {
		case w.turn <- struct{}{}:
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	}
	defer func() { <-w.turn }()
	if w.kept != nil {
		if result, written, err := w.attempt(ctx, w.kept, options, change); written && !errors.Is(err, ErrConflict) {
			return result, err
		}
	}
	for range attempts {
		w.kept = nil
		snapshot, err := w.store.Snapshot(ctx)
		if err != nil {
			return Result{}, err
		}
		w.kept = newView(snapshot)
		result, _, err := w.attempt(ctx, w.kept, options, change)
		if !errors.Is(err, ErrConflict) {
			return result, err
		}
	}
	return Result{}, ErrConflict
}

// attempt makes a change on a view, and reports whether it asked the store to write. The view is as the store is after
// it, or as it was before.
func (w *Writer) attempt(ctx context.Context, on *view, options ApplyOptions, change func(*draft)) (result Result, written bool, err error) {
	t := &draft{view: on, was: map[Key]*Object{}, details: map[Key]string{}, Transaction: Transaction{Expect: on.revision}}
	if err := t.mayCompare(&options); err != nil {
		return Result{}, false, err
	}
	for key, revision := range options.IfMatch {
		if have := on.revisionOf(key); have != revision {
			return Result{}, false, fmt.Errorf("%v is at revision %d, not %d: %w", key, have, revision, ErrPrecondition)
		}
	}
	for key, met := range options.If {
		if have := on.revisionOf(key); !met(have) {
			return Result{}, false, fmt.Errorf("%v is at revision %d (0: it does not exist): %w", key, have, ErrPrecondition)
		}
	}
	defer func() {
		if !written || err != nil {
			t.undo()
		}
	}()
	change(t)
	if err := t.within(options.Author); err != nil {
		return Result{}, false, err
	}
	if t.err != nil {
		return Result{}, false, t.err
	}
	if problems := validate(on, t.changed(), t.Transaction.Delete); len(problems) > 0 {
		return Result{}, false, problems
	}
	if problems := t.prove(w.now()); len(problems) > 0 {
		return Result{}, false, problems
	}
	result = Result{on.revision, t.changes}
	if options.DryRun || len(t.Put)+len(t.Delete) == 0 {
		return result, false, nil
	}
	if result.Revision, err = w.store.Apply(ctx, t.Transaction); err != nil {
		return result, true, err
	}
	for _, c := range t.changes {
		if c.Action == Created || c.Action == Updated {
			c.Object.Metadata.Revision = result.Revision
			on.set(c.Key, c.Object.Clone()) // what is returned is the caller's
		}
	}
	on.revision = result.Revision
	return result, true, nil
}

// draft is a transaction in the making, with the store as it would be.
type draft struct {
	Transaction
	*view                   // as it would be
	was     map[Key]*Object // what the draft changed, as it was; nil: it was not there
	changes []ObjectChange
	details map[Key]string // more to say in the audit event
	err     error
}

func (t *draft) changed() []Key {
	keys := make([]Key, 0, len(t.changes))
	for _, c := range t.changes {
		if c.Action == Created || c.Action == Updated {
			keys = append(keys, c.Key)
		}
	}
	return keys
}

func (t *draft) put(object *Object) {
	object = object.Clone()
	object.APIVersion = APIVersion
	object.Status = Status{}
	key, action := object.Key(), Created
	if old := t.before(key); old != nil {
		action = Updated
		object.Metadata.UID, object.Metadata.Revision, object.Status = old.Metadata.UID, old.Metadata.Revision, old.Clone().Status
	} else {
		object.Metadata.UID, object.Metadata.Revision = newUID(), 0
	}
	if object.Kind == KindTenant {
		object.Status.Phase = phase(object)
	}
	if fenced := t.before(Key{KindMember, ownerOf(object)}); fenced != nil && fenced.Member.Fenced {
		t.err = errors.Join(t.err, fmt.Errorf("%v of member %s: %w", key, fenced.Metadata.Name, ErrFenced))
		return
	}
	// Whatever a member still reports: that it was shut out is never forgotten, nor what its peers know it by.
	if old := t.before(key); old != nil && old.Kind == KindMember {
		object.Member.Fenced = object.Member.Fenced || old.Member.Fenced
		if object.Member.Certificates == nil {
			object.Member.Certificates = old.Member.Certificates
		}
		if object.Member.Counted == nil && !old.Member.Left { // one that left comes back as a new one
			object.Member.Counted = old.Member.Counted
		}
	}
	if old := t.before(key); old != nil && old.Equal(object) {
		t.changes = append(t.changes, ObjectChange{key, Unchanged, old})
		return
	}
	t.change(key, object)
	t.Put = append(t.Put, object)
	t.changes = append(t.changes, ObjectChange{key, action, object})
}

// ownerOf is the member that an object comes from and ends with, "" for none.
func ownerOf(o *Object) string {
	switch o.Kind {
	case KindEndpoint:
		return o.Metadata.Name
	case KindSignerKey:
		return o.SignerKey.Member
	case KindPosition:
		return o.Position.Member
	default:
		return ""
	}
}

func (t *draft) remove(key Key) {
	old := t.objects[key]
	if old == nil {
		t.err = errors.Join(t.err, fmt.Errorf("%v: %w", key, ErrNotFound))
		return
	}
	if key.Kind == KindTenant && old.Status.Placement != nil && old.Status.Placement.State.Moving() {
		t.err = errors.Join(t.err, Problems{{Object: key.String(), Text: "must not move while it is deleted: abort the move, or wait for its end"}})
		return
	}
	t.change(key, nil)
	t.Transaction.Delete = append(t.Transaction.Delete, key)
	t.changes = append(t.changes, ObjectChange{key, Removed, old})
}

func phase(tenant *Object) Phase {
	switch {
	case tenant.Tenant.Suspended:
		return Suspended
	case tenant.Status.Placement == nil:
		return Provisioning
	default:
		return Active
	}
}

// replace puts an object that this draft changes for its own reasons.
func (t *draft) replace(object *Object) {
	if t.objects[object.Key()].Equal(object) {
		return
	}
	t.change(object.Key(), object)
	for i, put := range t.Put {
		if put.Key() == object.Key() {
			t.Put[i] = object
			for j := range t.changes {
				if t.changes[j].Key == object.Key() {
					t.changes[j].Object = object
				}
			}
			return
		}
	}
	t.Put = append(t.Put, object)
	t.changes = append(t.changes, ObjectChange{object.Key(), Updated, object})
}

func (t *draft) audit(actor string, now time.Time) {
	for _, c := range t.changes {
		if c.Action == Unchanged || c.Key.Kind == KindEndpoint || c.Key.Kind == KindPosition || c.Key.Kind == KindRevocation && c.Action == Removed || reconnected(t.before(c.Key), c.Object) {
			continue
		}
		event := ledger.Event{Time: now, Actor: actor, Action: string(c.Action), Object: c.Key.String(), Revision: t.Expect, Detail: t.details[c.Key]}
		if c.Key.Kind == KindTenant {
			event.Tenant = c.Key.Name
		}
		if old := t.before(c.Key); old != nil {
			event.Before, _ = json.Marshal(old)
		}
		if c.Action != Removed {
			event.After, _ = json.Marshal(c.Object)
		}
		t.Events = append(t.Events, event)
	}
}

// reconnected reports whether nothing changed but the control plane that a member reports to, and what it shows its peers.
func reconnected(before, after *Object) bool {
	if before == nil || before.Kind != KindMember || after == nil {
		return false
	}
	same := *before.Member
	same.Control, same.Certificates, same.Counted = after.Member.Control, after.Member.Certificates, after.Member.Counted
	return reflect.DeepEqual(same, *after.Member)
}

func newUID() string { return rand.Text() }

// digest is short, and fit for a name.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
