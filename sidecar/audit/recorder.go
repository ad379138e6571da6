package audit

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/policy"
)

// Bounds.
const (
	maxPending    = 8192                   // events that wait to be written
	burst         = 20                     // refusals of one tenant and reason that are written at once
	interval      = time.Second            // between two more
	flushInterval = 500 * time.Millisecond // between two writes
	maxBatch      = 256                    // events
)

// Config says what a recorder stands on.
type Config struct {
	Member  string
	Dir     string // of the spool
	Room    int64  // bytes of the spool; default 64 MiB
	Signer  trail.Signer
	Metrics *Metrics
	Log     *zap.Logger
	Now     func() time.Time
}

// Recorder takes decisions.
type Recorder struct {
	Config
	spool *spool

	mu       sync.Mutex
	pending  []trail.Event
	refusals map[refusals]*bounded
	lost     map[whose]*loss
	closed   bool
	first    chan struct{} // holds one when something came
}

// whose are events of one stream, and what the tenant is called.
type whose struct{ tenant, uid string }

// refusals are those that are bounded together.
type refusals struct {
	whose
	reason policy.Reason
}

// bounded is how many refusals may be written: a bucket of burst, filled by one an interval.
type bounded struct {
	full       time.Time // when the bucket is full again
	suppressed int64
	from, to   time.Time
}

// loss is what there was no room for.
type loss struct {
	Lost     int64     `json:"lost"`
	From, To time.Time // of the first and the last
}

// Open opens the recorder of a member, with what it had not handed over when it ended last.
func Open(config Config) (*Recorder, error) {
	if config.Room == 0 {
		config.Room = 64 << 20
	}
	s, err := openSpool(config.Dir, config.Room)
	if err != nil {
		return nil, err
	}
	return &Recorder{Config: config, spool: s, refusals: map[refusals]*bounded{}, lost: s.lost, first: make(chan struct{}, 1)}, nil
}

// Why says more about a decision than the decision does.
type Why struct {
	Grant      bool   // its rule is an AccessGrant
	BreakGlass bool   // that nobody else approved
	Purpose    string // why it is used, as the caller says
}

// Record takes a decision. It never waits for the disk, and keeps nothing of the decision's memory.
func (r *Recorder) Record(d *policy.Decision, why Why) {
	r.mu.Lock()
	defer r.mu.Unlock()
	who := whose{d.Tenant, d.TenantUID}
	if who.uid == "" {
		who.tenant = "" // a name that nobody has proven to be a tenant's
	}
	var before bounded
	if !d.Allowed {
		key := refusals{who, d.Reason}
		b := r.refusals[key]
		if b == nil {
			b = &bounded{}
			key.tenant, key.uid = strings.Clone(key.tenant), strings.Clone(key.uid)
			r.refusals[key] = b
		}
		if !b.take(d.Time) {
			r.Metrics.suppressed.Inc()
			return
		}
		before = *b
		b.suppressed = 0
	}
	e := trail.Event{
		Time: d.Time, Kind: trail.Decision, Tenant: d.Tenant, TenantUID: d.TenantUID, Member: r.Member, Decision: d.ID, Point: d.Point, Cell: d.Cell, Workload: d.Workload,
		Principal: d.Principal, Method: d.Method, Path: d.Path, Txn: d.Txn, Allowed: d.Allowed, Reason: d.Reason.String(), Detail: d.Detail, Rule: d.Rule,
		Purpose: why.Purpose, BreakGlass: why.BreakGlass, Revision: d.Revision, Epoch: d.Epoch,
	}
	if before.suppressed > 0 {
		e.Suppressed, e.From, e.To = before.suppressed, before.from, before.to
	}
	if why.Grant {
		e.Grant = strings.TrimPrefix(d.Rule, "grant/")
	}
	r.put(who, e)
}

// take reports whether one more refusal may be written; when not, it counts it.
func (b *bounded) take(now time.Time) bool {
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Sub(now) > (burst-1)*interval {
		if b.suppressed++; b.suppressed == 1 {
			b.from = now
		}
		b.to = now
		return false
	}
	b.full = b.full.Add(interval)
	return true
}

// put adds an event to those that wait, with r.mu held, or counts it as lost.
func (r *Recorder) put(who whose, e trail.Event) {
	if len(r.pending) >= maxPending || r.closed {
		r.lose(who, max(1, e.Suppressed+1), e.Time)
		return
	}
	e.Clean()
	r.pending = append(r.pending, e)
	select {
	case r.first <- struct{}{}:
	default:
	}
}

// lose counts decisions of which nothing is kept, with r.mu held.
func (r *Recorder) lose(who whose, n int64, at time.Time) {
	l := r.lost[who]
	if l == nil {
		l = &loss{From: at.UTC()}
		r.lost[whose{strings.Clone(who.tenant), strings.Clone(who.uid)}] = l
	}
	l.Lost += n
	l.To = at.UTC()
	r.Metrics.lost.Add(float64(n))
}

// Run writes what comes until ctx ends, and then the rest.
func (r *Recorder) Run(ctx context.Context) error {
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.Flush(r.Now())
		case <-ctx.Done():
			r.mu.Lock()
			for key, b := range r.refusals {
				r.summarize(key, b)
			}
			r.mu.Unlock()
			r.Flush(r.Now())
			return r.spool.close()
		}
	}
}

// Flush writes what waits, and gaps where there is room for them again.
func (r *Recorder) Flush(now time.Time) {
	r.mu.Lock()
	for key, b := range r.refusals {
		if b.full.After(now) {
			continue
		}
		if r.summarize(key, b); b.suppressed == 0 {
			delete(r.refusals, key)
		}
	}
	pending := r.pending
	r.pending = nil
	lost := r.lost
	r.lost = map[whose]*loss{}
	r.mu.Unlock()
	left, err := r.spool.write(r.Member, pending, lost, now, r.Signer)
	if err != nil {
		r.Log.Error("audit events could not be written; they are counted, and the gap will be an event of its own", zap.Error(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for who, l := range left {
		before := int64(0)
		if was := lost[who]; was != nil {
			before = was.Lost
		}
		r.Metrics.lost.Add(float64(max(0, l.Lost-before)))
		if newer := r.lost[who]; newer != nil {
			l.Lost, l.To = l.Lost+newer.Lost, newer.To
		}
		r.lost[who] = l
	}
	if err := r.spool.keepLost(r.lost); err != nil {
		r.Log.Error("the count of audit events that were lost could not be kept on the disk", zap.Error(err))
	}
	r.Metrics.waiting.Set(float64(r.spool.size()))
}

// summarize makes an event of refusals that were only counted.
func (r *Recorder) summarize(key refusals, b *bounded) {
	if b.suppressed == 0 || len(r.pending) >= maxPending {
		return
	}
	r.put(key.whose, trail.Event{
		Time: b.to, Kind: trail.Summary, Tenant: key.tenant, TenantUID: key.uid, Member: r.Member, Reason: key.reason.String(), Suppressed: b.suppressed, From: b.from, To: b.to,
	})
	b.suppressed = 0
}

// Next is what is to be handed over next, in the form that it is kept in, at most so many bytes unless the first is
// longer. Sequence is what to acknowledge it by; nothing waits when it is 0.
func (r *Recorder) Next(most int) (sequence int64, batches [][]byte, err error) {
	return r.spool.next(most)
}

// Acknowledged notes that the control plane has what was handed over up to sequence.
func (r *Recorder) Acknowledged(sequence int64) error { return r.spool.acknowledged(sequence) }
