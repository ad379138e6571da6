package limit

import (
	"container/heap"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Options of a [Limiter]; zero fields take the defaults named there.
type Options struct {
	MaxEntries int // buckets; default 65536
	MaxLeases  int // default 65536
}

// Request is one request to admit.
type Request struct {
	UID          string // of the tenant's incarnation; a new incarnation shares nothing with the old
	Class        string // "" for none
	Limits       policy.Limits
	ChargeTenant bool          // the tenant's own limits count too: this is where the transaction enters
	Lease        string        // key of the open request; "" takes none, and concurrency is not counted
	LeaseTTL     time.Duration // after which a lease that nobody released ends
	Shared       bool          // Limits are this member's part of what several share: a burst that grows is filled at the rate
	Hits         int           // how many requests it counts as against rates; 0: one; at most 1,000,000 are counted
}

// Kind is a sort of limit.
type Kind uint8

// The kinds of limit, in the order in which they are looked at.
const (
	TenantRate Kind = iota
	TenantConcurrency
	ClassRate
	ClassConcurrency

	numKinds
)

var kindNames = [numKinds]string{"tenant rate", "tenant concurrency", "class rate", "class concurrency"}

func (k Kind) String() string { return kindNames[k] }

// Level says where one limit stands, after this request was counted if it was admitted.
type Level struct {
	Kind      Kind
	Of        float64 // requests at once
	Remaining float64
	Window    time.Duration // rates: in which Of refills from nothing
	Exceeded  bool
	Retry     time.Duration // when exceeded: until a request conforms; 0 when nobody can tell
}

// Refill is how long it takes until a request conforms, or all of the limit is there again; 0 where nobody can tell.
func (l *Level) Refill() time.Duration {
	if l.Exceeded || l.Of <= 0 {
		return l.Retry
	}
	return time.Duration((1 - l.Remaining/l.Of) * float64(l.Window))
}

// Verdict is the outcome of an admission.
type Verdict struct {
	Reason policy.Reason // [policy.Permitted] or why not
	levels [numKinds]Level
	n      int
}

// Levels is every limit that was looked at.
func (v *Verdict) Levels() []Level { return v.levels[:v.n] }

// Strictest is the limit that refused, or else the one with the smallest share remaining; false when nothing
// was limited.
func (v *Verdict) Strictest() (Level, bool) {
	if v.n == 0 {
		return Level{}, false
	}
	strictest := v.levels[0]
	for _, level := range v.levels[1:v.n] {
		if level.Exceeded != strictest.Exceeded {
			if level.Exceeded {
				strictest = level
			}
			continue
		}
		if level.Exceeded && level.Retry > strictest.Retry || !level.Exceeded && level.Remaining/level.Of < strictest.Remaining/strictest.Of {
			strictest = level
		}
	}
	return strictest, true
}

// Limiter counts what was used.
type Limiter struct {
	options Options

	mu        sync.Mutex
	buckets   map[bucketKey]*bucket
	first     *bucket // most recently used
	last      *bucket
	leases    map[string]*lease
	deadlines deadlines // of leases
	retired   []*lease  // to be used again
}

// maxRetired bounds the memory that is kept to be used again.
const maxRetired = 4096

type bucketKey struct{ uid, class string }

type bucket struct {
	key      bucketKey
	arrival  int64         // GCRA, see [rate.admit]
	interval time.Duration // of the rate under which arrival was counted
	burst    time.Duration // of the same
	open     int           // leases held
	before   *bucket       // used more recently
	after    *bucket
}

type lease struct {
	key      string
	buckets  [2]*bucket
	deadline int64
	index    int // in deadlines
}

// New returns a limiter without any use counted.
func New(options Options) *Limiter {
	if options.MaxEntries == 0 {
		options.MaxEntries = 65536
	}
	if options.MaxLeases == 0 {
		options.MaxLeases = 65536
	}
	return &Limiter{options: options, buckets: map[bucketKey]*bucket{}, leases: map[string]*lease{}}
}

// counted is one bucket that a request counts against, with its limits.
type counted struct {
	bucket      *bucket
	rate        rate
	concurrency int // at most; <= 0: unlimited
	kind        Kind
}

// Admit counts the request against all of its limits, or against none of them when one refuses.
func (l *Limiter) Admit(now time.Time, r *Request) Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.UnixNano()
	l.expire(at)
	var parts [2]counted
	n, full := l.count(at, r, &parts)
	verdict := judge(at, parts[:n], r.Lease != "", r.hits())
	_, held := l.leases[r.Lease]
	wantsLease := r.Lease != "" && !held && n > 0
	if verdict.Reason == policy.Permitted && (full || wantsLease && len(l.leases) >= l.options.MaxLeases) {
		verdict.Reason = policy.Overloaded
	}
	if verdict.Reason != policy.Permitted {
		return verdict
	}
	for _, part := range parts[:n] {
		if part.rate.interval > 0 {
			part.bucket.arrival, _ = part.rate.admit(part.bucket.arrival, at, r.hits())
		}
	}
	if wantsLease {
		held := l.lease()
		held.key, held.deadline = r.Lease, at+int64(r.LeaseTTL)
		for i, part := range parts[:n] {
			part.bucket.open++
			held.buckets[i] = part.bucket
		}
		l.leases[r.Lease] = held
		heap.Push(&l.deadlines, held)
	}
	for i := range verdict.n {
		if level := &verdict.levels[i]; level.Kind == TenantRate || level.Kind == ClassRate {
			level.Remaining = max(0, level.Remaining-float64(r.hits()))
		} else if wantsLease {
			level.Remaining = max(0, level.Remaining-1)
		}
	}
	return verdict
}

