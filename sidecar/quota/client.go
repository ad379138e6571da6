package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"time"

	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy/limit/share"
	"github.com/tenantmesh/tenantmesh/sidecar/durable"
)

// Config says what a client stands on.
type Config struct {
	Shares *Shares
	Conns  []*grpc.ClientConn // to control planes, one each: one of them divides
	Path   string             // of what a crash may not undo
	Now    func() time.Time
	Log    *zap.Logger
}

const (
	reportInterval = 200 * time.Millisecond // while there is something to say
	aliveInterval  = 500 * time.Millisecond // at least
	phaseInterval  = 50 * time.Millisecond  // between two looks at the session's phase
	usedTime       = 5 * time.Second        // how long a pool is reported after it was used
	keptTime       = 30 * time.Second       // and kept
	helloTime      = 5 * time.Second        // in which an allocator must answer
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 2 * time.Second
	maxReported    = 8000 // pools, of one report
)

// ConnectParams are those of a connection to a control plane that may divide: it comes back soon after an outage.
var ConnectParams = grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff}, MinConnectTimeout: helloTime}

// saved is what a crash may not undo.
type saved struct {
	// Allocator is the only one that may have lent this member's part to others; "" when there may be several.
	Allocator string `json:"allocator"`
	// Standing is of which part something is standing, by group.
	Standing map[string]share.Part `json:"standing"`
}

// Client keeps the stream to the allocator.
type Client struct {
	Config
	saved     saved
	allocator string // of the newest stream
}

// NewClient returns a client that begins with what is on the disk.
func NewClient(config Config) (*Client, error) {
	c := &Client{Config: config, saved: saved{Standing: map[string]share.Part{}}}
	session := config.Shares.session.Load()
	text, err := os.ReadFile(config.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it has never been in a session
		return c, nil
	case err != nil:
		return nil, err
	}
	next := *session
	next.Lender = session.Leave()
	config.Shares.session.Store(&next)
	if err := json.Unmarshal(text, &c.saved); err != nil {
		c.Log.Error("what is known of shared limits is torn; this member begins with nothing", zap.Error(err))
		c.saved = saved{Standing: map[string]share.Part{}}
		return c, nil
	}
	next.Standing = maps.Clone(c.saved.Standing)
	if c.allocator = c.saved.Allocator; c.allocator != "" {
		next.Lender = share.Lender{}
	}
	known := next
	config.Shares.session.Store(&known)
	return c, nil
}

func (c *Client) save() error {
	text, err := json.Marshal(c.saved)
	if err != nil {
		return err
	}
	return durable.WriteFile(c.Path, text)
}

// Run keeps a stream to whichever control plane divides, until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	go c.phases(ctx)
	pause := minBackoff
	for i := 0; ; i++ {
		began := c.Now()
		err := c.stream(ctx, c.Conns[i%len(c.Conns)])
		if ctx.Err() != nil {
			return nil
		}
		if c.Now().Sub(began) > maxBackoff {
			pause = minBackoff
			c.Log.Warn("nobody divides limits for this member; it goes on with its part of them", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, maxBackoff)
	}
}

// phases has every pool take over what time changes.
func (c *Client) phases(ctx context.Context) {
	ticker := time.NewTicker(phaseInterval)
	defer ticker.Stop()
	last := share.Over
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if phase := c.Shares.session.Load().Phase(c.Now()); phase != last {
			last = phase
			c.settle()
		}
	}
}

func (c *Client) settle() {
	places, now := c.Shares.places.Load(), c.Now()
	c.Shares.each(0, func(p *pool) {
		if u := p.usable.Load(); u != nil && places != nil {
			c.Shares.settle(now, p, u.whole, places.parts[p.key.Group])
		}
	})
}

// conversation is one stream.
type conversation struct {
	*Client
	stream   quota.RateLimitQuotaService_StreamRateLimitQuotasClient
	number   uint64               // of the newest report
	sent     map[uint64]time.Time // reports
	response uint64               // the newest
	places   *places              // reported
	standing *share.Session       // whose was reported
	said     time.Time
}

func (c *Client) stream(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := quota.NewRateLimitQuotaServiceClient(conn).StreamRateLimitQuotas(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&quota.RateLimitQuotaUsageReports{Domain: meshname.QuotaDomain, BucketQuotaUsages: []*quota.RateLimitQuotaUsageReports_BucketQuotaUsage{usage(map[string]string{meshname.QuotaMember: c.Shares.member})}})
	if err != nil {
		_, err = stream.Recv() // says why
		return err
	}
	late := time.AfterFunc(helloTime, func() { cancel(errors.New("the allocator does not answer")) })
	hello, err := stream.Recv()
	late.Stop()
	if err != nil {
		return err
	}
	t := &conversation{Client: c, stream: stream, sent: map[uint64]time.Time{}}
	if err := t.accept(hello); err != nil {
		return err
	}
	responses, failed := make(chan *quota.RateLimitQuotaResponse), make(chan error, 1)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case responses <- response:
			case <-ctx.Done():
				return
			}
		}
	}()
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		if err := t.report(); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case response := <-responses:
			again, err := t.take(response)
			if err != nil {
				return err
			}
			for !again { // nothing to answer
				select {
				case <-ticker.C:
					again = true
				case response := <-responses:
					if again, err = t.take(response); err != nil {
						return err
					}
				case err := <-failed:
					return err
				}
			}
		case err := <-failed:
			return err
		}
	}
}

