// Package tally answers HOW OFTEN DID EACH HAPPEN, in bounded memory: a table of counts, with one example each.
//
// It holds [Most] counts. When one more is needed, the one that counted least makes room for it and is lost, and that is
// counted (space-saving: Metwally, Agrawal, El Abbadi, 2005; a newcomer stands where the one before it stood, so that what is
// frequent stays).
//
// A [Table] may be used from many goroutines. It imports nothing of this module.
package tally

import (
	"strings"
	"sync"
	"time"
)

// Most is how many counts a table holds.
const Most = 256

// maxPath is how many bytes of an example's path are kept.
const maxPath = 256

// Count is how often, and the last time.
type Count struct {
	Requests int64
	Decision string // its ID
	Path     string
	Last     time.Time
}

// Table counts what is told apart by K. Use [New].
type Table[K comparable] struct {
	own     func(K) K
	mu      sync.Mutex
	counts  map[K]*entry
	lost    int64
	changes int64
	entered int64
}

type entry struct {
	Count
	stands int64 // of Requests, and of those before it
}

// New returns an empty table. own makes a key that keeps alive nothing of what its texts were cut from.
func New[K comparable](own func(K) K) *Table[K] { return &Table[K]{own: own, counts: map[K]*entry{}} }

// Add counts one request.
func (t *Table[K]) Add(now time.Time, key K, decision, path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changes++
	e := t.counts[key]
	if e == nil {
		e = t.enter(key)
	}
	e.Requests++
	e.stands++
	if now.Sub(e.Last) > time.Second { // an example is as good as another
		e.Last, e.Decision, e.Path = now, strings.Clone(decision), strings.Clone(path[:min(len(path), maxPath)])
	}
}

// enter makes room for a key.
func (t *Table[K]) enter(key K) *entry {
	t.entered++
	e := &entry{}
	if len(t.counts) >= Most {
		var least K
		first := true
		for k, other := range t.counts {
			if first || other.stands < t.counts[least].stands {
				least, first = k, false
			}
		}
		e.stands = t.counts[least].stands
		t.lost += t.counts[least].Requests
		delete(t.counts, least)
	}
	t.counts[t.own(key)] = e
	return e
}

// All are all that is held, how many requests were lost, and a number that grows with each key that was not held before.
func (t *Table[K]) All() (counts map[K]Count, lost, entered int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts = make(map[K]Count, len(t.counts))
	for key, e := range t.counts {
		counts[key] = e.Count
	}
	return counts, t.lost, t.entered
}

// Keep forgets what is not to be kept, and what was lost where nothing is to be (some is false). It returns all that is held, how many requests were lost, and a
// number that grows with each request.
func (t *Table[K]) Keep(keep func(K) bool, some bool) (counts map[K]Count, lost, changes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts = make(map[K]Count, len(t.counts))
	for key, e := range t.counts {
		if !keep(key) {
			delete(t.counts, key)
			t.changes++
			continue
		}
		counts[key] = e.Count
	}
	if !some {
		t.lost = 0
	}
	return counts, t.lost, t.changes
}
