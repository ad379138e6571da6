package retry

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC) // where a window begins

func try(key string) *Try { return &Try{Tenant: "u", Key: key, Method: "POST", Path: "/orders"} }

// admitted is how many of n tries pass.
func admitted(b *Budgets, now time.Time, n int, t *Try) (passed int) {
	for range n {
		if _, _, ok := b.Admit(now, t); ok {
			passed++
		}
	}
	return passed
}

// TestStorm: however often each first try is repeated, a fifth more passes, and the floor.
func TestStorm(t *testing.T) {
	b, passed := New(Options{}), 0
	for i := range 500 {
		passed += admitted(b, start, 10, try(fmt.Sprint(i)))
	}
	if passed != 500+100+Floor {
		t.Errorf("of 500 requests, each sent 10 times, %d pass", passed)
	}
	_, retry, ok := b.Admit(start.Add(3*time.Second), try("1"))
	if ok || retry != Window-3*time.Second {
		t.Errorf("admitted %v, to be sent again in %v", ok, retry)
	}
	other := *try("1")
	other.Tenant = "v"
	if admitted(b, start, 1, &other) != 1 {
		t.Error("another tenant's budget is used")
	}
	if admitted(b, start, 20, &Try{Tenant: "w", Again: true}) != Floor {
		t.Error("what says itself that it is a repeat is none")
	}
	b.Admit(start.Add(3*Window), try("")) // both windows are over
	if admitted(b, start.Add(3*Window), 100, try("1")) != Floor {
		t.Error("tries of windows that are over count")
	}
}

func TestWhatIsARepeat(t *testing.T) {
	b := New(Options{})
	for name, change := range map[string]func(*Try){
		"method": func(t *Try) { t.Method = "PUT" }, "path": func(t *Try) { t.Path = "/orders/1" }, "target": func(t *Try) { t.Target = "dependency/bank" },
		"tenant": func(t *Try) { t.Tenant = "v" }, "key": func(t *Try) { t.Key = "k2" }, "nothing": func(*Try) {},
	} {
		b.Admit(start, try("k"))
		other := try("k")
		change(other)
		if a, _, ok := b.Admit(start, other); !ok || a.repeat != (name == "nothing") {
			t.Errorf("another %s: a repeat %v, admitted %v", name, a.repeat, ok)
		}
	}
	for after, repeat := range map[time.Duration]bool{time.Minute: true, -time.Minute: true, 2*time.Minute + time.Second: false, 1000 * time.Hour: false} {
		b := New(Options{})
		b.Admit(start, try("k"))
		if a, _, _ := b.Admit(start.Add(after), try("k")); a.repeat != repeat {
			t.Errorf("%v later: a repeat %v", after, a.repeat)
		}
	}
}

// TestUndo: what was refused after all has not been.
func TestUndo(t *testing.T) {
	b := New(Options{})
	a, _, _ := b.Admit(start, try("k"))
	b.Undo(&a)
	b.Undo(&a)
	if a, _, _ = b.Admit(start, try("k")); a.repeat {
		t.Error("a request whose first try was refused is a repeat")
	}
	for range 100 {
		a, _, ok := b.Admit(start.Add(Window), try("k"))
		if !ok || !a.repeat {
			t.Fatal("repeats that were taken back count")
		}
		b.Undo(&a)
	}
	b.Undo(&a) // of the window before
	s := &b.shards[0]
	for i := range b.shards {
		if b.shards[i].fresh != nil {
			s = &b.shards[i]
		}
	}
	if s.prior[whose{"u", ""}] != (counts{}) {
		t.Errorf("the window before has %+v", s.prior)
	}
	b.Undo(&Admission{whose: whose{"u", ""}, counts: true}) // there is nothing
}

func TestShares(t *testing.T) {
	for said, want := range map[float64]int{0: Floor + 20, 0.5: Floor + 50, -1: 1000, 5: Floor + 500, math.Inf(1): 1000, math.NaN(): Floor + 20, math.SmallestNonzeroFloat64: Floor, 1e300: 1000} {
		b, first := New(Options{}), try("")
		first.Share = said
		admitted(b, start, 100, first)
		repeat := *first
		repeat.Again = true
		if got := admitted(b, start, 1000, &repeat); got != want {
			t.Errorf("a share of %v: %d repeats of 100 pass, want %d", said, got, want)
		}
	}
}

