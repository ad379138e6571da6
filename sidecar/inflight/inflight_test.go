package inflight

import (
	"fmt"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestOlderCountsOneTenantUnderOlderEpochs(t *testing.T) {
	l := New(Options{})
	for i, r := range []Request{
		{UID: "acme", Epoch: 1, Since: start}, {UID: "acme", Epoch: 2, Since: start, Stream: true}, {UID: "acme", Epoch: 3, Since: start}, {UID: "globex", Epoch: 1, Since: start},
	} {
		if l.Begin(fmt.Sprint(i), r) != Begun {
			t.Fatal("no room")
		}
	}
	if got := l.Older(start, "acme", 3); got != 2 {
		t.Errorf("%d older than epoch 3, want 2", got)
	}
	if r, ok := l.End(start, "0"); !ok || r.Epoch != 1 {
		t.Errorf("ended %+v, %v", r, ok)
	}
	if _, ok := l.End(start, "0"); ok {
		t.Error("one request ended twice")
	}
	// A stream lives until its end is seen; what a route's timeout has ended is not waited for.
	if got := l.Older(start.Add(time.Hour), "acme", 9); got != 1 {
		t.Errorf("%d after an hour, want the stream only", got)
	}
}

func TestEndBeforeBegin(t *testing.T) {
	l := New(Options{})
	l.End(start, "a")
	if l.Begin("a", Request{Since: start}) != Gone || l.Open() != 0 {
		t.Errorf("%d open, though the client had hung up", l.Open())
	}
	l.End(start, "b")
	l.End(start.Add(11*time.Second), "c") // turns the generation
	l.Begin("b", Request{Since: start})
	l.Begin("c", Request{Since: start})
	if l.Open() != 0 {
		t.Errorf("%d open, want none: both ends are young enough", l.Open())
	}
	for i := range 5 * maxEarly {
		l.End(start, fmt.Sprint("stray-", i))
	}
	if n := len(l.fresh) + len(l.former); n > 2*maxEarly {
		t.Errorf("%d ends are remembered", n)
	}
}

func TestFull(t *testing.T) {
	l := New(Options{MaxOpen: 2})
	l.Begin("a", Request{Since: start, Stream: true})
	l.Begin("b", Request{Since: start, Usage: ledger.UsageRecord{Requests: 1}})
	if l.Begin("c", Request{Since: start}) != Full {
		t.Error("a third has room")
	}
	if l.Begin("c", Request{Since: start.Add(2 * time.Minute)}) != Begun {
		t.Error("what has surely ended keeps its room")
	}
	if l.Begin("", Request{Since: start.Add(2 * time.Minute)}) != Full {
		t.Error("a request without a lease has room: nothing would end it")
	}
}
