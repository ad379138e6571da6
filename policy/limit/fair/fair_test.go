package fair

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the slow and obvious account: every open request, and who came when.
type model struct {
	open   map[Ticket]modelled
	seen   map[string]time.Time
	weight map[string]float64
}

type modelled struct {
	tenant string
	at     time.Time
}

func (m *model) of(tenant string) (n int) {
	for _, r := range m.open {
		if tenant == "" || r.tenant == tenant {
			n++
		}
	}
	return n
}

// pass ends what is open for 30 s, and forgets who was not active for a second.
func (m *model) pass(now time.Time) {
	for ticket, r := range m.open {
		if now.Sub(r.at) >= LongTime {
			delete(m.open, ticket)
			m.seen[r.tenant] = now
		}
	}
	for tenant, at := range m.seen {
		if m.of(tenant) == 0 && now.Sub(at) >= activeTime {
			delete(m.seen, tenant)
		}
	}
}

// weights is the weight of all that are active.
func (m *model) weights() (sum float64) {
	for tenant := range m.seen {
		sum += m.weight[tenant]
	}
	return sum
}

// level is the water level by bisection: at which all demands, up to the level times the weight, fill the limit.
func level(c *Controller) float64 {
	low, high := 0.0, 1e9
	for range 200 {
		mid, sum := (low+high)/2, 0.0
		for _, t := range c.active {
			demand := t.use[interactive] + t.use[batch]
			if t.hungry(interactive) || t.hungry(batch) {
				demand = math.Inf(1)
			}
			sum += min(demand, mid*t.weight)
		}
		if sum > c.finder.limit {
			high = mid
		} else {
			low = mid
		}
	}
	return low
}

// TestAgainstModel: whatever comes, ends and passes, nobody below its guaranteed share is refused, nobody is refused while there is
// room, the counts are right, the level is the max-min one, and what is open stays within the bound.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, now := New(0), start
		c.force = true
		m := &model{open: map[Ticket]modelled{}, seen: map[string]time.Time{}, weight: map[string]float64{}}
		limit := rapid.IntRange(1, 12).Draw(rt, "limit")
		names := []string{"a", "b", "c", "d", "e", "f"}
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 3, 20, 300, 1100, 31000}).Draw(rt, "ms")) * time.Millisecond)
			m.pass(now)
			if len(m.open) > 0 && rapid.Bool().Draw(rt, "end") {
				var tickets []Ticket
				for ticket := range m.open {
					tickets = append(tickets, ticket)
				}
				slices.SortFunc(tickets, func(a, b Ticket) int { return int(a.slot) - int(b.slot) })
				ticket := rapid.SampledFrom(tickets).Draw(rt, "ticket")
				c.Done(now, ticket, Answered{})
				c.Done(now, ticket, Answered{}) // twice is once
				m.seen[m.open[ticket].tenant] = now
				delete(m.open, ticket)
				continue
			}
			name := rapid.SampledFrom(names).Draw(rt, "tenant")
			r := &Request{Tenant: name, Weight: rapid.IntRange(1, 4).Draw(rt, "weight"), Batch: rapid.IntRange(0, 3).Draw(rt, "batch") == 0, Min: limit, Max: limit}
			m.seen[name], m.weight[name] = now, float64(r.Weight)
			open, own := m.of(""), m.of(name)
			share := float64(limit) * float64(r.Weight) / m.weights()
			v := c.Admit(now, r)
			if c.finder.probing {
				rt.Fatal("it probes, and has seen no latency")
			}
			if v.Outcome == Waiting {
				c.Settle(now, &v)
			}
			if v.Outcome == Admitted {
				m.open[v.Ticket] = modelled{name, now}
			} else if v.Retry < minRetry || v.Retry > maxRetry {
				rt.Fatalf("Retry is %v", v.Retry)
			} else if !r.Batch && float64(own+1) <= share {
				rt.Fatalf("%s has %d open of a share of %v, and is refused", name, own, share)
			} else if !r.Batch && open < limit && c.wanting == 0 {
				rt.Fatalf("%d of %d are open, and %s is refused, and nobody else was", open, limit, name)
			}
			if c.open != m.of("") {
				rt.Fatalf("%d are open, and the model says %d", c.open, m.of(""))
			}
			if n, _ := c.Standing(name); n != m.of(name) {
				rt.Fatalf("%s has %d open, and the model says %d", name, n, m.of(name))
			}
			if len(c.active) != len(m.seen) || math.Abs(c.weight-m.weights()) > tiny {
				rt.Fatalf("%d are active with weight %v, and the model says %d with %v", len(c.active), c.weight, len(m.seen), m.weights())
			}
			if most := 2 * float64(limit) * (4 + math.Log(24)); float64(c.open) > most+6 {
				rt.Fatalf("%d are open, over %v", c.open, most)
			}
			c.look(c.clock.last)
			if c.greed > tiny {
				if got, want := c.room/c.greed, level(c); want < 1e8 && math.Abs(got-want) > 1e-6*max(1, want) {
					rt.Fatalf("the level is %v, and by bisection %v", got, want)
				}
			}
		}
	})
}