func TestClockJumps(t *testing.T) {
	b := New(Options{})
	admitted(b, start, 100, try(""))
	repeat := try("")
	repeat.Again = true
	if got := admitted(b, start.Add(-time.Hour), 100, repeat); got != Floor+20 {
		t.Errorf("an hour back, %d repeats pass", got)
	}
	if got := admitted(b, start.Add(-time.Hour+2*Window), 100, repeat); got != Floor {
		t.Errorf("two windows on, %d repeats pass", got)
	}
}

// TestBounds: what is held is bounded; past the bounds first tries pass and repeats do not.
func TestBounds(t *testing.T) {
	b := New(Options{MaxTenants: 1, MaxKeys: 16})
	passed, repeats := 0, 0
	for i := range 1000 {
		passed += admitted(b, start, 1, &Try{Tenant: fmt.Sprint(i)})
		repeats += admitted(b, start, 1, &Try{Tenant: fmt.Sprint(i), Again: true})
	}
	if passed != 1000 || repeats != shards {
		t.Errorf("of 1,000 tenants with room for %d, %d first tries and %d repeats pass", shards, passed, repeats)
	}
	for i := range 1000 {
		b.Admit(start, &Try{Tenant: "u", Key: fmt.Sprint(i)})
	}
	if len(b.seen.words) != 16 {
		t.Errorf("%d words", len(b.seen.words))
	}
}

// TestAtOnce: of many requests with one key at once, one is the first.
func TestAtOnce(t *testing.T) {
	b := New(Options{MaxKeys: 8})
	for i := range 100 {
		var wg sync.WaitGroup
		firsts := make(chan Admission, 8)
		for range 8 {
			wg.Go(func() {
				if a, _, ok := b.Admit(start, &Try{Tenant: "u", Key: fmt.Sprint(i), Share: 1e6}); ok && !a.repeat {
					firsts <- a
				}
			})
		}
		wg.Wait()
		if len(firsts) != 1 {
			t.Fatalf("%d first tries", len(firsts))
		}
	}
}

// TestAgainstModel compares with a model that keeps every try and counts them anew each time.
func TestAgainstModel(t *testing.T) {
	type tried struct {
		window int64
		repeat bool
	}
	rapid.Check(t, func(rt *rapid.T) {
		b, now := New(Options{}), start
		share := rapid.SampledFrom([]float64{0.2, 0.5, 2}).Draw(rt, "share")
		history, keys := map[string][]tried{}, map[string]time.Time{}
		for range rapid.IntRange(1, 150).Draw(rt, "n") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "step")) * time.Millisecond)
			tenant := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "tenant")
			key := rapid.SampledFrom([]string{"", "k1", "k2", "k3"}).Draw(rt, "key")
			again := rapid.Bool().Draw(rt, "again")
			window := now.UnixNano() / int64(Window)
			at, known := keys[tenant+key]
			known = known && key != "" && now.UnixNano()/int64(generation)-at.UnixNano()/int64(generation) <= 1
			repeat := again || known
			firsts, repeats := 0, 0
			for _, h := range history[tenant] {
				if h.window >= window-1 {
					if h.repeat {
						repeats++
					} else {
						firsts++
					}
				}
			}
			want := !repeat || float64(repeats+1) <= Floor+share*float64(firsts)
			a, _, ok := b.Admit(now, &Try{Tenant: tenant, Key: key, Again: again, Share: share})
			if ok != want || ok && a.repeat != repeat {
				rt.Fatalf("admitted %v (a repeat %v), the model says %v (%v)", ok, a.repeat, want, repeat)
			}
			undone := ok && rapid.IntRange(0, 9).Draw(rt, "undo") == 0
			if undone {
				b.Undo(&a)
			} else if ok {
				history[tenant] = append(history[tenant], tried{window, repeat})
			}
			if known || key != "" && ok && !undone {
				keys[tenant+key] = now
			} else {
				delete(keys, tenant+key)
			}
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	budgets := New(Options{})
	for name, key := range map[string]string{"plain": "", "key": "0123456789abcdef"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				budgets.Admit(start, &Try{Tenant: "0123456789abcdef", Key: key, Method: "POST", Path: "/documents", Share: 1e6})
			}
		})
	}
}
