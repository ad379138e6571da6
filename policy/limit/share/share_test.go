package share

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/policy"
)

func TestOf(t *testing.T) {
	const unlimited = policy.Unlimited
	for _, test := range []struct {
		limit policy.ClassLimit
		want  Amount
	}{
		{policy.ClassLimit{RequestsPerSecond: 10, Burst: 20, Concurrency: 3}, Amount{10000, 20, 3}},
		{policy.ClassLimit{RequestsPerSecond: unlimited, Burst: 20, Concurrency: unlimited}, Amount{Unlimited, 0, Unlimited}},
		{policy.ClassLimit{}, Amount{Unlimited, 0, Unlimited}},
		{policy.ClassLimit{RequestsPerSecond: math.NaN(), Burst: -5, Concurrency: -7}, Amount{1, 1, Unlimited}},
		{policy.ClassLimit{RequestsPerSecond: math.Inf(1), Burst: math.MaxInt, Concurrency: math.MaxInt}, Amount{maxRate, maxCount, maxCount}},
		{policy.ClassLimit{RequestsPerSecond: math.Inf(-1)}, Amount{Unlimited, 0, Unlimited}},
		{policy.ClassLimit{RequestsPerSecond: 1e-9, Burst: 1}, Amount{1, 1, Unlimited}},
	} {
		if got := Of(test.limit); got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.limit, got, test.want)
		}
	}
	if got := Of(policy.ClassLimit{RequestsPerSecond: 2.5, Burst: 4, Concurrency: 1}).Limit(); got != (policy.ClassLimit{RequestsPerSecond: 2.5, Burst: 4, Concurrency: 1}) {
		t.Errorf("as a limit again: %+v", got)
	}
}

// TestParts: parts are the limit, what is standing is no more than the part, and when a member leaves nobody has less.
func TestParts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := Amount{rapid.Int64Range(Unlimited, maxRate).Draw(rt, "rate"), rapid.Int64Range(1, maxCount).Draw(rt, "burst"), rapid.Int64Range(1, 20).Draw(rt, "concurrency")}
		n := rapid.IntRange(1, 60).Draw(rt, "members")
		var sum Amount
		for rank := range n {
			part := Part{Rank: rank, Of: n, Counted: true}
			own, standing := part.Own(limit), part.Standing(limit)
			sum = sum.Plus(own)
			if standing.Min(own) != standing {
				rt.Fatalf("%+v: %+v is standing of %+v", part, standing, own)
			}
			fewer := Part{Rank: max(0, rank-rapid.IntRange(0, 1).Draw(rt, "before")), Of: max(1, n-1), Counted: true}
			if n > 1 && fewer.Rank < fewer.Of && own.Min(fewer.Own(limit)) != own {
				rt.Fatalf("%+v has %+v, and %+v has %+v", part, own, fewer, fewer.Own(limit))
			}
		}
		if want := limit.Min(limit); sum != want {
			rt.Fatalf("the parts are %+v of %+v", sum, want)
		}
	})
	for _, none := range []Part{{}, {Rank: 0, Of: 3}, {Rank: 3, Of: 3, Counted: true}, {Rank: -1, Of: 2, Counted: true}, {Rank: 1, Of: -1, Counted: true}} {
		if own := none.Own(Amount{100, 10, 5}); own != (Amount{}) {
			t.Errorf("%+v owns %+v", none, own)
		}
	}
	if PartOf("b", []string{"a", "b"}, []string{"b"}) != (Part{1, 2, Digest([]string{"a", "b"}), true}) || PartOf("c", []string{"a", "b"}, nil) != (Part{}) {
		t.Error("a member's place is another")
	}
}

// mesh is members of one group in sessions with one book, over a network that brings everything at once.
type mesh struct {
	t     *testing.T
	book  *Book
	now   time.Time
	limit policy.ClassLimit
	ids   []string
	parts map[string]Part
	had   map[string]Grant
	told  map[string]uint64
	deaf  string // does not say what it was granted
}

func newMesh(t *testing.T, limit policy.ClassLimit, ids ...string) *mesh {
	m := &mesh{t: t, now: began, limit: limit, ids: ids, parts: map[string]Part{}, had: map[string]Grant{}, told: map[string]uint64{}}
	m.book = NewBook(Options{Limit: func(Pool) (policy.ClassLimit, bool) { return m.limit, true }, Tail: time.Minute})
	m.book.SetGroups(map[string][]string{"g": ids})
	for _, id := range ids {
		m.parts[id] = PartOf(id, ids, ids)
		m.book.Begin(m.now, m.now, id)
	}
	return m
}

