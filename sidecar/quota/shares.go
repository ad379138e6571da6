package quota

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/policy/limit/share"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Bounds.
const (
	shards   = 64
	maxPools = 65536 // of one member; beyond them it has what is standing
	retry    = time.Second
)

// Shares are what this member may use of the limits that it shares with others.
type Shares struct {
	member  string
	limiter *limit.Limiter
	places  atomic.Pointer[places]        // nil until a set was saved: nothing may be used
	session atomic.Pointer[share.Session] // never nil
	pools   [shards]poolMap
	count   atomic.Int64
}

type poolMap struct {
	mu    sync.RWMutex
	pools map[share.Pool]*pool
}

// places are this member's places in its groups.
type places struct {
	parts    map[string]share.Part
	gateway  bool
	workload string            // group of the classes of its workload
	bound    map[string]string // groups of tenants to whom workloads are bound
	alone    bool              // in every group there is nobody else: limits are whole
}

// pool is one limit that was used lately.
type pool struct {
	key     share.Pool
	wanted  atomic.Uint64 // requests since the last report
	waiting atomic.Uint64 // of them, those that concurrency refused
	granted atomic.Pointer[share.Grant]
	before  atomic.Pointer[share.Grant] // of another allocator
	usable  atomic.Pointer[usable]

	// Of the client.
	reported time.Time
	used     time.Time
	told     uint64 // grant
}

// usable is what may be used of a pool, as long as what it was computed from is so.
type usable struct {
	whole    policy.ClassLimit
	part     share.Part
	standing share.Part
	grant    *share.Grant
	phase    share.Phase
	amount   share.Amount
	limits   policy.Limits // with the pool's replaced
}

// New returns the shares of a member, which counts in limiter. now is when its process began: what was granted to the one
// before may have been given to others still.
func New(member string, limiter *limit.Limiter, now time.Time) *Shares {
	s := &Shares{member: member, limiter: limiter}
	s.session.Store((&share.Session{}).Asked(now, meshname.LeaseTime))
	for i := range s.pools {
		s.pools[i].pools = map[share.Pool]*pool{}
	}
	return s
}

// Saved takes the groups of a set that is on the disk: only what a crash does not undo counts.
func (s *Shares) Saved(set *policyset.Set) {
	if set == nil || set.Self == nil {
		return
	}
	self := set.Self
	p := &places{parts: map[string]share.Part{}, gateway: self.Role == "gateway", workload: meshname.GroupWorkload(self.Cell, self.Workload), bound: map[string]string{}, alone: true}
	for _, g := range self.Groups {
		part := s.part(g)
		p.parts[g.Name] = part
		if tenant, ok := strings.CutPrefix(g.Name, meshname.GroupTenant("")); ok {
			p.bound[tenant] = g.Name
		}
		p.alone = p.alone && part.Whole()
	}
	s.places.Store(p)
}

func (s *Shares) part(g *api.ShareGroup) share.Part {
	return share.PartOf(s.member, g.Members, g.Counted)
}

// of returns where a request counts; false when it shares its limit with nobody.
func (p *places) of(tenant string, class bool) (group string, part share.Part, shared bool) {
	group = p.workload
	if !class {
		group = p.bound[tenant]
		if p.gateway && !p.parts[group].Counted {
			group = meshname.GroupGateways
		}
	}
	part, ok := p.parts[group]
	return group, part, ok && !part.Whole() // a control plane that knows no groups says none
}

// Counts reports whether a tenant's own limit, or one of a class, is counted at this member: a tenant's own is where it
// enters, a class's at its workload.
func (s *Shares) Counts(tenant string, class bool) bool {
	if s == nil {
		return true
	}
	p := s.places.Load()
	if p == nil || len(p.parts) == 0 { // nothing is known yet, or ever
		return true
	}
	group, _, _ := p.of(tenant, class)
	_, ok := p.parts[group]
	return ok
}

// Ready reports whether something may be used: before, a member had better not be asked.
func (s *Shares) Ready(now time.Time) bool {
	p := s.places.Load()
	if p == nil {
		return false
	}
	session := s.session.Load()
	for group, part := range p.parts {
		if !part.Whole() && (session.Phase(now) > share.In || session.Standing[group].Of == 0) && (!part.Counted || session.Phase(now) < share.Risen) {
			return false
		}
	}
	return true
}

// Admit is [limit.Limiter.Admit], with what may be used here of the limit that the request shares with others: the tenant's
// own where it is charged, else the class's. It counts the request as demand. Without shares, limits are whole.
func (s *Shares) Admit(l *limit.Limiter, now time.Time, tenant string, r *limit.Request) limit.Verdict {
	if s == nil {
		return l.Admit(now, r)
	}
	places := s.places.Load()
	if places != nil && places.alone {
		return l.Admit(now, r)
	}
	whole, kind := policy.ClassLimit{RequestsPerSecond: r.Limits.RequestsPerSecond, Burst: r.Limits.Burst, Concurrency: r.Limits.Concurrency}, limit.TenantRate
	if !r.ChargeTenant {
		class, ok := r.Limits.Classes[r.Class]
		if !ok || r.Class == "" {
			return l.Admit(now, r)
		}
		whole, kind = class, limit.ClassRate
	}
	if places == nil {
		return limit.Refused(kind, 0, retry)
	}
	group, part, shared := places.of(tenant, !r.ChargeTenant)
	if !shared {
		return l.Admit(now, r)
	}
	key := share.Pool{Group: group, Tenant: tenant, UID: r.UID}
	if !r.ChargeTenant {
		key.Class = r.Class
	}
	p := s.pool(now, key, whole, part)
	p.wanted.Add(uint64(min(max(1, r.Hits), math.MaxInt32)))
	u := s.settle(now, p, whole, part)
	verdict := s.admit(l, now, r, u, kind)
	if verdict.Reason == policy.ConcurrencyLimited {
		p.waiting.Add(1)
	}
	if verdict.Reason == policy.RateLimited && u.phase <= share.In && whole.RequestsPerSecond > 0 {
		// A larger part is on its way, but more than the whole limit nobody gets.
		verdict.Within(max(retry, time.Duration(float64(max(1, r.Hits))/whole.RequestsPerSecond*float64(time.Second))))
	}
	return verdict
}

