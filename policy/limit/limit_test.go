package limit

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/policy"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func tenRequest() *Request {
	return &Request{UID: "u", ChargeTenant: true, Limits: policy.Limits{RequestsPerSecond: 10, Burst: 20, Concurrency: 3}, LeaseTTL: time.Minute}
}

func TestBurstThenSustained(t *testing.T) {
	l, r := New(Options{}), tenRequest()
	for i := range 20 {
		v := l.Admit(start, r)
		if v.Reason != policy.Permitted {
			t.Fatalf("request %d of the burst: %v", i, v.Reason)
		}
		if s, _ := v.Strictest(); s.Remaining != float64(19-i) || s.Of != 20 || s.Window != 2*time.Second {
			t.Fatalf("request %d leaves %+v", i, s)
		}
	}
	v := l.Admit(start, r)
	s, ok := v.Strictest()
	if v.Reason != policy.RateLimited || !ok || !s.Exceeded || s.Retry != 100*time.Millisecond {
		t.Fatalf("over the burst: %v, %+v", v.Reason, s)
	}
	if v := l.Admit(start.Add(s.Retry-1), r); v.Reason != policy.RateLimited {
		t.Error("a nanosecond before Retry it conforms")
	}
	if v := l.Admit(start.Add(s.Retry), r); v.Reason != policy.Permitted {
		t.Error("at Retry it does not conform")
	}
}

// TestRateChanges: what was used stays used, in requests, whether the rate becomes higher or lower.
func TestRateChanges(t *testing.T) {
	for name, test := range map[string]struct {
		used   int
		before policy.Limits
		after  policy.Limits
		let    int // at once, after the change
		retry  time.Duration
	}{
		"far too low, and back": {2, policy.Limits{RequestsPerSecond: 0.01, Burst: 2}, policy.Limits{RequestsPerSecond: 10, Burst: 20}, 18, 100 * time.Millisecond},
		"lower":                 {3, policy.Limits{RequestsPerSecond: 100, Burst: 20}, policy.Limits{RequestsPerSecond: 1, Burst: 5}, 2, time.Second},
		"lower than was used":   {20, policy.Limits{RequestsPerSecond: 100, Burst: 20}, policy.Limits{RequestsPerSecond: 1, Burst: 5}, 0, time.Second},
		"no limit, and again":   {3, policy.Limits{RequestsPerSecond: policy.Unlimited}, policy.Limits{RequestsPerSecond: 1, Burst: 5}, 5, time.Second},
	} {
		l, r := New(Options{}), &Request{UID: "u", ChargeTenant: true, Limits: test.before}
		for range test.used {
			if v := l.Admit(start, r); v.Reason != policy.Permitted {
				t.Fatalf("%s: %v before the change", name, v.Reason)
			}
		}
		r.Limits = test.after
		explained := l.Explain(start, r)
		if s, _ := explained.Strictest(); s.Remaining != float64(test.let) {
			t.Errorf("%s: explain says %+v", name, s)
		}
		for i := range test.let {
			if v := l.Admit(start, r); v.Reason != policy.Permitted {
				t.Errorf("%s: request %d after the change: %v", name, i, v.Reason)
			}
		}
		v := l.Admit(start, r)
		if s, _ := v.Strictest(); v.Reason != policy.RateLimited || s.Retry != test.retry {
			t.Errorf("%s: %v, %+v", name, v.Reason, s)
		}
		if v := l.Admit(start.Add(test.retry), r); v.Reason != policy.Permitted {
			t.Errorf("%s: at Retry: %v", name, v.Reason)
		}
	}
}

// TestAgainstTokenBucket compares GCRA with a token bucket that counts in nanoseconds, for any arrivals.
func TestAgainstTokenBucket(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		interval := time.Duration(rapid.IntRange(1, 50).Draw(rt, "interval")) * time.Millisecond
		burst := rapid.IntRange(1, 10).Draw(rt, "burst")
		l := New(Options{MaxEntries: 4})
		r := &Request{UID: "u", ChargeTenant: true, Limits: policy.Limits{RequestsPerSecond: float64(time.Second) / float64(interval), Burst: burst}}
		interval = newRate(r.Limits.RequestsPerSecond, burst).interval
		now, full := start, interval*time.Duration(burst)
		level := full
		for range rapid.IntRange(1, 60).Draw(rt, "n") {
			step := time.Duration(rapid.IntRange(0, int(3*interval)).Draw(rt, "step"))
			now, level = now.Add(step), min(full, level+step)
			want := level >= interval
			if want {
				level -= interval
			}
			if got := l.Admit(now, r).Reason == policy.Permitted; got != want {
				rt.Fatalf("admitted %v, the bucket says %v with %v of %v", got, want, level, full)
			}
			// Others come and go, and evict what is idle.
			other := *r
			other.UID = fmt.Sprint(rapid.IntRange(0, 20).Draw(rt, "other"))
			l.Admit(now, &other)
			if l.Entries() > 4 {
				rt.Fatalf("%d entries, over the bound", l.Entries())
			}
		}
	})
}