// step has every member report what came to it in 200 ms, and returns what each may use then.
func (m *mesh) step(wanted map[string]uint64, open map[string]uint64, waiting map[string]uint64) map[string]Amount {
	m.now = m.now.Add(200 * time.Millisecond)
	usable := map[string]Amount{}
	for range 3 { // answers to what is taken away come at once
		for _, id := range m.ids {
			r := Report{Parts: map[string]Part{"g": m.parts[id]}, Standing: map[string]Part{"g": m.parts[id]}, Lends: true, LendsOpen: true, Answers: m.told[id]}
			r.Usages = []Usage{{Pool: thePool, Grant: m.had[id].Number, Elapsed: 200 * time.Millisecond, Wanted: wanted[id], Open: open[id], Waiting: waiting[id]}}
			if id == m.deaf {
				r.Usages[0].Grant = 0
			}
			if !m.book.Report(m.now, id, r) {
				m.t.Fatal("the session is over")
			}
			number, grants, _ := m.book.Take(m.now, id)
			m.told[id] = number
			for _, g := range grants {
				m.had[id] = g
			}
		}
	}
	for _, id := range m.ids {
		usable[id] = m.parts[id].Usable(Of(m.limit), In, m.parts[id], m.had[id].Amount, Amount{})
	}
	return usable
}

// TestByDemand: all at one gets nearly all at once, a shift is followed within a second, and demand is served max-min fair.
func TestByDemand(t *testing.T) {
	m := newMesh(t, policy.ClassLimit{RequestsPerSecond: 100, Burst: 20, Concurrency: 10}, "a", "b", "c")
	if got := m.step(map[string]uint64{"a": 40}, nil, nil)["a"]; got.Rate < 95000 || got.Burst < 11 {
		t.Errorf("all at one: %+v", got)
	}
	steps := 0
	for got := (Amount{}); got.Rate < 95000; steps++ {
		if got = m.step(map[string]uint64{"b": 40}, nil, nil)["b"]; steps > 5 {
			t.Fatalf("%d steps after the shift: %+v", steps, got)
		}
	}
	for range 10 {
		got := m.step(map[string]uint64{"a": 2, "b": 40, "c": 40}, nil, nil)
		if steps++; got["a"].Rate < 10000 || got["b"].Rate < 40000 || got["c"].Rate < 40000 {
			if steps > 15 {
				t.Errorf("10, 200 and 200 of 100: %+v", got)
			}
		}
	}
	// One export at a time, wherever it comes: the next is let in where the last was, or where one waits once it is over.
	m = newMesh(t, policy.ClassLimit{Concurrency: 1}, "a", "b", "c")
	if got := m.step(map[string]uint64{"b": 1}, nil, map[string]uint64{"b": 1}); got["b"].Concurrency != 1 {
		t.Errorf("the one that asks: %+v", got)
	}
	if got := m.step(map[string]uint64{"c": 1}, map[string]uint64{"b": 1}, map[string]uint64{"c": 1}); got["c"].Concurrency != 0 {
		t.Errorf("while another is open: %+v", got)
	}
	for range 12 {
		m.step(map[string]uint64{"c": 1}, nil, map[string]uint64{"c": 1})
	}
	if got := m.step(map[string]uint64{"c": 1}, nil, map[string]uint64{"c": 1}); got["c"].Concurrency != 1 {
		t.Errorf("once it is over: %+v", got)
	}
	for range 10 {
		m.step(nil, nil, nil)
	}
	if got := m.step(nil, nil, nil); got["c"].Concurrency != 1 {
		t.Errorf("while nobody wants it: %+v", got)
	}
}

// TestForgets: a pool that nobody has wanted for long is given back and forgotten.
func TestForgets(t *testing.T) {
	m := newMesh(t, policy.ClassLimit{RequestsPerSecond: 100, Burst: 20, Concurrency: 10}, "a", "b")
	m.step(map[string]uint64{"a": 40}, nil, nil)
	for range 6 * 60 {
		m.step(nil, nil, nil)
	}
	if _, pools := m.book.Sizes(); pools != 0 || m.had["a"].Amount != (Amount{}) {
		t.Errorf("%d pools are left, %+v", pools, m.had["a"])
	}
	m.book.MaxPools = 0
	m.step(map[string]uint64{"a": 40}, nil, nil)
	if _, pools := m.book.Sizes(); pools != 0 {
		t.Error("a pool beyond the bound is kept")
	}
}

