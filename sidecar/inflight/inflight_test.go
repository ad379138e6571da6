package inflight

import (
	"fmt"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/ledger"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestOlderCountsOneTenantUnderOlderEpochs(t *testing.T) {
	l := New(Options{})
	for i, r := range []Request{
		{UID: "acme", Epoch: 1, Since: start}, {UID: "acme", Epoch: 2, Stream: true, Since: start}, {UID: "acme", Epoch: 3, Since: start}, {UID: "globex", Epoch: 1, Since: start},
	} {
		if l.Begin(fmt.Sprint(i), r) != Begun {
			t.Fatal("no room")
		}
	}
	if got, streams := l.Older(start, "acme", 3); got != 2 || streams != 1 {
		t.Errorf("%d older than epoch 3, %d of them streams, want 2 and 1", got, streams)
	}
	if r, ok := l.End(start, "0", false); !ok || r.Epoch != 1 {
		t.Errorf("ended %+v, %v", r, ok)
	}
	if _, ok := l.End(start, "0", false); ok {
		t.Error("one request ended twice")
	}
	// A stream lives as long as it says so; what Envoy's bounds have ended is not waited for.
	for at := start; at.Before(start.Add(time.Hour)); at = at.Add(meshname.RenewalTime) {
		l.Renew(at, "1")
		l.Renew(at, "unknown")
	}
	if got, _ := l.Older(start.Add(time.Hour), "acme", 9); got != 1 {
		t.Errorf("%d after an hour, want the stream only", got)
	}
	if open := l.Clear(); len(open) != 1 || l.Open() != 0 {
		t.Errorf("cleared %v, and %d are open", open, l.Open())
	}
}

func TestEndBeforeBegin(t *testing.T) {
	l := New(Options{})
	l.End(start, "a", false)
	if l.Begin("a", Request{Since: start}) != Gone || l.Open() != 0 {
		t.Errorf("%d open, though the client had hung up", l.Open())
	}
	l.End(start, "b", false)
	l.End(start.Add(11*time.Second), "c", false) // turns the generation
	l.Begin("b", Request{Since: start})
	l.Begin("c", Request{Since: start})
	l.End(start, "d", false)
	if !l.HungUp("d") || l.HungUp("d") {
		t.Error("the early end of a request that does not begin is not told once")
	}
	l.End(start, "e", true)
	if l.HungUp("e") {
		t.Error("the end of a request that was settled is remembered")
	}
	if l.Open() != 0 {
		t.Errorf("%d open, want none: both ends are young enough", l.Open())
	}
	for i := range 5 * maxEarly {
		l.End(start, fmt.Sprint("stray-", i), false)
	}
	if n := len(l.fresh) + len(l.former); n > 2*maxEarly {
		t.Errorf("%d ends are remembered", n)
	}
}

func TestFull(t *testing.T) {
	l := New(Options{MaxOpen: 2})
	l.Begin("a", Request{Since: start})
	l.Renew(start.Add(3*time.Minute), "a")
	l.Begin("b", Request{Since: start, Usage: ledger.UsageRecord{Requests: 1}})
	if l.Begin("c", Request{Since: start}) != Full {
		t.Error("a third has room")
	}
	if l.Begin("c", Request{Since: start.Add(meshname.LeaseTime + 1)}) != Begun {
		t.Error("what has surely ended keeps its room")
	}
	if l.Begin("", Request{Since: start.Add(meshname.LeaseTime + 1)}) != Full {
		t.Error("a request without a lease has room: nothing would end it")
	}
}
