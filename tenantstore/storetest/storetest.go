// Package storetest is the contract of tenantstore.Store, as tests that every store passes.
//
// It imports tenantstore and ledger.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Compacter is a store that can forget old changes at once.
type Compacter interface {
	tenantstore.Store
	Compact(ctx context.Context) error
}

// Run runs the contract; open returns an empty store that the test closes.
func Run(t *testing.T, open func(t *testing.T) Compacter) {
	for name, test := range map[string]func(t *testing.T, ctx context.Context, s Compacter){
		"apply and snapshot":   applyAndSnapshot,
		"all or nothing":       allOrNothing,
		"conflict":             conflict,
		"watch":                watch,
		"watch ends":           watchEnds,
		"compacted":            compacted,
		"audit chain":          auditChain,
		"writers at once":      writersAtOnce,
		"objects are not ours": objectsAreNotOurs,
		"one leads":            oneLeads,
		"who is live":          whoIsLive,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			test(t, ctx, s)
		})
	}
}

// Cell returns a cell to write.
func Cell(name, region string) *tenantstore.Object {
	return &tenantstore.Object{
		APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindCell,
		Metadata: tenantstore.Metadata{Name: name}, Cell: &tenantstore.CellSpec{Region: region},
	}
}

func put(t *testing.T, s tenantstore.Store, expect tenantstore.Revision, objects ...*tenantstore.Object) tenantstore.Revision {
	t.Helper()
	revision, err := s.Apply(t.Context(), tenantstore.Transaction{Expect: expect, Put: objects})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func snapshot(t *testing.T, s tenantstore.Store) tenantstore.Snapshot {
	t.Helper()
	snapshot, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func applyAndSnapshot(t *testing.T, ctx context.Context, s Compacter) {
	empty := snapshot(t, s)
	if len(empty.Objects) != 0 {
		t.Fatalf("a new store holds %v", empty.Objects)
	}
	first := put(t, s, empty.Revision, Cell("us-1", "us"), Cell("eu-1", "eu"))
	second, err := s.Apply(ctx, tenantstore.Transaction{Expect: first, Put: []*tenantstore.Object{Cell("us-1", "us2")}, Delete: []tenantstore.Key{{Kind: tenantstore.KindCell, Name: "eu-1"}}})
	if err != nil || second <= first || first <= empty.Revision {
		t.Fatalf("revisions %d, %d, %d: %v", empty.Revision, first, second, err)
	}
	now := snapshot(t, s)
	us := now.Objects[tenantstore.Key{Kind: tenantstore.KindCell, Name: "us-1"}]
	if now.Revision != second || len(now.Objects) != 1 || us.Cell.Region != "us2" || us.Metadata.Revision != second {
		t.Errorf("snapshot %d holds %+v", now.Revision, us)
	}
}

func allOrNothing(t *testing.T, ctx context.Context, s Compacter) {
	before := snapshot(t, s)
	_, err := s.Apply(ctx, tenantstore.Transaction{
		Expect: before.Revision, Put: []*tenantstore.Object{Cell("us-1", "us")}, Events: []ledger.Event{{Action: "create"}},
		Delete: []tenantstore.Key{{Kind: tenantstore.KindCell, Name: "none"}},
	})
	if !errors.Is(err, tenantstore.ErrNotFound) {
		t.Errorf("a delete of nothing: %v, want ErrNotFound", err)
	}
	after := snapshot(t, s)
	events, _ := s.Events(ctx, 0, 10)
	if len(after.Objects) != 0 || after.Revision != before.Revision || len(events) != 0 {
		t.Errorf("a refused transaction left %v at %d, events %v", after.Objects, after.Revision, events)
	}
}

func conflict(t *testing.T, ctx context.Context, s Compacter) {
	empty := snapshot(t, s)
	put(t, s, empty.Revision, Cell("us-1", "us"))
	_, err := s.Apply(ctx, tenantstore.Transaction{Expect: empty.Revision, Put: []*tenantstore.Object{Cell("us-2", "us")}})
	if !errors.Is(err, tenantstore.ErrConflict) {
		t.Errorf("an old revision: %v, want ErrConflict", err)
	}
}

func watch(t *testing.T, ctx context.Context, s Compacter) {
	empty := snapshot(t, s)
	first := put(t, s, empty.Revision, Cell("us-1", "us"), Cell("us-2", "us"))
	changes, err := s.Watch(ctx, empty.Revision)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Apply(ctx, tenantstore.Transaction{Expect: first, Delete: []tenantstore.Key{{Kind: tenantstore.KindCell, Name: "us-1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Revision != first || len(c.Put) != 2 || len(c.Delete) != 0 || c.Put[0].Metadata.Revision != first {
		t.Errorf("the first change is %+v", c)
	}
	if c := <-changes; c.Revision != second || len(c.Put) != 0 || len(c.Delete) != 1 || c.Delete[0].Name != "us-1" {
		t.Errorf("the second change is %+v", c)
	}
	resumed, err := s.Watch(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	if c := <-resumed; c.Revision != second {
		t.Errorf("a watch after %d begins with %+v", first, c)
	}
}

func watchEnds(t *testing.T, ctx context.Context, s Compacter) {
	ctx, cancel := context.WithCancel(ctx)
	changes, err := s.Watch(ctx, snapshot(t, s).Revision)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if c, ok := <-changes; ok {
		t.Errorf("a watch that was ended says %+v", c)
	}
}

func compacted(t *testing.T, ctx context.Context, s Compacter) {
	empty := snapshot(t, s)
	first := put(t, s, empty.Revision, Cell("us-1", "us"))
	put(t, s, first, Cell("us-2", "us"))
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	changes, err := s.Watch(ctx, empty.Revision)
	if err == nil {
		err = (<-changes).Err
	}
	if !errors.Is(err, tenantstore.ErrCompacted) {
		t.Fatalf("a watch from before the compaction: %v, want ErrCompacted", err)
	}
	now := snapshot(t, s)
	changes, err = s.Watch(ctx, now.Revision)
	if err != nil {
		t.Fatal(err)
	}
	third := put(t, s, now.Revision, Cell("us-3", "us"))
	if c := <-changes; c.Revision != third {
		t.Errorf("after a snapshot the watch says %+v", c)
	}
}

func auditChain(t *testing.T, ctx context.Context, s Compacter) {
	revision := snapshot(t, s).Revision
	for i := range 5 {
		var err error
		revision, err = s.Apply(ctx, tenantstore.Transaction{Expect: revision, Put: []*tenantstore.Object{Cell("us-1", fmt.Sprint(i))}, Events: []ledger.Event{
			{Time: time.Unix(int64(i), 0), Action: "update", Object: "Cell/us-1"}, {Action: "note"},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	head, err := s.Events(ctx, 0, 4)
	if err != nil || len(head) != 4 {
		t.Fatalf("%d events, %v", len(head), err)
	}
	rest, err := s.Events(ctx, 4, 100)
	if err != nil || len(rest) != 6 {
		t.Fatalf("%d more events, %v", len(rest), err)
	}
	all := append(head, rest...)
	verified, err := (ledger.Head{}).Verify(all)
	if err != nil {
		t.Error(err)
	}
	if end, err := s.Head(ctx); err != nil || end != verified {
		t.Errorf("the end of the chain is %+v, %v; want %+v", end, err, verified)
	}
	all[3].Actor = "eve"
	if _, err := (ledger.Head{}).Verify(all); err == nil {
		t.Error("a forged event passes")
	}
}

func writersAtOnce(t *testing.T, ctx context.Context, s Compacter) {
	const writers, writes = 4, 5
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; i < writes; {
				now, err := s.Snapshot(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = s.Apply(ctx, tenantstore.Transaction{Expect: now.Revision, Put: []*tenantstore.Object{Cell(fmt.Sprintf("c-%d-%d", w, i), "us")}})
				switch {
				case err == nil:
					i++
				case !errors.Is(err, tenantstore.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := len(snapshot(t, s).Objects); n != writers*writes {
		t.Errorf("%d objects of %d: a write was lost", n, writers*writes)
	}
}

func objectsAreNotOurs(t *testing.T, ctx context.Context, s Compacter) {
	mine := Cell("us-1", "us")
	put(t, s, snapshot(t, s).Revision, mine)
	mine.Cell.Region = "changed"
	if got := snapshot(t, s).Objects[mine.Key()].Cell.Region; got != "us" {
		t.Errorf("the store's object changed with the writer's: %q", got)
	}
}

// Put is a transaction that writes objects.
func Put(expect tenantstore.Revision, objects ...*tenantstore.Object) tenantstore.Transaction {
	return tenantstore.Transaction{Expect: expect, Put: objects}
}

func oneLeads(t *testing.T, ctx context.Context, s Compacter) {
	var leading, most, terms int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			err := s.Lead(ctx, "test", func(context.Context) error {
				mu.Lock()
				leading++
				terms++
				most = max(most, leading)
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				leading--
				mu.Unlock()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most != 1 || terms != 3 {
		t.Errorf("%d led at once, and there were %d terms; want 1 and 3", most, terms)
	}
	ended, cancel := context.WithCancel(ctx)
	err := s.Lead(ctx, "test", func(context.Context) error {
		cancel()
		return s.Lead(ended, "test", func(context.Context) error { return errors.New("two lead") })
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for a lead until its context ends got %v", err)
	}
}

func whoIsLive(t *testing.T, ctx context.Context, s Compacter) {
	want := func(ids ...string) {
		t.Helper()
		for {
			live, err := s.Live(ctx)
			if err != nil {
				t.Fatal(err) // of time too
			}
			if slices.Equal(live, ids) {
				return
			}
			runtime.Gosched()
		}
	}
	want()
	var wg sync.WaitGroup
	present := func(id string) (gone func()) {
		ctx, cancel := context.WithCancel(ctx)
		wg.Go(func() {
			if err := s.Present(ctx, id); err != nil {
				t.Error(err)
			}
		})
		return cancel
	}
	a, b := present("a"), present("b")
	want("a", "b")
	a()
	want("b")
	b()
	want()
	wg.Wait()
}
