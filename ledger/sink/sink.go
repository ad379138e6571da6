package sink

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
)

// Bounds of one request, in records.
const (
	maxRecords        = 512
	maxAdministrative = 64 // they hold whole objects
)

// Administrative is where administrative events are kept.
type Administrative interface {
	// Events returns up to limit events with a sequence above after, oldest first.
	Events(ctx context.Context, after int64, limit int) ([]ledger.Event, error)
	// Head is the newest.
	Head(ctx context.Context) (ledger.Head, error)
}

// Config says what a sink stands on.
type Config struct {
	URL            *url.URL    // of the receiver, see [ParseURL]
	Header         http.Header // of each request
	Cursor         string      // path of the file that says what was taken
	Archive        *trail.Archive
	Administrative Administrative
	Attributes     map[string]string // of the resource, such as service.name
	Poll           time.Duration     // between two looks for administrative events; default 2 s
	Backoff        time.Duration     // after a failure, doubled by each up to 64 times; default 1 s
	Metrics        *Metrics
	Log            *zap.Logger
}

// Sink tells a receiver what is kept.
type Sink struct {
	Config
	client   *http.Client
	resource *resource.Resource
	scope    *common.InstrumentationScope

	follower *trail.Follower
	cursor   *cursor
	moved    bool // since it was saved
	saved    time.Time
	again    []string        // tenants to look at again
	due      map[string]bool // tenants of which there may be something to send
	turn     string          // the tenant that was served last
	asked    time.Time       // when administrative events were looked for
	known    bool            // that the store's events are the ones that the cursor is about
	failures int             // in a row
	rest     time.Time       // nothing is sent before
}

// Open begins to follow, from where the sink before ended, or from the oldest that is kept.
func Open(config Config) (*Sink, error) {
	if config.Poll == 0 {
		config.Poll = 2 * time.Second
	}
	if config.Backoff == 0 {
		config.Backoff = time.Second
	}
	c, err := openCursor(config.Cursor)
	if err != nil {
		return nil, err
	}
	follower, err := config.Archive.Follow()
	if err != nil {
		return nil, err
	}
	s := &Sink{Config: config, follower: follower, cursor: c, due: map[string]bool{}, resource: &resource.Resource{}, scope: &common.InstrumentationScope{Name: "tenantmesh/audit"}}
	for _, name := range slices.Sorted(maps.Keys(config.Attributes)) {
		s.resource.Attributes = append(s.resource.Attributes, &common.KeyValue{Key: name, Value: text(config.Attributes[name])})
	}
	s.client = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone(), Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s, nil
}

// page is what is sent at once, and the cursor after it.
type page struct {
	records        []*logs.LogRecord
	events         int64
	administrative int64
	tenants        map[string]place // Missing is what the page tells
}

// Run sends until ctx ends. It returns an error only when the cursor cannot be kept in the end.
func (s *Sink) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		s.look()
		now := time.Now()
		wait := s.rest.Sub(now)
		if wait <= 0 {
			if p := s.next(ctx, now); len(p.records) > 0 {
				s.deliver(ctx, p)
				continue
			}
			s.Metrics.waits(false, now)
			s.save(now)
			wait = s.Poll
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-s.follower.News():
		case <-timer.C:
		}
	}
	return s.cursor.save()
}

// look takes over what changed, and counts what went away before it was taken.
func (s *Sink) look() {
	uids := append(s.follower.Changed(), s.again...)
	s.again = nil
	for _, uid := range uids {
		s.due[uid] = true
		at := s.cursor.of(uid)
		m, after, err := s.follower.Missing(uid, at.Position)
		if err != nil {
			s.Log.Error("what went away before the audit receiver took it is not counted; it is kept meanwhile", zap.String("tenantUid", uid), zap.Error(err))
			s.again = append(s.again, uid)
			continue
		}
		if m.Events > 0 || m.Unknown {
			s.Metrics.lost.WithLabelValues(rotated).Add(float64(m.Events))
			s.Log.Error("audit events went away before the receiver took them", zap.String("tenantUid", uid), zap.Int64("lost", m.Events), zap.Bool("unknown", m.Unknown), zap.Time("from", m.From), zap.Time("to", m.To))
		}
		if after != at.Position {
			at.Position = after
			at.lose(m)
			if err := s.cursor.save(); err != nil { // the files stay until it is noted
				s.Log.Error("the audit receiver's cursor is not kept", zap.Error(err))
				s.again = append(s.again, uid)
				continue
			}
		}
		if err := s.follower.Drop(uid, at.Position); err != nil {
			s.Log.Error("what is too much of the audit trail is not removed", zap.Error(err))
			s.again = append(s.again, uid)
		}
	}
}

