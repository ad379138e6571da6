package share

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/policy"
)

// model plays members and allocators against a network that delays messages and breaks streams, processes that crash,
// stop for a while and start from their disks, and a store whose news arrive late. What members may use must never add up
// to more than the limit.
type model struct {
	rt      *rapid.T
	now     time.Time
	limit   policy.ClassLimit
	tail    time.Duration
	listed  []string        // the store's
	counted map[string]bool // the store's
	members map[string]*peer
	books   []*allocator
	number  int
}

type allocator struct {
	id     string
	book   *Book
	began  time.Time
	seen   map[string]time.Time
	stream map[string]*stream // of each member the newest
	paused bool
}

// stream is ordered both ways; it loses what is on its way when it breaks.
type stream struct {
	to       *allocator
	accepted bool      // the allocator has answered the hello
	begun    bool      // at the allocator
	asked    time.Time // when it answered
	answers  uint64    // newest response that the member has
	up, down []message
}

type message struct {
	at       time.Time // not before
	report   Report
	sequence int
	number   uint64
	grants   []Grant
	standing map[string]Part
}

type peer struct {
	id       string
	list     []string // on its disk
	counted  bool     // on its disk
	standing Part     // on its disk
	last     string   // allocator, on its disk
	now      string   // allocator
	session  *Session
	had      map[Pool]Grant
	other    map[Pool]Grant // of the allocator before
	open     []time.Time    // ends of requests
	before   []time.Time    // of those that were let in before it knew of as many members: as after a lower limit, they stay
	stream   *stream
	sent     map[int]time.Time
	next     int
	paused   bool
	down     bool
	demand   uint64
	gone     bool // left
}

var thePool = Pool{Group: "g", Tenant: "acme", UID: "u"}

func digest(list []string) string { return strings.Join(list, ",") }

func (p *peer) part() Part {
	return Part{Rank: slices.Index(p.list, p.id), Of: len(p.list), Digest: digest(p.list), Counted: p.counted}
}

func (p *peer) usable(now time.Time, limit Amount) Amount {
	if p.gone || p.down {
		return Amount{}
	}
	return p.part().Usable(limit, p.session.Phase(now), p.standing, p.had[thePool].Amount, p.other[thePool].Amount)
}

func (m *model) allocator() {
	m.number++
	a := &allocator{id: fmt.Sprint("allocator-", m.number), began: m.now, seen: map[string]time.Time{}, stream: map[string]*stream{}}
	a.book = NewBook(Options{Limit: func(Pool) (policy.ClassLimit, bool) { return m.limit, true }, Tail: m.tail})
	a.book.SetGroups(map[string][]string{"g": slices.Clone(m.listed)})
	m.books = append(m.books, a)
}

func (m *model) join() {
	m.number++
	id := fmt.Sprint("m", (m.number*7)%10, "-", m.number)
	m.listed = append(slices.Clone(m.listed), id)
	slices.Sort(m.listed)
	p := &peer{id: id, had: map[Pool]Grant{}, sent: map[int]time.Time{}}
	m.members[id] = p
	m.start(p)
}

// start starts a member from its disk.
func (m *model) start(p *peer) {
	p.session = (&Session{}).Heard(time.Time{}, m.now, m.tail)
	if p.now = p.last; p.last == "" && p.list != nil {
		p.session.Lender = p.session.Leave()
	}
	p.other = nil
	p.had, p.sent, p.stream, p.open, p.before, p.down = map[Pool]Grant{}, map[int]time.Time{}, nil, nil, nil, false
}

func (m *model) delay(name string) time.Time {
	return m.now.Add(time.Duration(rapid.IntRange(0, 700).Draw(m.rt, name)) * time.Millisecond)
}

// news brings the store's list to a member and an allocator.
func (m *model) news(p *peer) {
	if !p.down && !p.gone && !p.paused {
		if len(m.listed) > len(p.list) {
			p.before, p.open = append(p.before, p.open...), nil
		}
		p.list, p.counted = slices.Clone(m.listed), m.counted[p.id]
	}
	for _, a := range m.books {
		a.book.SetGroups(map[string][]string{"g": slices.Clone(m.listed)})
	}
}

