package limit

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/policy"
)

// TestPartsKeepWhatTheyHold: however the parts of a shared limit change, and whatever is forgotten meanwhile, in no window
// more is let in than the rate times its length and the burst.
func TestPartsKeepWhatTheyHold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const members, rate, burst = 3, 60.0, 12
		limiters, parts := make([]*Limiter, members), make([]policy.ClassLimit, members)
		for i := range limiters {
			limiters[i] = New(Options{MaxEntries: 1})
			parts[i] = policy.ClassLimit{RequestsPerSecond: rate / members, Burst: burst / members}
		}
		now, total, lowest := start, 0, 0.0
		request := func(i int) *Request {
			return &Request{UID: "u", ChargeTenant: true, Shared: true, Limits: policy.Limits{RequestsPerSecond: parts[i].RequestsPerSecond, Burst: parts[i].Burst}}
		}
		for range rapid.IntRange(1, 100).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(rt, "step")) * time.Millisecond)
			lowest = min(lowest, float64(total)-rate*now.Sub(start).Seconds())
			i, j := rapid.IntRange(0, members-1).Draw(rt, "i"), rapid.IntRange(0, members-1).Draw(rt, "j")
			switch rapid.IntRange(0, 2).Draw(rt, "action") {
			case 0: // of the part of one some goes to another
				from, to := parts[i], parts[j]
				give := rapid.IntRange(0, from.Burst).Draw(rt, "burst")
				much := from.RequestsPerSecond * float64(rapid.IntRange(0, 10).Draw(rt, "tenths")) / 10
				if i == j || from.RequestsPerSecond-much < 0.001 {
					continue
				}
				parts[i] = policy.ClassLimit{RequestsPerSecond: from.RequestsPerSecond - much, Burst: from.Burst - give}
				parts[j] = policy.ClassLimit{RequestsPerSecond: to.RequestsPerSecond + much, Burst: to.Burst + give}
				limiters[i].Shift(now, "u", "", from, parts[i])
				if !limiters[j].Shift(now, "u", "", to, parts[j]) {
					parts[j] = to // as if it had not been told
				}
			case 1: // another tenant comes, and an idle bucket is forgotten
				limiters[i].Admit(now, &Request{UID: "v", ChargeTenant: true, Limits: policy.Limits{RequestsPerSecond: 1000, Burst: 1}})
			case 2:
				for range rapid.IntRange(0, 15).Draw(rt, "requests") {
					if v := (Verdict{}); parts[i].Burst > 0 {
						if v = limiters[i].Admit(now, request(i)); v.Reason == policy.Permitted {
							total++
						}
					}
				}
			}
			if level := float64(total) - rate*now.Sub(start).Seconds(); level-lowest > burst+0.01 {
				rt.Fatalf("%.2f more than the rate lets in, and the burst is %d", level-lowest, burst)
			}
		}
	})
}

func TestRefused(t *testing.T) {
	v := Refused(ClassConcurrency, 1, time.Second)
	if s, ok := v.Strictest(); v.Reason != policy.ConcurrencyLimited || !ok || !s.Exceeded || s.Of != 1 || s.Retry != time.Second || s.Kind != ClassConcurrency {
		t.Errorf("%v, %+v", v.Reason, s)
	}
	v = Refused(TenantRate, 20, time.Minute)
	v.Within(time.Second)
	if s, _ := v.Strictest(); v.Reason != policy.RateLimited || s.Retry != time.Second {
		t.Errorf("%v, %+v", v.Reason, s)
	}
}

func TestShift(t *testing.T) {
	l, r := New(Options{MaxEntries: 1}), tenRequest()
	small, large, none := policy.ClassLimit{RequestsPerSecond: 1, Burst: 2}, policy.ClassLimit{RequestsPerSecond: 10, Burst: 20}, policy.ClassLimit{}
	remaining := func() float64 {
		r.Shared = true
		v := l.Explain(start, r)
		s, _ := v.Strictest()
		return s.Remaining
	}
	if r.Limits.Concurrency = policy.Unlimited; !l.Shift(start, "u", "", large, small) || l.Entries() != 0 {
		t.Error("a part that becomes smaller needs a bucket")
	}
	if !l.Shift(start, "u", "", small, large) || remaining() != 2 {
		t.Errorf("a part that becomes larger holds %v at once, and it held 2", remaining())
	}
	if !l.Shift(start, "u", "", large, none) || !l.Shift(start, "u", "", none, large) || remaining() != 0 {
		t.Errorf("a part that was none holds %v at once", remaining())
	}
	if l.Shift(start, "other", "", small, large) {
		t.Error("there is room for another bucket, in a limiter of one that is in use")
	}
}