// TestOvershoot: a tenant fills the service, and then others come, one after another, while nothing ends.
func TestOvershoot(t *testing.T) {
	for _, tenants := range []int{2, 3, 10, 50} {
		c := New(0)
		c.force = true
		now := start
		fill := func(name string) (n int) {
			now = now.Add(28 * time.Second / time.Duration(tenants)) // all of them within the time that a request counts
			for {
				if v := c.Admit(now, &Request{Tenant: name, Weight: 1, Min: 100, Max: 100}); v.Outcome != Admitted {
					return n
				}
				n++
			}
		}
		var got []int
		for i := range tenants {
			got = append(got, fill(fmt.Sprint(i)))
		}
		bound := 100 * (4 + math.Log(float64(tenants)))
		if tenants == 2 && c.open > 175 || got[0] < 100 || got[1] < 50 || got[tenants-1] < 100/tenants || float64(c.open) > bound {
			t.Errorf("%d tenants: %v, %d in all, and the bound is %.0f", tenants, got, c.open, bound)
		}
		t.Logf("%d tenants: %d of 100 open", tenants, c.open)
	}
}

func TestBadInput(t *testing.T) {
	c := New(-1)
	for _, r := range []Request{
		{}, {Weight: -5}, {Weight: math.MaxInt}, {Weight: math.MinInt, Min: -1, Max: -1}, {Min: math.MaxInt, Max: 1}, {Kind: 255}, {Min: 1, Max: math.MaxInt},
	} {
		for _, a := range []Answered{{}, {Latency: -1}, {Latency: math.MaxInt64}, {Latency: 1}, {Latency: math.MinInt64, Failed: true}} {
			v := c.Admit(start, &r)
			if v.Outcome != Admitted || math.IsNaN(v.Share) || v.Share <= 0 {
				t.Fatalf("%+v: %+v", r, v)
			}
			c.Done(start.Add(time.Second), v.Ticket, a)
		}
	}
	for _, ticket := range []Ticket{{}, {1, 0}, {1 << 31, 1}, {1, 1 << 31}} {
		c.Done(start, ticket, Answered{Latency: time.Second})
	}
	if s := c.State(255); s.Open != 0 || math.IsNaN(s.Limit) || s.Limit < 1 || math.IsNaN(s.Latency) {
		t.Errorf("%+v", s)
	}
	var v Verdict
	if c.Settle(start, &v); v.Ready() != nil || v.Outcome != Refused {
		t.Errorf("a verdict that waits for nothing: %+v", v)
	}
}