func TestLeases(t *testing.T) {
	l, r := New(Options{}), tenRequest()
	admit := func(key string) policy.Reason {
		r.Lease = key
		v := l.Admit(start, r)
		return v.Reason
	}
	for _, key := range []string{"a", "b", "c"} {
		if reason := admit(key); reason != policy.Permitted {
			t.Fatal(reason)
		}
	}
	if reason := admit("d"); reason != policy.ConcurrencyLimited {
		t.Errorf("the fourth of three: %v", reason)
	}
	l.Release(start, "a")
	l.Release(start, "a") // the second frees nothing more
	if l.Leases(start) != 2 {
		t.Errorf("%d leases, want 2", l.Leases(start))
	}
	l.Renew(start.Add(30*time.Second), "b", time.Minute)
	l.Renew(start.Add(30*time.Second), "unknown", time.Minute)
	if n := l.Leases(start.Add(time.Minute)); n != 1 {
		t.Errorf("%d leases after a TTL, want the one that was renewed", n)
	}
	if n := l.Leases(start.Add(90 * time.Second)); n != 0 {
		t.Errorf("%d leases outlive their TTL", n)
	}
	admit("f")
	if l.ReleaseAll(); l.Leases(start) != 0 || len(l.deadlines) != 0 || l.buckets[bucketKey{"u", ""}].open != 0 {
		t.Errorf("%d leases are left", l.Leases(start))
	}
}

func TestRefusedCountsNothing(t *testing.T) {
	l, r := New(Options{}), tenRequest()
	r.Class, r.Limits.Classes = "exports", map[string]policy.ClassLimit{"exports": {Concurrency: 1, RequestsPerSecond: 1000, Burst: 100}}
	r.Lease = "a"
	if v := l.Admit(start, r); v.Reason != policy.Permitted || len(v.Levels()) != 4 {
		t.Fatalf("%v, %+v", v.Reason, v.Levels())
	}
	for i := range 50 {
		r.Lease = fmt.Sprint(i)
		if v := l.Admit(start, r); v.Reason != policy.ConcurrencyLimited {
			t.Fatalf("the second export: %v", v.Reason)
		}
	}
	v := l.Explain(start, r)
	if levels := v.Levels(); levels[0].Remaining != 19 || levels[1].Remaining != 2 || levels[2].Remaining != 99 || !levels[3].Exceeded {
		t.Errorf("after 50 refusals: %+v", v.Levels())
	}
	if s, _ := v.Strictest(); s.Kind != ClassConcurrency || s.Kind.String() != "class concurrency" {
		t.Errorf("strictest is %v", s.Kind)
	}
	unknown := New(Options{}).Explain(start, r)
	if levels := unknown.Levels(); levels[0].Remaining != 20 || levels[3].Remaining != 1 {
		t.Errorf("of one never seen: %+v", levels)
	}
}

func TestHits(t *testing.T) {
	l, r := New(Options{}), tenRequest()
	r.Hits = 15
	v := l.Admit(start, r)
	if s, _ := v.Strictest(); v.Reason != policy.Permitted || s.Remaining != 5 {
		t.Errorf("15 of 20: %v, %+v", v.Reason, s)
	}
	r.Hits = 6
	v = l.Admit(start, r)
	if s, _ := v.Strictest(); v.Reason != policy.RateLimited || s.Retry != 100*time.Millisecond {
		t.Errorf("6 of 5: %v, %+v", v.Reason, s)
	}
	r.Hits = 1 << 40
	if v := l.Admit(start.Add(time.Hour), r); v.Reason != policy.RateLimited {
		t.Errorf("more than the burst, ever: %v", v.Reason)
	}
	r.Hits = 5
	if v := l.Admit(start, r); v.Reason != policy.Permitted {
		t.Errorf("the last 5: %v", v.Reason)
	}
}

func TestUnlimitedNeedsNothing(t *testing.T) {
	l := New(Options{})
	r := &Request{UID: "u", ChargeTenant: true, Limits: policy.Limits{RequestsPerSecond: policy.Unlimited, Concurrency: policy.Unlimited}}
	for range 1000 {
		if v := l.Admit(start, r); v.Reason != policy.Permitted || v.n != 0 {
			t.Fatalf("%v, %+v", v.Reason, v.Levels())
		}
	}
	var v Verdict
	if _, ok := v.Strictest(); ok {
		t.Error("nothing is limited, and yet something is strictest")
	}
}

// TestFloodOfNames: ten million names that nobody knows neither grow the limiter nor reset a bucket in use.
func TestFloodOfNames(t *testing.T) {
	l := New(Options{MaxEntries: 1024})
	victim := tenRequest()
	for range 20 {
		l.Admit(start, victim)
	}
	flood := tenRequest()
	for i := range 10_000_000 {
		flood.UID = "flood-" + strconv.Itoa(i)
		l.Admit(start.Add(time.Duration(i)), flood)
		if n := l.Entries(); n > 1024 {
			t.Fatalf("%d entries, over the bound", n)
		}
	}
	if v := l.Admit(start.Add(time.Millisecond), victim); v.Reason != policy.RateLimited {
		t.Errorf("the flood gave the victim its burst back: %v", v.Reason)
	}
	if v := l.Admit(start.Add(time.Hour), flood); v.Reason != policy.Permitted {
		t.Errorf("an hour later a newcomer gets %v", v.Reason)
	}
}

func TestLeasesAreBounded(t *testing.T) {
	l, r := New(Options{MaxLeases: 2}), tenRequest()
	r.Limits.Concurrency = policy.Unlimited
	var last policy.Reason
	for i := range 3 {
		r.Lease = fmt.Sprint(i)
		v := l.Admit(start, r)
		last = v.Reason
		l.Release(start, fmt.Sprint("none", i)) // ends without a lease leave nothing
	}
	if last != policy.Overloaded || l.Leases(start) != 2 || len(l.deadlines) != 2 {
		t.Errorf("the third of two: %v, %d leases, %d deadlines", last, l.Leases(start), len(l.deadlines))
	}
}
