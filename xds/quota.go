package xds

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
	"time"

	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/share"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// QuotaConfig says what an allocator stands on.
type QuotaConfig struct {
	Store  tenantstore.Store
	Writer *tenantstore.Writer
	Now    func() time.Time
	Log    *zap.Logger
}

// Quota divides limits among the members that enforce them, while this control plane leads. It implements [server.Quota].
// That one leads keeps what members lend together; the sums hold though several believe to (policy/limit/share).
type Quota struct {
	QuotaConfig

	mu      sync.Mutex
	id      string // of this lead; "" without
	book    *share.Book
	objects map[tenantstore.Key]*tenantstore.Object
	groups  map[string]tenantstore.Group
	tiers   map[string]policy.TierSpec
	streams map[string]*quotaStream // by member
	heard   map[string]time.Time    // members; those that were not heard in this lead are there since its beginning
	began   time.Time
}

// NewQuota returns an allocator; Run makes it work.
func NewQuota(config QuotaConfig) *Quota {
	return &Quota{QuotaConfig: config, streams: map[string]*quotaStream{}, heard: map[string]time.Time{}}
}

// How often it is looked at what time changes, and how long a member is out of reach that is not waited for any more
// before others' parts count.
const (
	quotaTick = 100 * time.Millisecond
	goneTime  = 10 * time.Second
)

// Run leads, or waits to, until ctx ends.
func (q *Quota) Run(ctx context.Context) error {
	tenantstore.Keep(ctx, func(ctx context.Context) error {
		return q.Store.Lead(ctx, "quota", func(ctx context.Context) error {
			defer q.resign()
			q.lead()
			return tenantstore.Follow(ctx, q.Store, q.follow)
		})
	}, func(err error) { q.Log.Warn("limits are not divided here for a moment", zap.Error(err)) })
	return nil
}

func (q *Quota) lead() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.id, q.began = rand.Text(), q.Now()
	q.book = share.NewBook(share.Options{Limit: q.limit, Tail: meshname.LeaseTime})
	clear(q.heard)
}

func (q *Quota) resign() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.id, q.objects = "", nil
	for _, s := range q.streams {
		q.end(s)
	}
}

// end ends a stream. It is called with mu held.
func (q *Quota) end(s *quotaStream) {
	if q.streams[s.member] == s {
		delete(q.streams, s.member)
	}
	if !s.over {
		s.over = true
		close(s.changed)
	}
}

// limit is a pool's whole limit. It is called with mu held.
func (q *Quota) limit(pool share.Pool) (policy.ClassLimit, bool) {
	tenant := q.objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: pool.Tenant}]
	if tenant == nil || tenant.Metadata.UID != pool.UID {
		return policy.ClassLimit{}, false
	}
	limits := tenantstore.EffectiveLimits(tenantstore.TiersFor(q.objects, q.tiers, tenant), tenant.Tenant)
	if pool.Class != "" {
		limit, ok := limits.Classes[pool.Class]
		return limit, ok
	}
	return policy.ClassLimit{RequestsPerSecond: limits.RequestsPerSecond, Burst: limits.Burst, Concurrency: limits.Concurrency}, true
}