// TestClockJumps: time that goes back stands still, or goes on from there; what is open ends in time all the same.
func TestClockJumps(t *testing.T) {
	c := New(0)
	r := &Request{Tenant: "a", Weight: 1}
	at := start
	for _, jump := range []time.Duration{0, -time.Millisecond, -time.Hour, 24 * time.Hour, -48 * time.Hour} {
		at = at.Add(jump)
		if v := c.Admit(at, r); v.Outcome != Admitted {
			t.Fatalf("after a jump of %v: %+v", jump, v)
		}
		before := c.clock.last
		if c.Admit(at.Add(time.Second), r); c.clock.last-before > int64(2*time.Second) || c.clock.last < before {
			t.Errorf("after a jump of %v a second is %v", jump, time.Duration(c.clock.last-before))
		}
	}
	if c.Admit(at.Add(LongTime+2*time.Second), r); c.open != 1 {
		t.Errorf("%d are open half a minute later", c.open)
	}
}

// TestTenantChanges: a new incarnation has nothing of the old one's, and another tier's weight counts at once.
func TestTenantChanges(t *testing.T) {
	c := New(0)
	c.force = true
	at := start
	admit := func(uid string, weight int) Verdict {
		return c.Admit(at, &Request{Tenant: uid, Weight: weight, Min: 10, Max: 10})
	}
	for range 10 {
		admit("a-1", 1)
	}
	at = at.Add(10 * time.Second)
	if v := admit("a-2", 1); v.Outcome != Admitted || v.Open != 0 || v.Share != 5 {
		t.Errorf("another incarnation: %+v", v)
	}
	if v := admit("a-2", 9); v.Outcome != Admitted || v.Share != 9 || c.weight != 10 {
		t.Errorf("in another tier: %+v, all weigh %v", v, c.weight)
	}
	c.force, c.tenants["a-1"].greedy, c.greed = false, true, 1
	if admit("a-1", 3); c.greed != 3 {
		t.Errorf("a greedy one in another tier: %v", c.greed)
	}
}

// TestBounded: tenants beyond the bound share one entry; they are forgotten, and so is that, a second after.
func TestBounded(t *testing.T) {
	c := New(2)
	var tickets []Ticket
	for _, uid := range []string{"a", "b", "c", "d"} {
		v := c.Admit(start, &Request{Tenant: uid, Weight: 1})
		tickets = append(tickets, v.Ticket)
	}
	if len(c.active) != 3 || len(c.tenants) != 2 || c.rest.open[interactive] != 2 {
		t.Errorf("%d are active, %d by name", len(c.active), len(c.tenants))
	}
	for _, ticket := range tickets {
		c.Done(start, ticket, Answered{})
	}
	later := start.Add(2 * time.Second)
	v := c.Admit(later, &Request{Tenant: "e", Weight: 1})
	if len(c.active) != 1 || c.rest != nil || len(c.spare) != 2 {
		t.Errorf("%d are active a second later, %d are spare", len(c.active), len(c.spare))
	}
	if open, share := c.Standing("a"); open != 0 || share != 0 {
		t.Errorf("who is not active has %d open of %v", open, share)
	}
	if c.Clear(later); c.State(0).Open != 0 {
		t.Error("requests outlive their Envoy")
	}
	c.Done(later, v.Ticket, Answered{Latency: time.Second}) // of before
	if c.finder.window.n != 0 {
		t.Error("an answer of before counts")
	}
}

// fullController is one whose limit is 10, whose latency is known, and that is full of a tenant's requests.
func fullController(t *testing.T, latency time.Duration) (*Controller, []Ticket) {
	t.Helper()
	c := New(0)
	c.finder.latency = latency.Seconds()
	var tickets []Ticket
	for i := range 20 {
		v := c.Admit(start, &Request{Tenant: "full", Weight: 1, Min: 10, Max: 10})
		if v.Outcome == Admitted {
			tickets = append(tickets, v.Ticket)
		} else if i < 10 {
			t.Fatalf("request %d of 10: %+v", i, v)
		} else {
			if v.Outcome == Waiting {
				c.Settle(start, &v)
			}
			break
		}
	}
	return c, tickets
}

