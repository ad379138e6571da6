// Package policyset answers WHAT DO I ENFORCE: everything that was pushed to this sidecar, as one value that never
// changes, behind one atomic pointer.
//
// # Concurrency
//
// A [Set] is immutable: [Set.With] makes another, and costs what changed. A [Holder] may be used from many goroutines.
//
// It imports identity, ledger, policy, policy/authz, policy/limit/breaker, policy/limit/fair and api; never tenantstore, xds or etcd.
package policyset

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/policy/limit/breaker"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
)

// Tenant is one tenant served here.
type Tenant struct {
	ID        identity.TenantID
	UID       string
	Tier      string
	Residency string
	Labels    map[string]string
	Phase     string
	Placement
	Limits   policy.Limits
	Refused  bool // its limits are not known, and its tier has it refused then
	Weight   int  // of its share where a service is full; at least 1
	Revision int64
	Audited  bool // every decision about it is recorded

	Seats Seats // where those who count have it: changed by them, each under its own lock
}

// Seats are where those who count what a tenant does have it.
type Seats struct {
	Share fair.Seat
	Usage ledger.Seat
}

// States of a placement in which a tenant moves (design, section 8).
const (
	Migrating = "MIGRATING"
	Fencing   = "FENCING"
	Cutover   = "CUTOVER"
	Final     = "FINAL"
)

// Placement says which cell owns a tenant.
type Placement struct {
	State  string
	Cell   string // the owner
	Target string // the other cell of a move
	Epoch  int64
	Since  int64         // epoch at which Cell became the owner
	Sealed bool          // in FENCING: calls within the cell are refused too
	Copy   bool          // what could escape the mover has ended: it copies
	Shut   bool          // in FENCING: reads are held too
	Pause  time.Duration // how long a step of the fence may take
	Hold   time.Duration // how long a gateway holds writes in FENCING
	Mover  string        // gateway that copies the tenant's data, and takes the writes that both cells must get
	Follow int64         // epoch at which it was appointed in MIGRATING; 0: it brings nothing before the seal
}

// Moving reports whether the tenant's requests take the way round by the gateway's Go process.
func (p *Placement) Moving() bool {
	return p.State == Migrating || p.State == Fencing || p.State == Cutover
}

// EndsStreams reports whether upgrades from before are ended where they enter: nothing can hold or repeat what they write. In
// MIGRATING they stay, unless all that is written must pass by the mover.
func (p *Placement) EndsStreams() bool {
	return p.Moving() && (p.State != Migrating || p.Follow != 0)
}

// Self is what this sidecar is.
type Self struct {
	Role           string // gateway, sidecar
	TrustDomain    string
	Principal      identity.Principal
	Cell           string
	Residency      string
	Workload       string
	ServicePort    int
	Classes        []authz.Class
	Bulkheads      map[string]bool   // classes for which Envoy has connections of their own
	Dependencies   map[string]string // "workload/<name>" or "dependency/<name>" -> tenancy
	Tenancy        string
	BoundTenant    identity.TenantID
	DeliverContext bool
	Peers          map[identity.Principal]bool // who may connect
	BoundPeers     map[identity.Principal]identity.TenantID
	Cells          map[string]string           // gateway: cell -> residency
	TenantData     []*api.TenantData           // a sidecar's own; a gateway's: of every workload
	Fenced         map[string]bool             // SHA-256 of certificates of members that were shut out, hexadecimal
	Movers         map[string]string           // member ID of a gateway -> host:port for the writes of tenants that it moves, and for tokens of events
	Breakers       map[string]breaker.Settings // by the names of Dependencies; none: the defaults
	Admission      Admission
	Streaming      map[string]bool   // classes whose requests last as long as they are used
	Streams        Streams           // gateway: such classes of the workloads
	Groups         []*api.ShareGroup // who enforces limits together
	Addresses      map[string]string // names that a captured service may call -> the virtual address of each
	Events         Events
	EventPeers     map[identity.Principal]EventPeer // gateway
	HideLimits     map[string]bool                  // workloads whose callers are not told of the limits that refuse them
}

// Events are the topics of a workload.
type Events struct {
	Produces, Consumes map[string]bool
	Lifetime           time.Duration // of the tokens of what it produces
}