// Explain says where the request's limits stand, and counts nothing.
func (l *Limiter) Explain(now time.Time, r *Request) Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	var parts [2]counted
	n := 0
	for _, part := range r.parts() {
		if part.applies {
			held := bucket{}
			if found, ok := l.buckets[part.key]; ok {
				held = *found
			}
			parts[n] = part.on(&held, now.UnixNano(), r.Shared)
			n++
		}
	}
	return judge(now.UnixNano(), parts[:n], true, r.hits())
}

// Release ends the lease of that key, if it is held.
func (l *Limiter) Release(now time.Time, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now.UnixNano())
	if held, ok := l.leases[key]; ok {
		heap.Remove(&l.deadlines, held.index)
		l.end(held)
	}
}

// Renew begins the TTL of a lease anew, if it is held.
func (l *Limiter) Renew(now time.Time, key string, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.UnixNano()
	l.expire(at)
	if held, ok := l.leases[key]; ok {
		held.deadline = at + int64(ttl)
		heap.Fix(&l.deadlines, held.index)
	}
}

// ReleaseAll ends every lease.
func (l *Limiter) ReleaseAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, held := range l.leases {
		l.end(held)
	}
	l.deadlines = nil
}

// Leases is the number of leases held at now.
func (l *Limiter) Leases(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now.UnixNano())
	return len(l.leases)
}

// Entries is the number of buckets held.
func (l *Limiter) Entries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buckets)
}

func judge(at int64, parts []counted, leased bool, hits int) Verdict {
	var v Verdict
	for _, part := range parts {
		if part.rate.interval > 0 {
			level := Level{
				Kind: part.kind, Of: float64(part.rate.burst / part.rate.interval), Window: part.rate.burst,
				Remaining: max(0, part.rate.remaining(part.bucket.arrival, at)),
			}
			if _, wait := part.rate.admit(part.bucket.arrival, at, hits); wait > 0 {
				level.Exceeded, level.Retry = true, wait
				v.Reason = policy.RateLimited
			}
			v.levels[v.n], v.n = level, v.n+1
		}
		if part.concurrency > 0 && leased {
			level := Level{Kind: part.kind + 1, Of: float64(part.concurrency), Remaining: float64(max(0, part.concurrency-part.bucket.open))}
			if level.Remaining == 0 {
				level.Exceeded = true
				if v.Reason == policy.Permitted {
					v.Reason = policy.ConcurrencyLimited
				}
			}
			v.levels[v.n], v.n = level, v.n+1
		}
	}
	return v
}

// part is one of the two sets of limits that a request may count against.
type part struct {
	applies bool
	key     bucketKey
	limits  policy.ClassLimit
	kind    Kind
}

func (p part) on(b *bucket, at int64, shared bool) counted {
	r := newRate(p.limits.RequestsPerSecond, p.limits.Burst)
	b.follow(r, at, shared)
	if r.interval > 0 {
		b.arrival = r.reached(b.arrival, at)
	}
	return counted{b, r, p.limits.Concurrency, p.kind}
}

