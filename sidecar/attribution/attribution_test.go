package attribution

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func digests(ids ...string) IDs {
	var list IDs
	for _, id := range ids {
		list.Add(tenanttoken.DigestOf(id))
	}
	return list
}

// model is the ledger as one would tell it: a list of requests, looked through from the start each time.
type model struct{ requests []modelRequest }

type modelRequest struct {
	lease, uid, token string
	ids               []string
	closed            time.Time
}

func (m *model) find(now time.Time, id string) (string, Match) {
	token, match, uid := "", Unknown, ""
	for _, r := range m.requests {
		if !r.closed.IsZero() && now.Sub(r.closed) >= time.Second {
			continue
		}
		for _, known := range r.ids {
			switch {
			case known != id:
			case match == Unknown:
				token, match, uid = r.token, Found, r.uid
			case r.uid != uid:
				match = Conflicted
			default:
				token = r.token
			}
		}
	}
	if match == Conflicted {
		token = ""
	}
	return token, match
}

// TestAgainstModel opens and closes requests of two tenants with few IDs.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l, m, now := New(Options{Grace: time.Second}), &model{}, start
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 800).Draw(rt, "ms")) * time.Millisecond)
			if rapid.Bool().Draw(rt, "open") {
				r := modelRequest{fmt.Sprint("l", i), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "uid"), fmt.Sprint("t", i), rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "z"}), 0, 3).Draw(rt, "ids"), time.Time{}}
				if !l.Open(now, r.lease, r.uid, r.token, digests(r.ids...)) {
					rt.Fatal("there is room")
				}
				m.requests = append(m.requests, r)
			} else if n := len(m.requests); n > 0 {
				r := &m.requests[rapid.IntRange(0, n-1).Draw(rt, "which")]
				l.Close(now, r.lease)
				if r.closed.IsZero() {
					r.closed = now
				}
			}
			for _, id := range []string{"x", "y", "z"} {
				token, match := l.Find(now, tenanttoken.DigestOf(id))
				wantToken, want := m.find(now, id)
				if match != want {
					rt.Fatalf("%s is %v, the model says %v", id, match, want)
				}
				if match == Found && token != wantToken {
					rt.Fatalf("%s is %s, the model says %s", id, token, wantToken)
				}
			}
		}
		now = now.Add(time.Hour)
		l.Close(now, "none")
		if l.Len() != 0 || len(l.known) != 0 {
			rt.Fatalf("an hour later %d requests and %d IDs are there", l.Len(), len(l.known))
		}
	})
}

func TestBounds(t *testing.T) {
	l := New(Options{MaxOpen: 2})
	for _, lease := range []string{"a", "b"} {
		if !l.Open(start, lease, "u", "t", digests("x")) {
			t.Fatal("there is room")
		}
	}
	if l.Open(start, "c", "u", "t", digests("x")) {
		t.Error("a third of two is let in")
	}
	if !l.Open(start, "a", "u", "t", digests("x")) {
		t.Error("one that is open already is refused")
	}
	if l.Open(start, "", "u", "t", IDs{}) {
		t.Error("a request without a lease is let in")
	}
	l.Close(start, "a")
	l.Close(start, "a")
	if !l.Open(start, "c", "u", "t", digests("x")) {
		t.Error("there is room again")
	}
}

// TestLongRequest: one that stays open keeps nothing of those that came after it and have ended.
func TestLongRequest(t *testing.T) {
	l, now := New(Options{}), start
	l.Open(now, "long", "u", "t", digests("long"))
	for i := range 10_000 {
		now = now.Add(10 * time.Millisecond)
		l.Open(now, fmt.Sprint(i), "u", "t", digests(fmt.Sprint(i)))
		l.Close(now, fmt.Sprint(i))
	}
	now = now.Add(time.Minute)
	if _, match := l.Find(now, tenanttoken.DigestOf("long")); match != Found || len(l.open) != 1 || l.opened.first != l.opened.last || len(l.known) != 1 || l.ending.first != nil {
		t.Errorf("%v: %d open, %d IDs; want one request", match, len(l.open), len(l.known))
	}
}

// TestMemory: 100,000 open requests, each with the three IDs that requests have.
func TestMemory(t *testing.T) {
	const n = 100_000
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	l := New(Options{})
	before := heap()
	for i := range n {
		if !l.Open(start, fmt.Sprintf("%032d", i), "uid", "token", digests(fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i))) {
			t.Fatal("there is room")
		}
	}
	if each := (heap() - before) / n; each >= 500 {
		t.Errorf("an open request takes %d bytes, want under 500", each)
	}
	runtime.KeepAlive(l)
}

// BenchmarkFind looks calls up while 100,000 requests are open, by IDs in no order that a cache could know.
func BenchmarkFind(b *testing.B) {
	const n = 100_000
	l := New(Options{})
	ids := make([]tenanttoken.Digest, n)
	for i := range n {
		ids[i] = tenanttoken.DigestOf(fmt.Sprint("a", i))
		if !l.Open(start, fmt.Sprintf("%032d", i), "uid", "token", digests(fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i))) {
			b.Fatal("there is room")
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, match := l.Find(start, ids[i%n]); match != Found {
			b.Fatal(match)
		}
	}
}