func (m *model) connect(p *peer) {
	if p.down || p.gone || p.paused || len(m.books) == 0 {
		return
	}
	a := m.books[rapid.IntRange(0, len(m.books)-1).Draw(m.rt, "to")]
	p.stream = &stream{to: a, asked: m.now}
	a.stream[p.id] = p.stream
	p.stream.down = append(p.stream.down, message{at: m.delay("accept")})
}

func (m *model) report(p *peer) {
	s := p.stream
	if s == nil || !s.accepted || p.paused || p.down || p.gone {
		return
	}
	p.next++
	p.sent[p.next] = m.now
	r := Report{Parts: map[string]Part{"g": p.part()}, Standing: map[string]Part{"g": p.standing}}
	r.Lends, r.LendsOpen = p.session.Lender.Lends(m.now)
	if r.LendsOpen {
		p.last = p.now
	}
	r.Answers = s.answers
	r.Usages = []Usage{{Pool: thePool, Grant: p.had[thePool].Number, Elapsed: 250 * time.Millisecond, Wanted: p.demand, Open: uint64(len(p.open) + len(p.before)), Waiting: p.demand / 4}}
	s.up = append(s.up, message{at: m.delay("up"), report: r, sequence: p.next})
}

// deliver moves what has arrived.
func (m *model) deliver() {
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		p := m.members[id]
		s := p.stream
		for s != nil && len(s.up) > 0 && !s.up[0].at.After(m.now) && !s.to.paused {
			got := s.up[0]
			s.up = s.up[1:]
			a := s.to
			if a.stream[id] != s {
				continue
			}
			if !s.begun {
				s.begun = true
				a.book.Begin(s.asked, m.now, id)
			}
			if !a.book.Report(m.now, id, got.report) {
				p.stream = nil
				break
			}
			a.seen[id] = m.now
			number, grants, standing := a.book.Take(m.now, id)
			if number == 0 {
				m.rt.Fatal("a report was taken of a session that is over")
			}
			s.down = append(s.down, message{at: m.delay("down"), sequence: got.sequence, number: number, grants: grants, standing: standing})
		}
		for s := p.stream; s != nil && p.stream == s && len(s.down) > 0 && !s.down[0].at.After(m.now) && !p.paused && !p.down; {
			got := s.down[0]
			s.down = s.down[1:]
			if !s.accepted {
				// What it had it gives up before it says that it holds nothing.
				s.accepted = true
				asked := p.session.Asked(m.now, m.tail)
				if p.now != s.to.id {
					p.last, p.now, p.other, asked.Lender = "", s.to.id, p.had, p.session.Leave()
				}
				p.had, p.session = map[Pool]Grant{}, asked
				m.report(p)
				continue
			}
			for _, g := range got.grants {
				if g.Number > p.had[g.Pool].Number {
					p.had[g.Pool] = g
				}
			}
			s.answers = got.number
			p.session = p.session.Heard(p.sent[got.sequence], m.now, m.tail)
			if part, ok := got.standing["g"]; ok {
				p.standing = part
			}
			if len(got.grants) > 0 {
				m.report(p)
			}
		}
	}
}

func (m *model) requests() {
	limit := Of(m.limit)
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		p := m.members[id]
		over := func(end time.Time) bool { return !end.After(m.now) }
		p.open, p.before = slices.DeleteFunc(p.open, over), slices.DeleteFunc(p.before, over)
		if p.down || p.gone || p.paused {
			continue
		}
		for range rapid.IntRange(0, 3).Draw(m.rt, "requests") {
			if int64(len(p.open)+len(p.before)) < p.usable(m.now, limit).Concurrency {
				p.open = append(p.open, m.now.Add(time.Duration(rapid.Int64Range(1, int64(m.tail/time.Millisecond)).Draw(m.rt, "lasts"))*time.Millisecond))
			}
		}
	}
}