// next is what to send next: administrative events first, then tenants in turn.
func (s *Sink) next(ctx context.Context, now time.Time) page {
	p := page{tenants: map[string]place{}}
	if now.Sub(s.asked) >= s.Poll {
		if err := s.administered(ctx, &p); err != nil && ctx.Err() == nil {
			s.Log.Warn("administrative events could not be read for the audit receiver; it is tried again", zap.Error(err))
		}
		if len(p.records) < maxAdministrative {
			s.asked = now
		}
	}
	uids := slices.Sorted(maps.Keys(s.due))
	first, _ := slices.BinarySearch(uids, s.turn+"\x00") // the one after
	for _, uid := range slices.Concat(uids[first:], uids[:first]) {
		if len(p.records) >= maxRecords {
			break
		}
		s.take(&p, uid, now)
	}
	return p
}

// take adds to a page what a tenant has.
func (s *Sink) take(p *page, uid string, now time.Time) {
	at := *s.cursor.of(uid)
	list, more, err := s.follower.After(uid, at.Position, maxRecords-len(p.records))
	if err != nil {
		s.Log.Error("audit events could not be read for the receiver; it is tried again", zap.String("tenantUid", uid), zap.Error(err))
	}
	if s.turn = uid; !more && err == nil {
		delete(s.due, uid)
	}
	if at.Missing.Events > 0 || at.Missing.Unknown {
		p.records = append(p.records, missed(uid, at.Missing, now))
	}
	for i := range list {
		p.records = append(p.records, decided(&list[i]))
		at.Position = list[i].End
	}
	p.events += int64(len(list))
	p.tenants[uid] = at
}

// administered adds administrative events to a page.
func (s *Sink) administered(ctx context.Context, p *page) error {
	if !s.known {
		head, err := s.Administrative.Head(ctx)
		if err != nil {
			return err
		}
		if head.Sequence < s.cursor.Administrative {
			s.Log.Warn("the store has fewer administrative events than the audit receiver has taken: it is told all that are there", zap.Int64("kept", head.Sequence), zap.Int64("taken", s.cursor.Administrative))
			s.cursor.Administrative = 0
		}
		s.known = true
	}
	events, err := s.Administrative.Events(ctx, s.cursor.Administrative, maxAdministrative)
	if err != nil {
		return err
	}
	for i := range events {
		r, err := administered(&events[i])
		if err != nil {
			return err
		}
		p.records = append(p.records, r)
		p.events, p.administrative = p.events+1, events[i].Sequence
	}
	return nil
}

// deliver sends a page. When the receiver does not take it, it is made anew later.
func (s *Sink) deliver(ctx context.Context, p page) {
	s.Metrics.waits(true, time.Now())
	rejected, err := s.send(ctx, p.records)
	now := time.Now()
	if err != nil {
		for uid := range p.tenants {
			s.due[uid] = true
		}
		if s.asked = (time.Time{}); ctx.Err() == nil {
			s.rested(err, now)
		}
		return
	}
	s.failures, s.moved = 0, true
	s.Metrics.waits(false, now)
	s.Metrics.sent.Add(float64(max(0, p.events-rejected)))
	if rejected > 0 {
		s.Metrics.lost.WithLabelValues(refused).Add(float64(rejected))
		s.Log.Error("the audit receiver refused events for good", zap.Int64("lost", rejected))
	}
	if p.administrative > 0 {
		s.cursor.Administrative = p.administrative
	}
	for uid, taken := range p.tenants {
		taken.Missing = trail.Missing{} // it has been told
		*s.cursor.of(uid) = taken
	}
	s.save(now)
}

// rested notes a failure, and for how long nothing is sent: as the receiver says, or twice as long as before, less a part by
// chance.
func (s *Sink) rested(err error, now time.Time) {
	s.Metrics.failed.Inc()
	wait := s.Backoff << min(s.failures, 6)
	wait -= rand.N(wait/4 + 1)
	var u unavailable
	if errors.As(err, &u) {
		wait = max(wait, u.after)
	}
	s.failures++
	s.rest = now.Add(wait)
	s.Log.Warn("the audit receiver takes nothing; it is tried again", zap.Error(err), zap.Duration("after", wait))
}

// saveInterval is how often the cursor is written, at most: what was taken since may come twice after a crash.
const saveInterval = time.Second

// save keeps the cursor, unless it was kept just now.
func (s *Sink) save(now time.Time) {
	if !s.moved || now.Sub(s.saved) < saveInterval {
		return
	}
	s.moved, s.saved = false, now
	if err := s.cursor.save(); err != nil {
		s.moved = true
		s.Log.Error("the audit receiver's cursor is not kept", zap.Error(err))
	}
}
