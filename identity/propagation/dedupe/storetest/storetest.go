// Package storetest is the contract of dedupe's stores, as tests that each of them passes.
//
// It imports the standard library alone.
package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Store is dedupe.Store.
type Store interface {
	PutIfAbsent(ctx context.Context, key string, ttl time.Duration) (first bool, err error)
	Remove(ctx context.Context, key string) error
}

// Run runs them against a store that is empty.
func Run(t *testing.T, store Store) {
	put := func(t *testing.T, key string, ttl time.Duration) bool {
		t.Helper()
		first, err := store.PutIfAbsent(t.Context(), key, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return first
	}
	t.Run("a key is put once", func(t *testing.T) {
		if !put(t, "once", time.Hour) {
			t.Error("it was there before")
		}
		if put(t, "once", time.Hour) {
			t.Error("it is put again")
		}
		if !put(t, "other", time.Hour) {
			t.Error("another key is taken for it")
		}
	})
	t.Run("of many at once one is first", func(t *testing.T) {
		for round := range 20 {
			var first atomic.Int64
			var group sync.WaitGroup
			for range 16 {
				group.Go(func() {
					if did, err := store.PutIfAbsent(t.Context(), fmt.Sprint("many-", round), time.Hour); err != nil {
						t.Error(err)
					} else if did {
						first.Add(1)
					}
				})
			}
			group.Wait()
			if n := first.Load(); n != 1 {
				t.Fatalf("%d of 16 were first", n)
			}
		}
	})
	t.Run("what is removed is not there", func(t *testing.T) {
		put(t, "gone", time.Hour)
		for range 2 { // the second time there is nothing to remove
			if err := store.Remove(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
		}
		if !put(t, "gone", time.Hour) {
			t.Error("it is there all the same")
		}
	})
	t.Run("a key ends at its time, and a repetition does not put that off", func(t *testing.T) {
		began := time.Now()
		const ttl = 1500 * time.Millisecond
		put(t, "brief", ttl)
		for !put(t, "brief", ttl) {
			if time.Since(began) > 10*ttl {
				t.Fatal("it does not end")
			}
			<-time.After(20 * time.Millisecond)
		}
		if took := time.Since(began); took < ttl-10*time.Millisecond {
			t.Errorf("it ended after %v, want %v", took, ttl)
		}
	})
	t.Run("a context that is over puts nothing that is taken for done", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if first, err := store.PutIfAbsent(ctx, "late", time.Hour); err == nil && !first {
			t.Error("it was there before")
		}
	})
}