func (m *model) check() {
	limit := Of(m.limit)
	var sum Amount
	var story []string
	open := 0
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		p := m.members[id]
		u := p.usable(m.now, limit)
		sum = sum.Plus(u)
		open += len(p.open)
		story = append(story, fmt.Sprintf("%s %+v of %v, phase %d, standing %+v, %+v, %d open", id, p.part(), u, p.session.Phase(m.now), p.standing, p.had[thePool], len(p.open)))
	}
	if sum.Rate > limit.Rate || sum.Burst > limit.Burst || int64(open) > limit.Concurrency {
		m.rt.Fatalf("at %v: %+v and %d open, the limit is %+v\n%s", m.now.Sub(began), sum, open, limit, strings.Join(story, "\n"))
	}
}

// settle is what the allocator does for the store.
func (m *model) settle() {
	for _, a := range m.books {
		list := digest(m.listed)
		if a.book.Settled("g", list, func(id string) bool { return false }) {
			for _, id := range m.listed {
				m.counted[id] = true
			}
		}
	}
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestNeverMoreThanTheLimit plays 60 s in steps, whatever happens.
func TestNeverMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{rt: rt, now: began, tail: 4 * time.Second, counted: map[string]bool{}, members: map[string]*peer{}}
		m.limit = policy.ClassLimit{
			RequestsPerSecond: float64(rapid.IntRange(1, 100000).Draw(rt, "rate")) / 1000, Burst: rapid.IntRange(1, 40).Draw(rt, "burst"), Concurrency: rapid.IntRange(1, 12).Draw(rt, "concurrency"),
		}
		m.allocator()
		for range rapid.IntRange(1, 4).Draw(rt, "members") {
			m.join()
		}
		steps := rapid.IntRange(50, 250).Draw(rt, "steps")
		for range steps {
			m.now = m.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(rt, "step")) * time.Millisecond)
			ids := slices.Sorted(maps.Keys(m.members))
			p := m.members[ids[rapid.IntRange(0, len(ids)-1).Draw(rt, "who")]]
			switch action := rapid.IntRange(0, 30).Draw(rt, "action"); {
			case action == 0:
				p.stream = nil // it breaks
			case action == 1 && !p.gone && !p.down: // a crash, with its Envoy
				p.down, p.stream, p.open, p.before = true, nil, nil, nil
			case action == 2:
				p.paused = !p.paused
			case action == 3 && len(m.members) < 6:
				m.join()
			case action == 4 && !p.gone && len(m.listed) > 1 && len(p.open)+len(p.before) == 0: // a clean drain
				p.gone, p.stream = true, nil
				m.listed = slices.DeleteFunc(slices.Clone(m.listed), func(id string) bool { return id == p.id })
			case action == 5 && len(m.books) < 3:
				m.allocator()
			case action == 6 && len(m.books) > 0:
				a := m.books[rapid.IntRange(0, len(m.books)-1).Draw(rt, "which")]
				a.paused = !a.paused
			case action == 7 && len(m.books) > 0: // the end of an allocator
				m.books = m.books[1:]
				for _, p := range m.members {
					if p.stream != nil && !slices.Contains(m.books, p.stream.to) {
						p.stream = nil
					}
				}
			case action < 12:
				m.news(p)
			case action == 12:
				m.settle()
			case action < 16:
				p.demand = uint64(rapid.IntRange(0, 40).Draw(rt, "demand"))
			}
			for _, id := range ids {
				p := m.members[id]
				if p.down && !p.gone && rapid.IntRange(0, 5).Draw(rt, "back") == 0 {
					m.start(p)
				}
				if p.stream == nil {
					m.connect(p)
				} else {
					m.report(p)
				}
			}
			m.deliver()
			for _, a := range m.books {
				if !a.paused {
					a.book.Divide(m.now)
				}
			}
			m.check()
			m.requests()
			m.check()
		}
	})
}