// EventPeer is an instance of a workload that has topics.
type EventPeer struct {
	Cell   string
	Events Events
}

func events(m *api.Events) Events {
	e := Events{map[string]bool{}, map[string]bool{}, m.GetLifetime().AsDuration()}
	for _, topic := range m.GetProduces() {
		e.Produces[topic] = true
	}
	for _, topic := range m.GetConsumes() {
		e.Consumes[topic] = true
	}
	return e
}

// Strategy is how a workload's data follows a tenant that moves; "" when it keeps none.
func (s *Self) Strategy(workload string) string {
	for _, d := range s.TenantData {
		if d.Workload == workload {
			return cmp.Or(d.Strategy, StrategyFenced)
		}
	}
	return ""
}

// Strategies of data (design, section 8).
const (
	StrategyFenced    = "fenced"
	StrategyCatchUp   = "catchUp"
	StrategyDualWrite = "dualWrite"
)

const shards = 256

var seed = maphash.MakeSeed()

// Set is all that was pushed. A nil Set is empty.
type Set struct {
	Self     *Self // nil until it was pushed
	Policies *authz.Set
	Keys     tenanttoken.KeySet
	Issuers  map[string]*Issuer
	Revoked  map[string]bool // transactions whose contexts are refused, by their txn
	Revision int64

	changed  struct{ revoked, issuers int } // how often
	tenants  [shards]map[string]*Tenant
	count    int
	moving   map[string]*Tenant // those with a target
	policies map[string][]authz.Policy
	keys     map[string]tenanttoken.Key
	holders  map[string]string  // key -> member
	former   map[string]*Issuer // that are gone: Envoy may know their keys still, should they come back
}

// Holder is the member that holds a signing key, "" when that is not known.
func (s *Set) Holder(kid string) string { return s.holders[kid] }

// Tenant returns the tenant of that name.
func (s *Set) Tenant(name string) (*Tenant, bool) {
	if s == nil {
		return nil, false
	}
	t, ok := s.tenants[shard(name)][name]
	return t, ok
}

// Moving are the tenants whose placement has a target: those that move, or have just moved. It is not to be changed.
func (s *Set) Moving() map[string]*Tenant {
	if s == nil {
		return nil
	}
	return s.moving
}

// Tenants is how many there are.
func (s *Set) Tenants() int { return s.count }

func shard(name string) int { return int(maphash.String(seed, name) % shards) }

// Change is one resource that was pushed, or with a nil Message removed.
type Change struct {
	TypeURL string
	Name    string
	Message proto.Message
}

// Types are the types that a set takes.
func Types() []string {
	return []string{meshname.TypeProxyConfig, meshname.TypeTenantPolicy, meshname.TypeAccessPolicy, meshname.TypeSignerKey, meshname.TypeTokenIssuer, meshname.TypeRevocation}
}

// New returns the type's empty message, nil for a type that a set does not take.
func New(typeURL string) proto.Message {
	switch typeURL {
	case meshname.TypeProxyConfig:
		return &api.ProxyConfig{}
	case meshname.TypeTenantPolicy:
		return &api.TenantPolicy{}
	case meshname.TypeAccessPolicy:
		return &api.AccessPolicy{}
	case meshname.TypeSignerKey:
		return &api.SignerKey{}
	case meshname.TypeTokenIssuer:
		return &api.TokenIssuer{}
	case meshname.TypeRevocation:
		return &api.Revocation{}
	default:
		return nil
	}
}

// With returns the set after changes, or an error that names every resource that is wrong; then nothing changed.
func (s *Set) With(changes []Change, revision int64) (*Set, error) {
	next := &Set{Policies: &authz.Set{}, Issuers: map[string]*Issuer{}}
	if s != nil {
		*next = *s
	}
	next.Revision = max(next.Revision, revision)
	e := editor{set: next, copied: map[int]bool{}}
	for _, c := range changes {
		if err := e.apply(c); err != nil {
			e.problems = append(e.problems, fmt.Sprintf("%s %q: %v", c.TypeURL[strings.LastIndexByte(c.TypeURL, '.')+1:], c.Name, err))
		}
	}
	e.finish()
	if len(e.problems) > 0 {
		return s, fmt.Errorf("%s", strings.Join(e.problems, "; "))
	}
	return next, nil
}