// accept begins anew with an allocator: what this member had it gives up before it says that it holds nothing.
func (t *conversation) accept(hello *quota.RateLimitQuotaResponse) error {
	id := ""
	for _, action := range hello.BucketAction {
		id = action.GetBucketId().GetBucket()[meshname.QuotaAllocator]
	}
	if id == "" {
		return errors.New("the first response must name the allocator")
	}
	session := t.Shares.session.Load()
	asked := session.Asked(t.Now(), meshname.LeaseTime)
	another := id != t.allocator && t.allocator != ""
	if another {
		asked.Lender = session.Leave()
	}
	if id != t.allocator || t.saved.Allocator == "" {
		t.allocator, t.saved.Allocator = id, ""
		if err := t.save(); err != nil {
			return err
		}
	}
	t.Shares.each(0, func(p *pool) {
		if another {
			p.before.Store(p.granted.Load())
		}
		p.granted.Store(nil)
		p.told = 0
	})
	t.Shares.session.Store(asked)
	t.Client.settle()
	return nil
}

// take puts a response in force, and reports whether it is to be answered at once.
func (t *conversation) take(response *quota.RateLimitQuotaResponse) (answer bool, err error) {
	r := readResponse(response)
	if r.number <= t.response {
		return false, fmt.Errorf("the number of a response must grow (got %d after %d)", r.number, t.response)
	}
	now := t.Now()
	for _, g := range r.grants {
		p := t.Shares.known(g.Pool)
		if had := p.granted.Load(); had != nil && had.Number >= g.Number {
			continue
		}
		p.granted.Store(&g)
	}
	session := t.Shares.session.Load()
	changed := false
	standing := maps.Clone(session.Standing)
	if standing == nil {
		standing = map[string]share.Part{}
	}
	for group, part := range r.standing {
		changed = changed || standing[group] != part
		standing[group] = part
	}
	if changed {
		t.saved.Standing = standing
		if err := t.save(); err != nil {
			return false, err
		}
	}
	t.response = r.number
	if sent, ok := t.sent[r.report]; ok {
		session = session.Heard(sent, now, meshname.LeaseTime)
	}
	if changed {
		next := *session
		next.Standing = standing
		session = &next
	}
	for report := range t.sent {
		if report < r.report {
			delete(t.sent, report)
		}
	}
	t.Shares.session.Store(session)
	if changed || len(r.grants) > 0 {
		t.Client.settle()
	}
	return changed || len(r.grants) > 0, nil
}

// known finds or makes the record of a pool that something was granted of.
func (s *Shares) known(key share.Pool) *pool {
	m := s.shard(key)
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pools[key]
	if p == nil {
		p = &pool{key: key}
		m.pools[key] = p
		s.count.Add(1)
	}
	return p
}

// report says what is new, or that this member is there.
func (t *conversation) report() error {
	now, places, session := t.Now(), t.Shares.places.Load(), t.Shares.session.Load()
	if places == nil {
		return nil
	}
	lends, lendsOpen := session.Lender.Lends(now)
	if lendsOpen && t.saved.Allocator != t.allocator {
		t.saved.Allocator = t.allocator
		if err := t.save(); err != nil {
			return err
		}
	}
	w := newReport(t.number+1, t.response, lends, lendsOpen)
	if places != t.places || t.standing == nil || !maps.Equal(session.Standing, t.standing.Standing) {
		t.places, t.standing = places, session
		for group, part := range places.parts {
			w.place(group, part, session.Standing[group])
		}
	}
	t.Shares.each(t.number, func(p *pool) { t.use(now, w, p) }) // in turn, if there are more than a report may have
	if w.empty && now.Sub(t.said) < aliveInterval {
		return nil
	}
	t.said = now
	t.number++
	t.sent[t.number] = now
	return t.stream.Send(w.report)
}

func (t *conversation) use(now time.Time, w *reportWriter, p *pool) {
	if w.pools >= maxReported {
		return
	}
	grant, told := uint64(0), p.told
	if g := p.granted.Load(); g != nil {
		grant = g.Number
	}
	open := t.Shares.open(now, p)
	if p.wanted.Load() > 0 || open > 0 || p.used.IsZero() {
		p.used = now
	}
	if idle := now.Sub(p.used); idle > usedTime && told == grant {
		if g := p.granted.Load(); idle > keptTime && (g == nil || g.Amount == share.Amount{}) {
			t.Shares.forget(p)
		}
		return
	}
	elapsed := reportInterval
	if !p.reported.IsZero() {
		elapsed = now.Sub(p.reported)
	}
	p.reported, p.told = now, grant
	w.use(share.Usage{Pool: p.key, Grant: grant, Elapsed: elapsed, Wanted: p.wanted.Swap(0), Open: open, Waiting: p.waiting.Swap(0)})
}
