package breaker

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

var acme = Pair{"uid-1", "dependency/store"}

// world makes calls, each under a lease of its own.
type world struct {
	*Set
	t   *testing.T
	now time.Time
	n   int
	by  Settings
}

func newWorld(t *testing.T, options Options) *world {
	return &world{Set: New(options), t: t, now: start}
}

func (w *world) begin(pair Pair) (lease string) {
	w.t.Helper()
	w.n++
	lease = fmt.Sprint(w.n)
	if retry, ok := w.Admit(w.now, lease, pair, w.by); !ok {
		w.t.Fatalf("call %s of %v is refused for %v", lease, pair, retry)
	}
	return lease
}

func (w *world) call(pair Pair, outcomes ...Outcome) {
	w.t.Helper()
	for _, outcome := range outcomes {
		w.End(w.now, w.begin(pair), outcome)
	}
}

func (w *world) refused(pair Pair, retry time.Duration) {
	w.t.Helper()
	if got, ok := w.Admit(w.now, "refused", pair, w.by); ok || got != retry {
		w.t.Errorf("at %v: %v, refused for %v; want refused for %v", w.now.Sub(start), ok, got, retry)
	}
}

func failures(n int) []Outcome {
	list := make([]Outcome, n)
	for i := range list {
		list[i] = Failure
	}
	return list
}

func TestOpensAndCloses(t *testing.T) {
	w := newWorld(t, Options{})
	globex := Pair{"uid-2", acme.Target}
	w.call(acme, Success, Unknown)
	if w.Pairs() != 0 {
		t.Errorf("%d pairs, and nothing has failed", w.Pairs())
	}
	w.call(acme, failures(4)...)
	old := w.begin(acme)
	w.call(acme, Unknown, Failure)
	w.refused(acme, 5*time.Second)
	if w.Open() != 1 {
		t.Errorf("%d are open", w.Open())
	}
	w.End(w.now, old, Success)
	w.refused(acme, 5*time.Second) // what began before is no news
	w.call(globex, Success, Failure)
	w.call(Pair{acme.Tenant, "dependency/mail"}, Success)

	w.now = w.now.Add(5*time.Second - 1)
	w.refused(acme, 1)
	w.now = w.now.Add(1)
	probe := w.begin(acme)
	w.refused(acme, 5*time.Second)
	w.End(w.now, probe, Failure)
	w.refused(acme, 10*time.Second)
	for wait := 10 * time.Second; wait < 2*time.Minute; wait *= 2 {
		w.now = w.now.Add(min(wait, time.Minute))
		w.call(acme, Failure)
		w.refused(acme, min(2*wait, time.Minute))
	}
	w.now = w.now.Add(time.Minute)
	w.call(acme, Unknown) // the caller of the probe hung up: the next one probes
	w.call(acme, Success)
	if w.Open() != 0 || w.Pairs() != 0 {
		t.Errorf("%d open, %d pairs: one that was closed is forgotten, and so is one that has not failed for long", w.Open(), w.Pairs())
	}
	w.call(acme, failures(4)...)
	w.begin(acme)
}

// TestSlowProbe: a probe that takes longer than the wait counts, though others were let through meanwhile.
func TestSlowProbe(t *testing.T) {
	w := newWorld(t, Options{})
	w.call(acme, failures(5)...)
	w.now = w.now.Add(5 * time.Second)
	slow := w.begin(acme)
	w.now = w.now.Add(5 * time.Second)
	slower := w.begin(acme)
	w.End(w.now, slow, Success)
	w.call(acme, failures(5)...)
	w.refused(acme, 5*time.Second)
	w.End(w.now, slower, Success) // of another opening
	w.End(w.now, "never begun", Success)
	w.refused(acme, 5*time.Second)
}

func TestShareAndWindow(t *testing.T) {
	w := newWorld(t, Options{})
	w.call(acme, Failure)
	for range 100 {
		w.call(acme, Success, Success, Failure) // a third
	}
	if w.Open() != 0 {
		t.Error("it opens at a third")
	}
	w.now = w.now.Add(10 * time.Second)
	w.call(acme, Success)
	if w.Pairs() != 0 {
		t.Error("a success after the window does not forget the pair")
	}
	w.call(acme, failures(4)...)
	w.now = w.now.Add(10 * time.Second)
	w.call(acme, failures(4)...)
	if w.Open() != 0 {
		t.Error("failures of two windows are summed")
	}
	w.by.Failures = -1
	w.call(acme, failures(100)...)
	if w.Open() != 0 || len(w.calls) != 0 {
		t.Error("one that never opens is counted")
	}
}

func TestClockJumps(t *testing.T) {
	w := newWorld(t, Options{})
	w.call(acme, failures(4)...)
	w.now = w.now.Add(-time.Hour)
	w.call(acme, Failure)
	if w.Open() != 0 {
		t.Error("failures of the future count")
	}
	w.call(acme, failures(4)...)
	w.refused(acme, 5*time.Second)
	w.now = w.now.Add(-time.Hour)
	w.refused(acme, 5*time.Second) // not an hour and 5 s
	w.now = w.now.Add(time.Hour)
	w.call(acme, Success)
	if w.Pairs() != 0 {
		t.Errorf("%d pairs", w.Pairs())
	}
}