// editor copies each part of a set once, before it changes it.
type editor struct {
	set                     *Set
	copied                  map[int]bool
	policies, keys, issuers bool
	revoked                 bool
	moving                  bool
	problems                []string
}

func (e *editor) apply(c Change) error {
	switch c.TypeURL {
	case meshname.TypeTenantPolicy:
		return e.tenant(c)
	case meshname.TypeAccessPolicy:
		if !e.policies {
			e.policies, e.set.policies = true, clone(e.set.policies)
		}
		if m, ok := c.Message.(*api.AccessPolicy); ok {
			e.set.policies[c.Name] = accessPolicies(m)
		} else {
			delete(e.set.policies, c.Name)
		}
	case meshname.TypeSignerKey:
		if !e.keys {
			e.keys, e.set.keys, e.set.holders = true, clone(e.set.keys), clone(e.set.holders)
		}
		m, ok := c.Message.(*api.SignerKey)
		if !ok {
			delete(e.set.keys, c.Name)
			delete(e.set.holders, c.Name)
			return nil
		}
		key, err := signerKey(m)
		e.set.keys[c.Name], e.set.holders[c.Name] = key, m.Member
		return err
	case meshname.TypeTokenIssuer:
		if !e.issuers {
			e.issuers, e.set.Issuers, e.set.former = true, clone(e.set.Issuers), clone(e.set.former)
			e.set.changed.issuers++
		}
		old := e.set.Issuers[c.Name]
		if old == nil {
			old = e.set.former[c.Name]
		}
		if m, ok := c.Message.(*api.TokenIssuer); ok {
			e.set.Issuers[c.Name] = newIssuer(m, old)
			delete(e.set.former, c.Name)
		} else if delete(e.set.Issuers, c.Name); old != nil {
			e.set.former[c.Name] = old
		}
	case meshname.TypeRevocation:
		if !e.revoked {
			e.revoked, e.set.Revoked = true, clone(e.set.Revoked)
			e.set.changed.revoked++
		}
		if c.Message != nil {
			e.set.Revoked[c.Name] = true
		} else {
			delete(e.set.Revoked, c.Name)
		}
	case meshname.TypeProxyConfig:
		m, ok := c.Message.(*api.ProxyConfig)
		if !ok {
			e.set.Self = nil
			return nil
		}
		self, err := proxyConfig(m)
		e.set.Self = self
		return err
	default:
		return fmt.Errorf("is of a type that is not known here")
	}
	return nil
}

