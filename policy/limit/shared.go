package limit

import (
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Refused is the verdict on a request of whose limit nothing at all may be used here now.
func Refused(kind Kind, of float64, retry time.Duration) Verdict {
	v := Verdict{Reason: policy.RateLimited, n: 1}
	if kind == TenantConcurrency || kind == ClassConcurrency {
		v.Reason = policy.ConcurrencyLimited
	}
	v.levels[0] = Level{Kind: kind, Of: of, Exceeded: true, Retry: retry}
	return v
}

// Within has nobody told to wait longer than that for a rate: a larger part is on its way.
func (v *Verdict) Within(wait time.Duration) {
	for i := range v.Levels() {
		v.levels[i].Retry = min(v.levels[i].Retry, wait)
	}
}

// Shift takes over a member's part of a shared limit that changed at now, for Class "" the tenant's own: the bucket holds
// what it held, up to the new burst, and fills at the new rate from now on. One that was full and is forgotten comes back,
// so that a larger part brings nothing of its own. A part without a rate or a burst is none. False when there is no room.
func (l *Limiter) Shift(now time.Time, uid, class string, from, to policy.ClassLimit) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, key := now.UnixNano(), bucketKey{uid, class}
	before, after := newRate(from.RequestsPerSecond, from.Burst), newRate(to.RequestsPerSecond, to.Burst)
	if after.interval == 0 || to.Burst == 0 {
		return true
	}
	empty := from.RequestsPerSecond >= 0 && from.Burst == 0
	b := l.buckets[key]
	if b == nil {
		if !empty && to.Burst <= from.Burst {
			return true // a new bucket holds no more than this one did
		}
		if b = l.make(at, key, nil); b == nil {
			return false
		}
		b.follow(before, at, true)
	}
	b.follow(after, at, true)
	if empty {
		b.arrival = at + int64(after.burst)
	}
	return true
}

// hold takes over a rate of which a member's part changed: what the bucket holds, in requests, stays.
func (b *bucket) hold(r rate, at int64) {
	if b.interval != 0 {
		owed := min(time.Duration(max(0, b.arrival-at)), b.burst) // more it is when the clock went back
		level := float64(b.burst-owed) / float64(b.interval)
		b.arrival = at + int64(r.burst) - int64(min(level*float64(r.interval), float64(r.burst)))
	}
	b.interval, b.burst = r.interval, r.burst
}
