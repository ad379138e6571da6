package share

import (
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Pool is a limit that the members of a group enforce together: a tenant's own, or that of one of its classes.
type Pool struct {
	Group  string
	Tenant string
	UID    string // of the tenant's incarnation
	Class  string // "": the tenant's own limit
}

// Report is what a member says.
type Report struct {
	Parts     map[string]Part // by group; nil: as before, and Standing too
	Standing  map[string]Part // by group: of which part something is standing, after a crash too
	Lends     bool            // no other allocator has lent its part to somebody
	LendsOpen bool            // nor is a request open there that was let in by it
	Answers   uint64          // number of the newest response that it has; 0: of [Book.Begin]
	Usages    []Usage
}

// Usage is what a member used of a pool, since its last report of it.
type Usage struct {
	Pool    Pool
	Grant   uint64 // the number of the one in force there; 0: none
	Elapsed time.Duration
	Wanted  uint64 // requests that came, refused ones too
	Open    uint64 // requests, now
	Waiting uint64 // requests that were refused for concurrency
}

// Grant is what a member may use of a pool on top of what is standing.
type Grant struct {
	Pool   Pool
	Number uint64 // grows
	Amount Amount
}

// Options of a [Book].
type Options struct {
	// Limit returns the whole limit of a pool, false when there is none.
	Limit func(Pool) (policy.ClassLimit, bool)
	// MaxPools bounds what is kept, default 65536: a pool beyond it has no grants, and its members have what is standing.
	MaxPools int
	// Tail is how long a request may stay open once its member is out of reach.
	Tail time.Duration
}

// Book is what one allocator knows and has given out.
type Book struct {
	Options
	groups  map[string][]string // members, as they are known now
	members map[string]*member
	pools   map[Pool]*pool
	dirty   map[Pool]struct{}
	pots    map[potOf]Amount // as they are until something of a session changes
	number  uint64
	soonest time.Time // no session ends before
	scanned time.Time
}

type member struct {
	until     time.Time // end of its session: it has what it was granted until then, at most
	lent      time.Time // until then its part is lent, at least: it counts from the newest response that it is known to have
	parts     map[string]Part
	standing  map[string]Part // it says
	agreed    map[string]Part // it was told, and may say soon
	lending   bool            // it is before lent
	lends     bool
	lendsOpen bool
	grants    []Grant  // not told yet
	told      []answer // that it is not known to have
}

type answer struct {
	number uint64
	at     time.Time
}

type pool struct {
	holders map[string]*holder
	wanted  time.Time // when somebody last wanted some of it
}

// holder is what a member may be using of a pool, on top of what is standing.
type holder struct {
	given []Grant   // the oldest may be in force, or any after it
	open  int64     // requests, when it last said so
	left  int64     // of a member whose session has ended: requests that may be open, on top of its part
	until time.Time // and until when; else zero

	demand  float64 // thousandths of a request a second
	waiting int64   // requests that were refused for concurrency
}

// NewBook returns a book in which nothing is given out.
func NewBook(options Options) *Book {
	if options.MaxPools == 0 {
		options.MaxPools = 65536
	}
	return &Book{Options: options, groups: map[string][]string{}, members: map[string]*member{}, pools: map[Pool]*pool{}, dirty: map[Pool]struct{}{}, pots: map[potOf]Amount{}}
}

// SetGroups says who is in each group.
func (b *Book) SetGroups(groups map[string][]string) {
	b.groups = groups
	b.touch()
}

// touch has everything divided anew.
func (b *Book) touch() {
	clear(b.pots)
	for key := range b.pools {
		b.dirty[key] = struct{}{}
	}
}

// Changed says that limits have changed.
func (b *Book) Changed() { b.touch() }

// Begin begins a session of a member that holds no grant: what it had before it has given up. It was asked to at asked.
func (b *Book) Begin(asked, now time.Time, id string) {
	b.members[id] = &member{until: now.Add(Lease), lent: asked.Add(Lease), agreed: map[string]Part{}}
	b.soonest = earlier(b.soonest, now)
	clear(b.pots)
	for key, p := range b.pools {
		if p.holders[id] != nil {
			delete(p.holders, id)
			b.dirty[key] = struct{}{}
		}
	}
}

// Report takes a report of a member that is in a session, and makes the session last; false when it is in none.
func (b *Book) Report(now time.Time, id string, r Report) bool {
	m := b.members[id]
	if m == nil || !now.Before(m.until) {
		return false
	}
	b.soonest = earlier(b.soonest, now)
	m.until = now.Add(Lease)
	if r.Parts != nil || r.Lends != m.lends || r.LendsOpen != m.lendsOpen {
		b.touch()
	}
	if r.Answers > 0 {
		for len(m.told) > 0 && m.told[0].number <= r.Answers {
			m.lent, m.told = m.told[0].at.Add(Lease), m.told[1:]
		}
	}
	m.lends, m.lendsOpen = r.Lends, r.LendsOpen
	if r.Parts != nil {
		m.parts, m.standing = r.Parts, r.Standing
		for group, part := range m.agreed {
			if part == m.standing[group] {
				delete(m.agreed, group)
			}
		}
	}
	for i := range r.Usages {
		b.use(now, id, &r.Usages[i])
	}
	return true
}

func (b *Book) use(now time.Time, id string, u *Usage) {
	if !slices.Contains(b.groups[u.Pool.Group], id) {
		return
	}
	p := b.pools[u.Pool]
	if p == nil {
		if len(b.pools) >= b.MaxPools || u.Wanted == 0 && u.Open == 0 {
			return
		}
		p = &pool{holders: map[string]*holder{}}
		b.pools[u.Pool] = p
	}
	h := p.holder(id)
	h.given = slices.DeleteFunc(h.given, func(g Grant) bool { return g.Number < u.Grant })
	h.open, h.waiting = int64(min(u.Open, maxCount)), int64(min(u.Waiting, maxCount))
	h.demand = max(h.demand/4, float64(min(u.Wanted, maxRate))*1000/min(max(u.Elapsed, minElapsed), maxElapsed).Seconds())
	if h.demand < 1 {
		h.demand = 0
	}
	if u.Wanted > 0 || h.open > 0 {
		p.wanted = now
	}
	b.dirty[u.Pool] = struct{}{}
}

// Bounds of what a report may be about.
const (
	minElapsed = 50 * time.Millisecond
	maxElapsed = 10 * time.Second
)

func (p *pool) holder(id string) *holder {
	h := p.holders[id]
	if h == nil {
		h = &holder{}
		p.holders[id] = h
	}
	return h
}

// idleTime is how long a pool that nobody wants stays as it is: the next to want it is often the last who did.
const idleTime = time.Minute

// Divide ends the sessions that are over, and divides anew what changed. What members are to be told is then in
// [Book.Take]. It is called at least once a second.
func (b *Book) Divide(now time.Time) {
	if !now.Before(b.soonest) {
		b.soonest = now.Add(Lease)
		for id, m := range b.members {
			if !now.Before(m.until) {
				b.end(id, m)
				continue
			}
			b.soonest = earlier(b.soonest, m.until)
			lending := now.Before(m.lent)
			if lending {
				b.soonest = earlier(b.soonest, m.lent)
			}
			if lending != m.lending {
				m.lending = lending
				b.touch()
			}
		}
	}
	if now.Sub(b.scanned) >= scanInterval {
		b.scanned = now
		for key, p := range b.pools {
			for id, h := range p.holders {
				if !h.until.IsZero() && !now.Before(h.until) {
					delete(p.holders, id)
					b.dirty[key] = struct{}{}
				}
			}
			if now.Sub(p.wanted) > idleTime {
				b.dirty[key] = struct{}{}
			}
		}
	}
	for key := range b.dirty {
		if p := b.pools[key]; p != nil {
			b.divide(now, key, p)
		}
	}
	clear(b.dirty)
}

// scanInterval is how often every pool is looked at.
const scanInterval = time.Second

func earlier(x, y time.Time) time.Time {
	if x.Before(y) {
		return x
	}
	return y
}

// end ends a member's session. Requests that it let in may be open.
func (b *Book) end(id string, m *member) {
	delete(b.members, id)
	for key, p := range b.pools {
		if h := p.holders[id]; h != nil {
			*h = holder{left: b.held(key, m, h).Concurrency, until: m.until.Add(b.Tail)}
		}
	}
	b.touch()
}

// Take returns what a member is to be told since the last time, and of which part of each of its groups something may be
// standing from now on, under a number that grows; 0 when it is in no session. It divides before.
func (b *Book) Take(now time.Time, id string) (number uint64, grants []Grant, standing map[string]Part) {
	b.Divide(now) // what makes a session last must come after what it takes away
	m := b.members[id]
	if m == nil {
		return 0, nil, nil
	}
	standing = map[string]Part{}
	for group, part := range m.parts {
		_, pending := m.agreed[group]
		if !pending && part != m.standing[group] && b.agrees(group, m, part) {
			m.agreed[group] = part
			clear(b.pots)
		}
		if agreed, ok := m.agreed[group]; ok { // until it says so
			standing[group] = agreed
		}
	}
	b.number++
	if len(m.told) < maxGiven {
		m.told = append(m.told, answer{b.number, now})
	}
	grants, m.grants = m.grants, nil
	return b.number, grants, standing
}

// Settled returns the group's members when each of them that can be heard knows of all of them: then the part of each is
// its own. gone says who has been out of reach for so long that it is not waited for.
func (b *Book) Settled(group, digest string, gone func(id string) bool) bool {
	for _, id := range b.groups[group] {
		if m := b.members[id]; m == nil {
			if !gone(id) {
				return false
			}
		} else if part, ok := m.parts[group]; !ok || part.Digest != digest {
			return false
		}
	}
	return true
}

// Waiting reports whether a member is to be told of grants.
func (b *Book) Waiting(id string) bool {
	m := b.members[id]
	return m != nil && len(m.grants) > 0
}

// Sizes are how many sessions and pools there are.
func (b *Book) Sizes() (sessions, pools int) { return len(b.members), len(b.pools) }
