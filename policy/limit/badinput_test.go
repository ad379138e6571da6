package limit

import (
	"math"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// TestBadRates: whatever is said, a rate is one, or none.
func TestBadRates(t *testing.T) {
	for _, test := range []struct {
		perSecond float64
		burst     int
		want      rate
	}{
		{0, 5, rate{}},
		{-3, 5, rate{}},
		{math.Inf(-1), 5, rate{}},
		{math.NaN(), 1, rate{maxInterval, maxInterval}},
		{math.SmallestNonzeroFloat64, 1, rate{maxInterval, maxInterval}},
		{math.Inf(1), 1, rate{1, 1}},
		{1e300, math.MaxInt, rate{1, maxHits}},
		{1, -5, rate{time.Second, time.Second}},
		{0.001, math.MaxInt, rate{maxInterval, maxInterval * maxHits}},
	} {
		if got := newRate(test.perSecond, test.burst); got != test.want {
			t.Errorf("%v a second, burst %d: %+v, want %+v", test.perSecond, test.burst, got, test.want)
		}
	}
	for _, hits := range []int{math.MinInt, -1, 0} {
		if (&Request{Hits: hits}).hits() != 1 {
			t.Errorf("%d hits are %d", hits, (&Request{Hits: hits}).hits())
		}
	}
}

// TestClockJumps: a clock that jumps back neither gives a burst back nor shuts a tenant out for as long as it jumped.
func TestClockJumps(t *testing.T) {
	l, r := New(Options{}), tenRequest()
	burst := func(now time.Time) (passed int) {
		for range 100 {
			if v := l.Admit(now, r); v.Reason == policy.Permitted {
				passed++
			}
		}
		return passed
	}
	if n := burst(start); n != 20 {
		t.Fatalf("%d pass", n)
	}
	back := start.Add(-time.Hour)
	v := l.Admit(back, r)
	if s, _ := v.Strictest(); v.Reason != policy.RateLimited || s.Retry != 100*time.Millisecond || s.Remaining != 0 {
		t.Errorf("an hour back: %v, %+v", v.Reason, s)
	}
	if n := burst(back.Add(time.Second)); n != 10 {
		t.Errorf("a second later %d pass, want 10", n)
	}
	if n := burst(start.Add(24 * time.Hour)); n != 20 {
		t.Errorf("a day ahead %d pass", n)
	}
}