// TestWaiting: who is over its share waits for a slot that comes soon, interactive before batch, tenants in turn.
func TestWaiting(t *testing.T) {
	c, tickets := fullController(t, 10*time.Millisecond)
	admit := func(uid string, batch bool) Verdict {
		return c.Admit(start, &Request{Tenant: uid, Weight: 1, Batch: batch, Min: 10, Max: 10})
	}
	late, soon := admit("full", true), admit("full", false)
	if late.Outcome != Waiting || soon.Outcome != Waiting || c.State(0).Waiting != 2 {
		t.Fatalf("%v %v", late.Outcome, soon.Outcome)
	}
	for _, ticket := range tickets[:len(tickets)-9] { // down to nine, and one gets the tenth
		c.Done(start, ticket, Answered{})
	}
	select {
	case <-soon.Ready():
	default:
		t.Fatal("a slot is free, and nobody got it")
	}
	if c.Settle(start, &soon); soon.Outcome != Admitted || c.open != 10 {
		t.Errorf("the interactive one: %v", soon.Outcome)
	}
	if c.Settle(start.Add(MaxWait), &late); late.Outcome != Refused || c.State(0).Waiting != 0 {
		t.Errorf("the batch one: %v", late.Outcome)
	}
	// A grant that comes with the end of the wait is not lost.
	again := admit("full", false)
	c.Done(start, soon.Ticket, Answered{})
	if c.Settle(start, &again); again.Outcome != Admitted {
		t.Errorf("granted at the end of the wait: %v", again.Outcome)
	}
	if len(c.idle) != 2 || len(c.idle[0].ready)+len(c.idle[1].ready) != 0 {
		t.Error("what waited is not ready to be used again")
	}
}

// TestWaitingIsBounded: a queue has so many places, and none when a slot takes longer than a request may wait.
func TestWaitingIsBounded(t *testing.T) {
	c, _ := fullController(t, time.Second)
	if v := c.Admit(start, &Request{Tenant: "full", Weight: 1, Min: 10, Max: 10}); v.Outcome != Refused {
		t.Errorf("a slot comes in 100 ms: %v", v.Outcome)
	}
	c, _ = fullController(t, time.Microsecond)
	n := 0
	for range 100 {
		if v := c.Admit(start, &Request{Tenant: "full", Weight: 1, Min: 10, Max: 10}); v.Outcome == Waiting {
			n++
		}
	}
	if n != maxQueue {
		t.Errorf("%d wait, and there are %d places", n, maxQueue)
	}
	// Another tenant's requests do not stand behind them.
	if v := c.Admit(start, &Request{Tenant: "other", Weight: 1, Min: 10, Max: 10}); v.Outcome != Admitted {
		t.Errorf("another tenant's: %v", v.Outcome)
	}
}

// TestQuiet: a queue from which nothing gets in for 100 ms is closed for longer and longer, until something does.
func TestQuiet(t *testing.T) {
	c, tickets := fullController(t, 10*time.Millisecond)
	waited := 0
	var times []int
	for ms := range 5000 {
		now := start.Add(time.Duration(ms) * time.Millisecond)
		if ms%10 != 0 {
			continue
		}
		v := c.Admit(now, &Request{Tenant: "full", Weight: 1, Min: 10, Max: 10})
		if v.Outcome == Waiting {
			waited++
			times = append(times, ms)
			c.Settle(now.Add(MaxWait), &v)
		}
	}
	if waited < 10 || waited > 70 {
		t.Errorf("%d of 500 waited, at %v ms", waited, times)
	}
	q := &c.tenants["full"].queue
	if q.strikes != 5 {
		t.Errorf("%d quiet times in a row", q.strikes)
	}
	now := start.Add(10 * time.Second)
	v := c.Admit(now, &Request{Tenant: "full", Weight: 1, Min: 10, Max: 10})
	for _, ticket := range tickets {
		c.Done(now, ticket, Answered{})
	}
	if c.Settle(now, &v); v.Outcome != Admitted || q.strikes != 0 {
		t.Errorf("%v, %d strikes", v.Outcome, q.strikes)
	}
}