// TestBadReports: what no member would say changes nothing that it should not.
func TestBadReports(t *testing.T) {
	m := newMesh(t, policy.ClassLimit{RequestsPerSecond: 100, Burst: 20, Concurrency: 10}, "a", "b")
	for _, u := range []Usage{
		{Pool: thePool, Grant: math.MaxUint64, Elapsed: -time.Hour, Wanted: math.MaxUint64, Open: math.MaxUint64, Waiting: math.MaxUint64},
		{Pool: Pool{Group: "other", UID: "u"}, Wanted: 1}, {Pool: thePool, Elapsed: math.MaxInt64, Wanted: 1},
	} {
		for _, part := range []Part{{Rank: -1, Of: 2, Counted: true}, {Rank: 0, Of: math.MinInt}, {Rank: math.MaxInt, Of: math.MaxInt, Counted: true}, m.parts["a"]} {
			m.book.Report(m.now, "a", Report{Parts: map[string]Part{"g": part, "other": part}, Standing: map[string]Part{"g": part}, Lends: true, LendsOpen: true, Usages: []Usage{u}})
			_, grants, _ := m.book.Take(m.now, "a")
			for _, g := range grants {
				if g.Amount.Min(Of(m.limit)) != g.Amount || g.Amount.Rate < 0 || g.Amount.Burst < 0 || g.Amount.Concurrency < 0 {
					t.Errorf("%+v: granted %+v", u, g.Amount)
				}
			}
		}
	}
	if m.book.Report(m.now, "nobody", Report{}) {
		t.Error("a report of no session is taken")
	}
	if number, _, _ := m.book.Take(m.now.Add(time.Minute), "a"); number != 0 {
		t.Error("a session outlives its lease")
	}
}

// TestGone: what a member let in counts as long as it may last once the member is out of reach, and no longer.
func TestGone(t *testing.T) {
	m := newMesh(t, policy.ClassLimit{Concurrency: 4}, "a", "b")
	m.step(map[string]uint64{"a": 4}, map[string]uint64{"a": 3}, nil)
	m.ids = []string{"b"} // a says nothing any more
	free := func() int64 {
		return m.step(map[string]uint64{"b": 4}, nil, map[string]uint64{"b": 4})["b"].Concurrency
	}
	for m.now.Before(began.Add(Lease + time.Second)) {
		free()
	}
	if got := free(); got != 1 {
		t.Errorf("b may have %d open, while a has 3 of the 4", got)
	}
	for m.now.Before(began.Add(Lease + time.Minute + 2*time.Second)) {
		free()
	}
	if got := free(); got != 2 {
		t.Errorf("b may have %d open, and half is its own", got)
	}
}

// TestUnanswered: of a member that answers no grant the most that it was given counts, in bounded memory.
func TestUnanswered(t *testing.T) {
	m := newMesh(t, policy.ClassLimit{RequestsPerSecond: 100, Burst: 20, Concurrency: 10}, "a", "b")
	m.step(map[string]uint64{"a": 40}, nil, nil)
	m.deaf = "a"
	for i := range 300 {
		m.step(map[string]uint64{"a": uint64(i % 7), "b": uint64(6 - i%7)}, nil, nil)
		if got := m.had["b"].Amount.Rate; got > 5000 {
			t.Fatalf("b was given %d of what a may be using", got)
		}
	}
	if n := len(m.book.pools[thePool].holders["a"].given); n > maxGiven {
		t.Errorf("%d grants are kept", n)
	}
}

func TestSettled(t *testing.T) {
	m := newMesh(t, policy.ClassLimit{RequestsPerSecond: 100, Burst: 20}, "a", "b")
	m.step(nil, nil, nil)
	list := Digest(m.ids)
	nobody, b := func(string) bool { return false }, func(id string) bool { return id == "b" }
	if !m.book.Settled("g", list, nobody) || m.book.Settled("g", "another", nobody) {
		t.Error("all know of all")
	}
	m.ids = []string{"a"}
	for range 15 {
		m.step(nil, nil, nil)
	}
	if m.book.Settled("g", list, nobody) || !m.book.Settled("g", list, b) {
		t.Error("who is out of reach is waited for, until it is gone")
	}
	m.limit = policy.ClassLimit{RequestsPerSecond: 10, Burst: 2}
	m.book.Changed()
	if got := m.step(map[string]uint64{"a": 40}, nil, nil)["a"]; got.Rate > 10000 || got.Burst > 2 {
		t.Errorf("under a lower limit: %+v", got)
	}
}
