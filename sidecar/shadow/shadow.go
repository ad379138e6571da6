// Package shadow answers WHAT WOULD IT HAVE DONE: it counts the requests that would have come out in another way if a policy that
// is only watched were in force, by policy, tenant, principal, method and route, with one example each.
//
// It counts in the same way which policies permitted whose requests.
//
// It holds [Most] counts. When one more is needed, the one that counted least makes room for it and is lost, and that is
// counted (space-saving: Metwally, Agrawal, El Abbadi, 2005; a newcomer stands where the one before it stood, so that what is
// frequent stays).
//
// A [Table] may be used from many goroutines. It imports nothing of this module.
package shadow

import (
	"strings"
	"sync"
	"time"
)

// Most is how many counts a table holds.
const Most = 256

// maxPath is how many bytes of an example's path are kept.
const maxPath = 256

// Key is what is counted apart.
type Key struct {
	Policy    string
	Revision  int64 // of what is watched
	Allowed   bool  // it would be allowed; false: it would be refused
	Tenant    string
	TenantUID string
	Principal string
	Method    string
	Route     string
}

// Count is how often, and the last time.
type Count struct {
	Requests int64
	Decision string // its ID
	Path     string
	Last     time.Time
}

// Table counts. The zero value is empty.
type Table struct {
	mu      sync.Mutex
	counts  map[Key]*entry
	lost    int64
	changes int64
	entered int64
}

type entry struct {
	Count
	stands int64 // of Requests, and of those before it
}

// Add counts one request.
func (t *Table) Add(now time.Time, key Key, decision, path string) {
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

// enter makes room for a key. What it was cut from is not kept with it.
func (t *Table) enter(key Key) *entry {
	t.entered++
	e := &entry{}
	if len(t.counts) >= Most {
		var least Key
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
	if t.counts == nil {
		t.counts = map[Key]*entry{}
	}
	for _, text := range []*string{&key.Policy, &key.Tenant, &key.TenantUID, &key.Principal, &key.Method, &key.Route} {
		*text = strings.Clone(*text)
	}
	t.counts[key] = e
	return e
}

// All are all that is held, how many requests were lost, and a number that grows with each key that was not held before.
func (t *Table) All() (counts map[Key]Count, lost, entered int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts = make(map[Key]Count, len(t.counts))
	for key, e := range t.counts {
		counts[key] = e.Count
	}
	return counts, t.lost, t.entered
}

// Counts are all that is held, but for what is not watched any more, which is forgotten; how many requests were lost; and a number
// that grows with each request.
func (t *Table) Counts(watched map[string]int64) (counts map[Key]Count, lost, changes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts = make(map[Key]Count, len(t.counts))
	for key, e := range t.counts {
		if revision, ok := watched[key.Policy]; !ok || revision != key.Revision {
			delete(t.counts, key)
			t.changes++
			continue
		}
		counts[key] = e.Count
	}
	if len(watched) == 0 {
		t.lost = 0
	}
	return counts, t.lost, t.changes
}