// TestBounds: what is held is bounded, and past the bounds nobody is refused.
func TestBounds(t *testing.T) {
	w := newWorld(t, Options{MaxPairs: 3, MaxCalls: 4})
	other := func(i int) Pair { return Pair{fmt.Sprint(i), acme.Target} }
	for i := range 5 {
		w.call(other(i), failures(5)...)
	}
	if w.Pairs() != 3 || w.Open() != 3 {
		t.Errorf("%d pairs, %d open", w.Pairs(), w.Open())
	}
	for range 10 {
		w.begin(acme)
	}
	if len(w.calls) != 4 || w.begun.Len() != 4 {
		t.Errorf("%d calls", len(w.calls))
	}
	w.now = w.now.Add(time.Hour)
	w.call(acme, Success, Success, Success)
	if w.Pairs() != 0 || len(w.calls) != 0 || w.Open() != 0 {
		t.Errorf("an hour later: %d pairs, %d calls", w.Pairs(), len(w.calls))
	}
	// The same lease again, as after a clock that stood still.
	if _, ok := w.Admit(w.now, "twice", acme, w.by); !ok {
		t.Error("refused")
	}
	if _, ok := w.Admit(w.now, "twice", other(1), w.by); !ok || len(w.calls) != 1 {
		t.Errorf("%v, %d calls", ok, len(w.calls))
	}
	// A tenant that is made again shares nothing with the one that was.
	w.call(acme, failures(5)...)
	w.call(Pair{"uid-new", acme.Target}, Success)
}

func TestDefaults(t *testing.T) {
	whole := Settings{5, 0.5, 10 * time.Second, 5 * time.Second, time.Minute}
	for _, test := range []struct{ said, want Settings }{
		{Settings{}, whole},
		{Settings{Share: math.NaN()}, whole},
		{Settings{-1, -3, -1, -1, -1}, Settings{-1, math.SmallestNonzeroFloat64, MinWindow, MinWait, MinWait}},
		{Settings{math.MaxInt, math.Inf(1), math.MaxInt64, math.MaxInt64, time.Second}, Settings{MaxFailures, 1, MaxDuration, MaxDuration, MaxDuration}},
	} {
		if got := test.said.Defaults(); got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.said, got, test.want)
		}
	}
}

// event is what happened to one pair, for the model.
type event struct {
	at       time.Time
	outcome  Outcome
	probe    bool
	closings int // before the call began
}

// model says of a pair, from all that happened to it, whether it is open at now, when the next probe is, and how often
// it was closed. It goes through everything each time.
func model(events []event, by Settings, now time.Time) (open bool, until time.Time, closings int) {
	var window []event
	var wait time.Duration
	var stale time.Time
	shut := func(at time.Time) {
		until = at.Add(wait)
		stale = until.Add(by.MaxWait)
	}
	for _, e := range append(events[:len(events):len(events)], event{at: now}) {
		if open && e.at.After(stale) {
			open, window, closings = false, nil, closings+1
		}
		if open {
			switch {
			case !e.probe || e.closings != closings:
			case e.outcome == Success:
				open, window, closings = false, nil, closings+1
			case e.outcome == Failure:
				wait = min(2*wait, by.MaxWait)
				shut(e.at)
			case e.outcome == Unknown:
				until = e.at
			case e.outcome == began:
				shut(e.at)
			}
			continue
		}
		if e.outcome != Success && e.outcome != Failure {
			continue
		}
		if len(window) > 0 && e.at.Sub(window[0].at) >= by.Window {
			window = nil
		}
		if len(window) == 0 && e.outcome == Success {
			continue
		}
		window = append(window, e)
		failed := 0
		for _, w := range window {
			if w.outcome == Failure {
				failed++
			}
		}
		if failed >= by.Failures && float64(failed)/float64(len(window)) >= by.Share {
			open, wait = true, by.Wait
			shut(e.at)
		}
	}
	return open, until, closings
}

var began = Outcome(255) // no outcome yet: a probe goes out

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		by := Settings{
			Failures: rapid.IntRange(1, 4).Draw(rt, "failures"), Share: rapid.SampledFrom([]float64{0.25, 0.5, 1}).Draw(rt, "share"),
			Window: 4 * time.Second, Wait: 2 * time.Second, MaxWait: 8 * time.Second,
		}
		s, now := New(Options{}), start
		history := map[Pair][]event{}
		type open struct {
			lease    string
			pair     Pair
			probe    bool
			closings int // of its pair, before it
		}
		var calls []open
		for i := range rapid.IntRange(1, 80).Draw(rt, "n") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4).Draw(rt, "step")) * 500 * time.Millisecond)
			if len(calls) > 0 && rapid.Bool().Draw(rt, "end") {
				n := rapid.IntRange(0, len(calls)-1).Draw(rt, "which")
				c := calls[n]
				calls = append(calls[:n], calls[n+1:]...)
				outcome := rapid.SampledFrom([]Outcome{Unknown, Success, Failure, Failure}).Draw(rt, "outcome")
				s.End(now, c.lease, outcome)
				history[c.pair] = append(history[c.pair], event{now, outcome, c.probe, c.closings})
				continue
			}
			pair := Pair{rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "tenant"), "t"}
			isOpen, until, closings := model(history[pair], by, now)
			lease := fmt.Sprint(i)
			retry, ok := s.Admit(now, lease, pair, by)
			if want := !isOpen || !now.Before(until); ok != want || !ok && retry != until.Sub(now) {
				rt.Fatalf("%v of %v: admitted %v (retry %v), the model says %v (%v): %v", lease, pair, ok, retry, want, until.Sub(now), history[pair])
			}
			if ok {
				calls = append(calls, open{lease, pair, isOpen, closings})
				if isOpen {
					history[pair] = append(history[pair], event{now, began, true, closings})
				}
			}
		}
	})
}

func BenchmarkCall(b *testing.B) {
	s := New(Options{})
	b.ReportAllocs()
	for b.Loop() {
		s.Admit(start, "lease", acme, Settings{})
		s.End(start, "lease", Success)
	}
}