// TestQueuesInTurn: slots go round the tenants that wait, also when one of them stops waiting.
func TestQueuesInTurn(t *testing.T) {
	c, tickets := fullController(t, time.Microsecond)
	var vs []Verdict
	for _, uid := range []string{"a", "b", "c"} {
		for {
			v := c.Admit(start, &Request{Tenant: uid, Weight: 1, Min: 10, Max: 10})
			if v.Outcome == Admitted {
				continue
			}
			vs = append(vs, v)
			break
		}
	}
	c.Settle(start, &vs[0])
	for _, ticket := range tickets {
		c.Done(start, ticket, Answered{})
	}
	for range 64 { // the rest of what is open, in time
		c.Clear(start.Add(time.Second))
	}
	c.grant(c.clock.last)
	for i, v := range vs[1:] {
		if v.Outcome == Waiting && len(v.Ready()) == 0 {
			t.Errorf("tenant %d of those that wait got nothing", i+1)
		}
	}
}

// TestFailuresAreNotFast: what failed early says nothing of latency, what failed late does.
func TestFailuresAreNotFast(t *testing.T) {
	var f finder
	f.bounds(0, 0)
	for range 64 {
		f.ended(0, 0, 10*time.Millisecond, 0, 1, 0, false)
	}
	before := f.window.n
	f.ended(0, 0, time.Millisecond, 0, 1, 0, true)
	f.ended(0, 0, time.Hour, 9, 1, 0, true) // of a kind that nothing is known of
	if f.window.n != before {
		t.Error("a quick failure counts")
	}
	f.ended(0, 0, time.Second, 0, 1, 0, true)
	if f.window.n != before+1 || math.Abs(f.withoutLoad(0)-0.01) > 1e-4 || f.withoutLoad(9) != 0 {
		t.Errorf("%d answers, %v without load", f.window.n-before, f.withoutLoad(0))
	}
	f = finder{}
	f.bounds(0, 0)
	f.ended(0, 0, time.Second, 0, 50, 49, false)
	if f.ended(int64(time.Minute), 0, time.Second, 0, 50, 49, false); f.window.n != 0 {
		t.Error("a window of a minute ago goes on")
	}
}

// TestMeetsItsLoadCold: the first requests to a service that is full at once came while hardly any others were open, and ended among
// many: what they took is no latency without load. The least that a window had stands for it, until a probe finds it.
func TestMeetsItsLoadCold(t *testing.T) {
	var f finder
	f.bounds(0, 0)
	at := int64(0)
	window := func(latency time.Duration) {
		at += int64(windowTime)
		for i := range windowCount {
			f.ended(at, at, latency, 0, min(i+1, 80), 79, false)
		}
	}
	for _, latency := range []time.Duration{300, 200, 220, 250, 270, 200} {
		window(latency * time.Millisecond)
	}
	if f.known(0) || f.limit != f.high {
		t.Errorf("%v without load, limit %v", f.withoutLoad(0), f.limit)
	}
	for range 3 {
		window(400 * time.Millisecond)
	}
	if f.limit > 160 || !f.limited {
		t.Errorf("a latency of twice the least gives a limit of %v", f.limit)
	}
	for !f.probing && at < int64(time.Minute) {
		window(400 * time.Millisecond)
	}
	for i := range windowCount {
		f.ended(at, at, 10*time.Millisecond, 0, 1+i%5, i%5, false)
	}
	if !f.known(0) || math.Abs(f.withoutLoad(0)-0.01) > 1e-4 {
		t.Errorf("a probe found %v", f.withoutLoad(0))
	}
}