func clone[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

func (e *editor) tenant(c Change) error {
	n := shard(c.Name)
	if !e.copied[n] {
		e.copied[n], e.set.tenants[n] = true, clone(e.set.tenants[n])
	}
	byName := e.set.tenants[n]
	e.set.count -= len(byName)
	defer func() { e.set.count += len(byName) }()
	if !e.moving {
		e.moving, e.set.moving = true, clone(e.set.moving)
	}
	delete(e.set.moving, c.Name)
	m, ok := c.Message.(*api.TenantPolicy)
	if !ok {
		delete(byName, c.Name)
		return nil
	}
	id, err := identity.ParseTenantID(m.Tenant)
	if err != nil {
		return err
	}
	if old := byName[c.Name]; old != nil && old.UID == m.Uid && m.Placement.GetEpoch() < old.Epoch {
		return fmt.Errorf("placement.epoch must not go back (from %d to %d): a fence is never forgotten", old.Epoch, m.Placement.GetEpoch())
	}
	t := &Tenant{
		ID: id, UID: m.Uid, Tier: m.Tier, Residency: m.Residency, Labels: m.Labels, Phase: m.Phase, Revision: m.Revision, Weight: max(1, int(m.Weight)), Audited: m.AuditAll,
		Placement: Placement{
			State: m.Placement.GetState(), Cell: m.Placement.GetCell(), Target: m.Placement.GetTarget(), Epoch: m.Placement.GetEpoch(),
			Since: m.Placement.GetSince(), Sealed: m.Placement.GetSealed(), Copy: m.Placement.GetCopy(), Shut: m.Placement.GetShut(), Follow: m.Placement.GetFollow(), Hold: m.Placement.GetHold().AsDuration(), Pause: m.Placement.GetPause().AsDuration(), Mover: m.Placement.GetMover(),
		},
		Limits: policy.Limits{RequestsPerSecond: m.Limits.GetRequestsPerSecond(), Burst: int(m.Limits.GetBurst()), Concurrency: int(m.Limits.GetConcurrency()), RetryShare: m.Limits.GetRetryShare()},
	}
	if classes := m.Limits.GetClasses(); len(classes) > 0 {
		t.Limits.Classes = make(map[string]policy.ClassLimit, len(classes))
		for name, class := range classes {
			t.Limits.Classes[name] = policy.ClassLimit{RequestsPerSecond: class.RequestsPerSecond, Burst: int(class.Burst), Concurrency: int(class.Concurrency)}
		}
	}
	known := m.Limits != nil
	if !known {
		t.Limits = policy.SafeLimits()
	} else {
		t.Limits, known = t.Limits.Known()
	}
	t.Refused = !known && m.FailMode.GetLimitsUnknown() == string(policy.RefuseUnknown)
	byName[c.Name] = t
	if t.Target != "" {
		e.set.moving[c.Name] = t
	}
	return nil
}

// accessPolicies are a policy, or in a rollout what it is for its canary and for the others.
func accessPolicies(m *api.AccessPolicy) (list []authz.Policy) {
	c := m.Canary
	if c == nil || c.After == nil {
		return []authz.Policy{accessPolicy(m)}
	}
	if c.Shadow {
		if c.Before != nil {
			list = append(list, accessPolicy(c.Before))
		}
		after := accessPolicy(c.After)
		after.Change = &authz.Change{Of: m.Name, Removes: c.Removes}
		return append(list, after)
	}
	in := policy.Canary{Seed: c.Seed, Percent: c.Percent, Names: c.Names}
	if c.Before != nil {
		before, others := accessPolicy(c.Before), in
		others.Others, before.Canary = true, &others
		list = append(list, before)
	}
	after := accessPolicy(c.After)
	after.Canary = &in
	return append(list, after)
}

func accessPolicy(m *api.AccessPolicy) authz.Policy {
	p := authz.Policy{Name: m.Name, Revision: m.Revision, Grant: strings.HasPrefix(m.Name, authz.GrantPrefix), Unproven: m.BreakGlass, Spec: policy.AccessPolicySpec{
		Effect: policy.Effect(cmp.Or(m.Effect, m.KnownEffect)), Mode: policy.Mode(m.Mode), Principals: m.Principals, When: m.When,
		Tenants: policy.TenantSelector{Names: m.Tenants.GetNames(), Tiers: m.Tenants.GetTiers(), Residency: m.Tenants.GetResidency(), Labels: m.Tenants.GetLabels(), Own: m.Tenants.GetOwn()},
	}}
	for _, t := range m.Targets {
		p.Spec.Targets = append(p.Spec.Targets, policy.Target{Workload: t.Workload, Methods: t.Methods, Paths: t.Paths})
	}
	if m.AuditAll {
		p.Spec.Audit = policy.AuditAll
	}
	if m.NotAfter != nil {
		p.NotAfter = m.NotAfter.AsTime()
	}
	return p
}

func signerKey(m *api.SignerKey) (tenanttoken.Key, error) {
	principal, err := identity.ParsePrincipal(m.Principal)
	if err != nil {
		return tenanttoken.Key{}, err
	}
	if len(m.PublicKey) != 32 {
		return tenanttoken.Key{}, fmt.Errorf("public key must have 32 bytes (got %d)", len(m.PublicKey))
	}
	scope := tenanttoken.Scope{Gateway: m.Role == "gateway", Cell: m.Cell}
	if m.Tenant != "" {
		if scope.Tenant, err = identity.ParseTenantID(m.Tenant); err != nil {
			return tenanttoken.Key{}, err
		}
	}
	return tenanttoken.Key{KID: m.Kid, Principal: principal, Public: m.PublicKey, Scope: scope, NotAfter: m.NotAfter.AsTime()}, nil
}

func proxyConfig(m *api.ProxyConfig) (*Self, error) {
	self := &Self{
		Role: m.Role, TrustDomain: m.TrustDomain, Cell: m.Cell, Residency: m.CellResidency, Workload: m.Workload, ServicePort: int(m.ServicePort),
		Dependencies: map[string]string{}, Tenancy: m.Tenancy, DeliverContext: m.DeliverContext, Cells: m.Cells, TenantData: m.TenantData, Movers: m.Movers, Groups: m.ShareGroups,
		Peers: map[identity.Principal]bool{}, BoundPeers: map[identity.Principal]identity.TenantID{}, Fenced: map[string]bool{}, Breakers: map[string]breaker.Settings{}, Bulkheads: map[string]bool{}, Admission: admission(m), HideLimits: map[string]bool{}, Streaming: map[string]bool{}, Addresses: m.Addresses,
	}
	for _, workload := range m.HideLimits {
		self.HideLimits[workload] = true
	}
	for _, shown := range m.Fenced {
		self.Fenced[shown] = true
	}
	for _, c := range m.Classes {
		class, problems := authz.NewClass(c.Name, c.Methods, c.Paths)
		if len(problems) > 0 {
			return nil, fmt.Errorf("class %q: %w", c.Name, problems)
		}
		self.Classes = append(self.Classes, class)
		if c.Bulkhead {
			self.Bulkheads[c.Name] = true
		}
		if c.Streaming {
			self.Streaming[c.Name] = true
		}
	}
	var err error
	if self.Streams, err = streams(m.Streams); err != nil {
		return nil, err
	}
	for _, d := range m.DependsOn {
		self.Dependencies[d.Kind+"/"+d.Name] = d.Tenancy
		if b := d.Breaker; b != nil {
			self.Breakers[d.Kind+"/"+d.Name] = breaker.Settings{
				Failures: int(b.Failures), Share: b.Share, Window: b.Window.AsDuration(), Wait: b.Wait.AsDuration(), MaxWait: b.MaxWait.AsDuration(),
			}
		}
	}
	for _, peer := range m.Peers {
		principal, err := identity.ParsePrincipal(peer)
		if err != nil {
			return nil, err
		}
		self.Peers[principal] = true
	}
	for peer, tenant := range m.BoundPeers {
		principal, err := identity.ParsePrincipal(peer)
		if err != nil {
			return nil, err
		}
		if self.BoundPeers[principal], err = identity.ParseTenantID(tenant); err != nil {
			return nil, err
		}
	}
	self.Events, self.EventPeers = events(m.Events), map[identity.Principal]EventPeer{}
	for _, peer := range m.EventPeers {
		principal, err := identity.ParsePrincipal(peer.Principal)
		if err != nil {
			return nil, err
		}
		self.EventPeers[principal] = EventPeer{peer.Cell, events(peer.Events)}
	}
	if err := self.BoundTenant.UnmarshalText([]byte(m.BoundTenant)); err != nil {
		return nil, err
	}
	if m.Principal == "" {
		return self, nil
	}
	self.Principal, err = identity.ParsePrincipal(m.Principal)
	return self, err
}

// finish compiles what changed.
func (e *editor) finish() {
	if e.policies {
		compiled, err := authz.Compile(slices.Concat(slices.Collect(maps.Values(e.set.policies))...))
		if err != nil {
			e.problems = append(e.problems, err.Error())
		}
		e.set.Policies = compiled
	}
	if e.keys {
		e.set.Keys = tenanttoken.NewKeySet(slices.Collect(maps.Values(e.set.keys))...)
	}
}

// Holder holds the set in force, and since when it is known to be the newest.
type Holder struct {
	set   atomic.Pointer[Set]
	fresh atomic.Int64

	mu   sync.Mutex
	next chan struct{} // closed by the next Store; nil: nobody waits
}

// Load returns the set in force, nil before the first.
func (h *Holder) Load() *Set { return h.set.Load() }

// Store puts a set in force.
func (h *Holder) Store(s *Set) {
	h.set.Store(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next != nil {
		close(h.next)
		h.next = nil
	}
}

// Changed is closed by the next Store: take it, then Load, then wait.
func (h *Holder) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = make(chan struct{})
	}
	return h.next
}

// Heard notes that the control plane was heard at now.
func (h *Holder) Heard(now time.Time) { h.fresh.Store(now.UnixNano()) }

// Age is how long ago the control plane was last heard; 0 when it never was.
func (h *Holder) Age(now time.Time) time.Duration {
	if last := h.fresh.Load(); last != 0 {
		return time.Duration(now.UnixNano() - last)
	}
	return 0
}