// follow takes over a rate that changed: what was used stays used, in requests and not in time, up to the new burst.
// A rate that was far too low is then over at once, and one that became low does not shut the tenant out for hours.
func (b *bucket) follow(r rate, at int64, shared bool) {
	if r.interval == 0 || r == (rate{b.interval, b.burst}) {
		return
	}
	if shared {
		b.hold(r, at)
		return
	}
	if owed := b.arrival - at; owed > 0 {
		b.arrival = at + int64(min(float64(owed)/float64(b.interval)*float64(r.interval), float64(r.burst)))
	}
	b.interval, b.burst = r.interval, r.burst
}

func (r *Request) hits() int { return min(max(1, r.Hits), maxHits) }

func (r *Request) parts() [2]part {
	tenant := policy.ClassLimit{RequestsPerSecond: r.Limits.RequestsPerSecond, Burst: r.Limits.Burst, Concurrency: r.Limits.Concurrency}
	list := [2]part{{r.ChargeTenant, bucketKey{r.UID, ""}, tenant, TenantRate}}
	if r.Class != "" {
		class, limited := r.Limits.Classes[r.Class]
		list[1] = part{limited, bucketKey{r.UID, r.Class}, class, ClassRate}
	}
	return list
}

// count finds or makes the buckets of r; full says that one could not be made.
func (l *Limiter) count(at int64, r *Request, into *[2]counted) (n int, full bool) {
	for _, part := range r.parts() {
		if !part.applies {
			continue
		}
		found, ok := l.buckets[part.key]
		if ok {
			l.use(found)
		} else if found = l.make(at, part.key, into[0].bucket); found == nil {
			return n, true
		}
		into[n] = part.on(found, at, r.Shared)
		n++
	}
	return n, false
}

// make returns a new bucket, nil when there is no room. A few of the longest unused are looked at each time:
// idle ones go, others get a second chance. keep is not looked at: the request at hand is about to use it.
func (l *Limiter) make(at int64, key bucketKey, keep *bucket) *bucket {
	for range 4 {
		old := l.last
		if old == nil || old == keep {
			break
		}
		if old.arrival <= at && old.open == 0 {
			l.take(old)
			delete(l.buckets, old.key)
		} else if len(l.buckets) >= l.options.MaxEntries {
			l.use(old)
		} else {
			break
		}
	}
	if len(l.buckets) >= l.options.MaxEntries {
		return nil
	}
	b := &bucket{key: key}
	l.put(b)
	l.buckets[key] = b
	return b
}

// use makes b the most recently used.
func (l *Limiter) use(b *bucket) {
	if l.first != b {
		l.take(b)
		l.put(b)
	}
}

// put puts b first.
func (l *Limiter) put(b *bucket) {
	b.before, b.after = nil, l.first
	if l.first != nil {
		l.first.before = b
	} else {
		l.last = b
	}
	l.first = b
}

// take takes b out of the order.
func (l *Limiter) take(b *bucket) {
	if b.before != nil {
		b.before.after = b.after
	} else {
		l.first = b.after
	}
	if b.after != nil {
		b.after.before = b.before
	} else {
		l.last = b.before
	}
}

func (l *Limiter) expire(at int64) {
	for len(l.deadlines) > 0 && l.deadlines[0].deadline <= at {
		l.end(heap.Pop(&l.deadlines).(*lease))
	}
}

func (l *Limiter) end(ended *lease) {
	delete(l.leases, ended.key)
	for _, b := range ended.buckets {
		if b != nil {
			b.open--
		}
	}
	if *ended = (lease{}); len(l.retired) < maxRetired {
		l.retired = append(l.retired, ended)
	}
}

func (l *Limiter) lease() *lease {
	last := len(l.retired) - 1
	if last < 0 {
		return &lease{}
	}
	again := l.retired[last]
	l.retired = l.retired[:last]
	return again
}

// deadlines is a heap.Interface.
type deadlines []*lease

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].deadline < d[j].deadline }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}
func (d *deadlines) Push(x any) {
	added := x.(*lease)
	added.index = len(*d)
	*d = append(*d, added)
}
func (d *deadlines) Pop() any {
	old := *d
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return last
}