// TestKindsDoNotMix: more of the slow requests is not latency that grows.
func TestKindsDoNotMix(t *testing.T) {
	var f finder
	f.bounds(0, 0)
	at := int64(0)
	window := func(slow, open int) {
		at += int64(windowTime)
		for i := range windowCount {
			if i < slow {
				f.ended(at, at, 200*time.Millisecond, 1, open, open-1, false)
			} else {
				f.ended(at, at, 10*time.Millisecond, 0, open, open-1, false)
			}
		}
	}
	for range 10 {
		window(5, 2)
	}
	for range 100 {
		window(24, 200)
	}
	if f.limit != f.high {
		t.Errorf("the limit fell to %v", f.limit)
	}
}

// TestProbeEnds: a probe is over in time, also when the service answers nothing any more.
func TestProbeEnds(t *testing.T) {
	c := New(0)
	c.finder.probing, c.finder.patience = true, int64(probeTime)
	r := &Request{Tenant: "a", Weight: 1}
	c.Admit(start, r)
	c.tenants["a"].refused[0][interactive] = true
	if v := c.Admit(start, r); v.Share != defaultMin/2 {
		t.Errorf("in a probe, who was refused just now has a share of %v", v.Share)
	}
	if v := c.Admit(start.Add(time.Second), r); v.Share != defaultMax || c.finder.probing {
		t.Errorf("after it, a share of %v", v.Share)
	}
}

// TestSeats: who asks from its seat gets the same verdicts, whoever was forgotten or came beyond the bound meanwhile.
func TestSeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain, seated := New(3), New(3)
		seats := make([]Seat, 6)
		now := time.Unix(1000, 0)
		var open [][2]Ticket
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 5, 300, 1500}).Draw(t, "ms")) * time.Millisecond)
			if len(open) > 0 && rapid.Bool().Draw(t, "end") {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				plain.Done(now, open[i][0], Answered{})
				seated.Done(now, open[i][1], Answered{})
				open = slices.Delete(open, i, i+1)
				continue
			}
			i := rapid.IntRange(0, len(seats)-1).Draw(t, "tenant")
			r := Request{Tenant: fmt.Sprint(i), Weight: 1 + i, Min: 2, Max: 4}
			want := plain.Admit(now, &r)
			r.Seat = &seats[i]
			got := seated.Admit(now, &r)
			if got.Outcome == Waiting || want.Outcome == Waiting {
				plain.Settle(now, &want)
				seated.Settle(now, &got)
			}
			if got.Outcome != want.Outcome || got.Share != want.Share || got.Open != want.Open || got.Under != want.Under {
				t.Fatalf("%+v, want %+v", got, want)
			}
			if got.Outcome == Admitted {
				open = append(open, [2]Ticket{want.Ticket, got.Ticket})
			}
		}
	})
}

func TestConcurrently(t *testing.T) {
	c := New(0)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				now := start.Add(time.Duration(i) * time.Millisecond)
				v := c.Admit(now, &Request{Tenant: fmt.Sprint(i % (n + 1)), Weight: 1, Min: 2, Max: 4})
				if v.Outcome == Waiting {
					c.Settle(now, &v)
				}
				c.Done(now, v.Ticket, Answered{Latency: time.Millisecond})
			}
		})
	}
	wg.Wait()
	if s := c.State(0); s.Open != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAllocatesNothing(t *testing.T) {
	c, r := New(0), &Request{Tenant: "a", Weight: 1}
	n := testing.AllocsPerRun(1000, func() {
		v := c.Admit(start, r)
		c.Done(start, v.Ticket, Answered{Latency: time.Millisecond})
	})
	if n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

func BenchmarkAdmit(b *testing.B) {
	for _, tenants := range []int{1, 100, 12_000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			c := New(0)
			names := make([]string, tenants)
			for i := range names {
				names[i] = fmt.Sprint("tenant-", i)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					now := start.Add(time.Duration(i) * 20 * time.Microsecond)
					v := c.Admit(now, &Request{Tenant: names[i*7919%tenants], Weight: 1})
					c.Done(now, v.Ticket, Answered{Latency: time.Millisecond})
				}
			})
		})
	}
}
