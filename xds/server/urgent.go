package server

import "slices"

// maxAtOnce bounds the tenants of one response after the first, so that what is urgent waits for as many at most.
const maxAtOnce = 512

// maxAhead is how many revisions are remembered that went ahead of others.
const maxAhead = 256

// ahead is a revision that went ahead of others, and the types of what it changed.
type ahead struct {
	revision int64
	types    map[string]bool
}

// enforced reports whether a stream has asked for all that changed, and has no urgent change up to the revision pending or
// unanswered. One that does not know a type never enforces what is of it.
func (a *ahead) enforced(s *stream) bool {
	for typeURL := range a.types {
		if s.types[typeURL] == nil {
			return false
		}
	}
	for _, t := range s.types {
		if !t.enforcesUrgent(a.revision) {
			return false
		}
	}
	return true
}

// urgent are names that go before all else of their type.
type urgent struct {
	names  map[string]struct{}
	oldest int64 // revision of the first; 0: none
}

func (u *urgent) add(name string, revision int64) {
	if u.names == nil {
		u.names = map[string]struct{}{}
	}
	u.names[name] = struct{}{}
	if u.oldest == 0 {
		u.oldest = revision
	}
}

func (u *urgent) take() part {
	next := part{names: u.names, oldest: u.oldest, urgent: u.oldest}
	*u = urgent{}
	return next
}

// some takes n of the names that changed.
func (t *subscription) some(n int) part {
	next := part{names: make(map[string]struct{}, n), oldest: t.oldest}
	for name := range t.pending {
		if len(next.names) == n {
			break
		}
		next.names[name] = struct{}{}
		delete(t.pending, name)
	}
	return next
}

// ApplyUrgent publishes what takes something from somebody, before all else that is on its way: changes of before that were
// not published yet may follow. whole says that this is all of the revision, which then counts as published.
func (c *Cache) ApplyUrgent(revision int64, put []Resource, remove []Key, whole bool) error {
	return c.apply(revision, put, remove, true, func() {
		if !whole {
			return
		}
		went := ahead{revision, map[string]bool{}}
		for _, r := range put {
			went.types[r.TypeURL] = true
		}
		for _, key := range remove {
			went.types[key.TypeURL] = true
		}
		if c.ahead = append(c.ahead, went); len(c.ahead) > maxAhead {
			c.ahead = slices.Delete(c.ahead, 0, len(c.ahead)-maxAhead)
		}
	})
}

// enforcesUrgent reports whether no urgent change up to revision is pending or unanswered, and all that there was when the
// stream began is applied.
func (t *subscription) enforcesUrgent(revision int64) bool {
	upTo := func(of int64) bool { return of != 0 && of <= revision }
	return t.answered && !upTo(t.urgent.oldest) &&
		!slices.ContainsFunc(t.parts, func(p part) bool { return upTo(p.urgent) }) &&
		!slices.ContainsFunc(t.waiting, func(s sent) bool { return s.first || upTo(s.urgent) })
}