// follow keeps up with the store, and with time.
func (q *Quota) follow(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, changes <-chan tenantstore.Change) error {
	ticker := time.NewTicker(quotaTick)
	defer ticker.Stop()
	q.take(objects, nil)
	for {
		select {
		case change, ok := <-changes:
			if !ok || change.Err != nil {
				return errors.Join(change.Err, ctx.Err())
			}
			q.take(objects, &change)
		case <-ticker.C:
			q.look(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *Quota) take(objects map[tenantstore.Key]*tenantstore.Object, change *tenantstore.Change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.objects = objects
	tiers, groups, limits := change == nil, change == nil, false
	note := func(key tenantstore.Key) {
		switch key.Kind {
		case tenantstore.KindTier, tenantstore.KindRollout:
			tiers = true
		case tenantstore.KindMember, tenantstore.KindWorkload:
			groups = true
		case tenantstore.KindTenant:
			limits = true
		default:
		}
	}
	if change != nil {
		for _, o := range change.Put {
			objects[o.Key()] = o
			note(o.Key())
		}
		for _, key := range change.Delete {
			delete(objects, key)
			note(key)
		}
	}
	if tiers {
		q.tiers = tenantstore.Tiers(objects)
	}
	if groups {
		q.groups = tenantstore.Groups(objects)
		members := make(map[string][]string, len(q.groups))
		for name, group := range q.groups {
			members[name] = group.Members
		}
		q.book.SetGroups(members)
	}
	if tiers || limits {
		q.book.Changed()
	}
}

// look divides anew, tells who is to be told, and notes in the store whose parts have become their own.
func (q *Quota) look(ctx context.Context) {
	q.mu.Lock()
	now := q.Now()
	q.book.Divide(now)
	for _, s := range q.streams {
		if s.begun && q.book.Waiting(s.member) {
			s.wake()
		}
	}
	count := map[string][]string{}
	for name, group := range q.groups {
		if len(group.Counted) < len(group.Members) && q.book.Settled(name, share.Digest(group.Members), func(id string) bool { return q.gone(now, id) }) {
			count[name] = group.Members
		}
	}
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	for name, ids := range count {
		if err := q.Writer.CountMembers(ctx, "control", name, ids); err != nil {
			q.Log.Warn("whose parts of limits are their own could not be noted; it is tried again", zap.Error(err))
			return
		}
	}
}

// countTime is how long a note to the store may take.
const countTime = time.Second

// gone reports whether a member has been out of reach for long.
func (q *Quota) gone(now time.Time, id string) bool {
	last := q.began
	if heard, ok := q.heard[id]; ok {
		last = heard
	}
	return now.Sub(last) >= goneTime
}

// Open implements [server.Quota].
func (q *Quota) Open(principal identity.Principal, member string) (server.QuotaStream, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.id == "" || q.objects == nil {
		return nil, status.Error(codes.Unavailable, "another control plane divides limits")
	}
	known := q.objects[tenantstore.Key{Kind: tenantstore.KindMember, Name: member}]
	if known == nil {
		return nil, status.Error(codes.Unavailable, "the member has not joined yet")
	}
	if known.Member.Principal != principal.String() || known.Member.Fenced {
		return nil, status.Errorf(codes.PermissionDenied, "%s is not member %s, or was fenced", principal, member)
	}
	if old := q.streams[member]; old != nil {
		q.end(old)
	}
	s := &quotaStream{quota: q, member: member, id: q.id, asked: q.Now(), changed: make(chan struct{}, 1)}
	q.streams[member] = s
	return s, nil
}

// Sizes are how many members are in a session here, and how many pools are divided.
func (q *Quota) Sizes() (sessions, pools int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.id == "" {
		return 0, 0
	}
	return q.book.Sizes()
}

// quotaStream is a member's newest stream. Guarded by the allocator's mu.
type quotaStream struct {
	quota   *Quota
	member  string
	id      string // of the lead
	asked   time.Time
	begun   bool
	over    bool
	report  uint64 // number of the newest
	changed chan struct{}
}

func (s *quotaStream) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Changed implements [server.QuotaStream].
func (s *quotaStream) Changed() <-chan struct{} { return s.changed }

// Close implements [server.QuotaStream].
func (s *quotaStream) Close() {
	s.quota.mu.Lock()
	defer s.quota.mu.Unlock()
	s.quota.end(s)
}

var errQuotaOver = status.Error(codes.Unavailable, "the session is over")

// Report implements [server.QuotaStream].
func (s *quotaStream) Report(report *quota.RateLimitQuotaUsageReports) error {
	r, number, err := readReport(report)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	q := s.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.over {
		return errQuotaOver
	}
	if number <= s.report {
		return status.Errorf(codes.InvalidArgument, "the number of a report must grow (got %d after %d)", number, s.report)
	}
	now := q.Now()
	if !s.begun {
		if now.Sub(s.asked) >= share.Lease {
			return errQuotaOver
		}
		s.begun = true
		q.book.Begin(s.asked, now, s.member)
	}
	if !q.book.Report(now, s.member, r) {
		return errQuotaOver
	}
	q.heard[s.member], s.report = now, number
	q.book.Divide(now)
	s.wake()
	return nil
}

// Next implements [server.QuotaStream].
func (s *quotaStream) Next() (*quota.RateLimitQuotaResponse, error) {
	s.quota.mu.Lock()
	defer s.quota.mu.Unlock()
	if s.over {
		return nil, errQuotaOver
	}
	number, grants, standing := s.quota.book.Take(s.quota.Now(), s.member)
	if number == 0 {
		return nil, errQuotaOver
	}
	return writeResponse(s.id, s.report, number, grants, standing), nil
}

// Hello implements [server.QuotaStream].
func (s *quotaStream) Hello() *quota.RateLimitQuotaResponse {
	return &quota.RateLimitQuotaResponse{BucketAction: []*quota.RateLimitQuotaResponse_BucketAction{assignment(map[string]string{meshname.QuotaAllocator: s.id}, nil)}}
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // what is no number is none
	return n
}