func (s *Shares) admit(l *limit.Limiter, now time.Time, r *limit.Request, u *usable, kind limit.Kind) limit.Verdict {
	switch a := u.amount; {
	case a.Rate == 0, a.Rate > 0 && a.Burst == 0:
		return limit.Refused(kind, float64(u.whole.Burst), retry)
	case a.Concurrency == 0 && r.Lease != "":
		return limit.Refused(kind+1, float64(u.whole.Concurrency), retry)
	}
	mine := *r
	mine.Limits, mine.Shared = u.limits, true
	if class, ok := r.Limits.Classes[r.Class]; ok && r.ChargeTenant && r.Class != "" {
		mine.Limits.Classes = map[string]policy.ClassLimit{r.Class: class}
	}
	return l.Admit(now, &mine)
}

var seed = maphash.MakeSeed()

func (s *Shares) shard(key share.Pool) *poolMap {
	return &s.pools[maphash.String(seed, key.UID)%shards]
}

// pool finds or makes the record of a pool; beyond the bound it is one that nobody keeps.
func (s *Shares) pool(now time.Time, key share.Pool, whole policy.ClassLimit, part share.Part) *pool {
	m := s.shard(key)
	m.mu.RLock()
	p := m.pools[key]
	m.mu.RUnlock()
	if p != nil {
		return p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p = m.pools[key]; p != nil {
		return p
	}
	p = &pool{key: key}
	if s.count.Load() < maxPools {
		s.count.Add(1)
		m.pools[key] = p
	}
	// What was lent until now was not filled here.
	if session := s.session.Load(); session.Phase(now) >= share.Risen {
		u := s.compute(p, share.Over, whole, part)
		p.usable.Store(u)
	}
	return p
}

// compute says what may be used in a phase.
func (s *Shares) compute(p *pool, phase share.Phase, whole policy.ClassLimit, part share.Part) *usable {
	u := &usable{whole: whole, part: part, standing: s.session.Load().Standing[p.key.Group], grant: p.granted.Load(), phase: phase}
	u.set(p, part.Usable(share.Of(whole), phase, u.standing, amount(u.grant), amount(p.before.Load())))
	return u
}

func amount(g *share.Grant) share.Amount {
	if g == nil {
		return share.Amount{}
	}
	return g.Amount
}

// settle returns what may be used now, and has the pool's bucket take over what changed.
func (s *Shares) settle(now time.Time, p *pool, whole policy.ClassLimit, part share.Part) *usable {
	session := s.session.Load()
	phase, had := session.Phase(now), p.usable.Load()
	if had != nil && had.phase == phase && had.grant == p.granted.Load() && had.part == part && had.standing == session.Standing[p.key.Group] && had.whole == whole {
		return had
	}
	u := s.compute(p, phase, whole, part)
	if had != nil && had.amount != u.amount && !s.limiter.Shift(now, p.key.UID, p.key.Class, had.amount.Limit(), u.amount.Limit()) {
		u.set(p, had.amount.Min(u.amount)) // until there is room for a bucket
		return u
	}
	p.usable.Store(u)
	return u
}

// set says how much may be used.
func (u *usable) set(p *pool, amount share.Amount) {
	u.amount = amount
	mine := amount.Limit()
	if p.key.Class == "" {
		u.limits = policy.Limits{RequestsPerSecond: mine.RequestsPerSecond, Burst: mine.Burst, Concurrency: mine.Concurrency}
	} else {
		u.limits = policy.Limits{Classes: map[string]policy.ClassLimit{p.key.Class: mine}}
	}
}

// each calls f for every pool, and begins with another shard each time that from is another.
func (s *Shares) each(from uint64, f func(*pool)) {
	for i := range s.pools {
		m := &s.pools[(uint64(i)+from)%shards]
		m.mu.RLock()
		list := make([]*pool, 0, len(m.pools))
		for _, p := range m.pools {
			list = append(list, p)
		}
		m.mu.RUnlock()
		for _, p := range list {
			f(p)
		}
	}
}

func (s *Shares) forget(p *pool) {
	m := s.shard(p.key)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pools[p.key] == p {
		delete(m.pools, p.key)
		s.count.Add(-1)
	}
}

// Pools is how many pools were used lately.
func (s *Shares) Pools() int { return int(s.count.Load()) }

// InSession reports whether grants are in force.
func (s *Shares) InSession(now time.Time) bool { return s.session.Load().Phase(now) <= share.In }

// open is how many requests of a pool are open.
func (s *Shares) open(now time.Time, p *pool) uint64 {
	const most = 1 << 30
	r := limit.Request{UID: p.key.UID, Class: p.key.Class, ChargeTenant: p.key.Class == ""}
	r.Limits = policy.Limits{RequestsPerSecond: policy.Unlimited, Concurrency: most}
	if p.key.Class != "" {
		r.Limits.Classes = map[string]policy.ClassLimit{p.key.Class: {Concurrency: most}}
	}
	verdict := s.limiter.Explain(now, &r)
	for _, level := range verdict.Levels() {
		if level.Kind == limit.TenantConcurrency || level.Kind == limit.ClassConcurrency {
			return uint64(level.Of - level.Remaining)
		}
	}
	return 0
}
