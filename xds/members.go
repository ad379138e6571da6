package xds

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// MembersConfig says what members stand on.
type MembersConfig struct {
	Store  tenantstore.Store
	Writer *tenantstore.Writer
	Cache  *server.Cache
	Usage  *ledger.Usage
	Audit  Audit         // of the events of decisions
	Lease  time.Duration // how long an endpoint outlives its member's stream
	ID     string        // of this control plane, among those of the store
	Log    *zap.Logger
}

// keyPatience is how long a new signing key waits for sidecars that are slow to apply it.
const keyPatience = 5 * time.Second

// maxKeyLife bounds what a member may publish: twice a key's life, for clocks that differ.
const maxKeyLife = 14 * 24 * time.Hour

// Members keeps who is in the mesh: durable members, their endpoints, their keys. It implements [server.Members].
type Members struct {
	MembersConfig
	ctx     context.Context
	reached atomic.Int64 // when the store last answered, Unix nanoseconds

	mu      sync.Mutex
	present map[string]*server.Peer // by member ID
	asked   map[question][]chan *api.Explanation
	known   map[string]*tenantstore.Object       // members of the store, by ID
	follows bool                                 // known is kept as the store changes
	heads   map[string]tenantstore.AuditHeadSpec // by member ID: of audit events that are kept, and not noted in the store yet
	tops    map[string]top                       // by member ID: who uses most of what it serves
	gone    map[string]time.Time                 // by member ID: when the stream ended of one that was here
	shadows map[string]shadow                    // by member ID: what policies that are only watched would have done there
	uses    map[string]uses                      // by member ID: which policies permitted something there
	covered map[string]covered                   // by member ID: how tenants were proven there
}

// NewMembers returns the members, whose work in the background ends with ctx.
func NewMembers(ctx context.Context, config MembersConfig) *Members {
	return &Members{MembersConfig: config, ctx: ctx, present: map[string]*server.Peer{}, asked: map[question][]chan *api.Explanation{}, tops: map[string]top{}, shadows: map[string]shadow{}, uses: map[string]uses{}, covered: map[string]covered{}, gone: map[string]time.Time{}}
}

// Sweep removes the endpoints whose members reported to a control plane that is gone, once that was so for a lease's
// time, as this one saw it: until then they may come here, or to another.
func (m *Members) Sweep(ctx context.Context) error {
	missing := map[string]time.Time{} // since when, by control plane
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.Lease / 3):
		}
		live, err := m.Store.Live(ctx)
		if err == nil {
			err = m.sweep(ctx, live, missing)
		}
		if err != nil && ctx.Err() == nil {
			m.Log.Warn("endpoints of control planes that are gone could not be looked at", zap.Error(err))
		}
	}
}

func (m *Members) sweep(ctx context.Context, live []string, missing map[string]time.Time) error {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	now, due := time.Now(), false
	for key, o := range snapshot.Objects {
		if key.Kind != tenantstore.KindEndpoint || slices.Contains(live, o.Endpoint.Control) || o.Endpoint.Control == m.ID {
			continue
		}
		if missing[o.Endpoint.Control].IsZero() {
			missing[o.Endpoint.Control] = now
		}
		due = due || now.Sub(missing[o.Endpoint.Control]) >= m.Lease
	}
	for _, id := range live {
		delete(missing, id)
	}
	if !due {
		return nil
	}
	return m.Writer.RemoveEndpoints(ctx, func(_ string, at *tenantstore.EndpointSpec) bool {
		since, ok := missing[at.Control]
		return ok && now.Sub(since) >= m.Lease
	})
}

// Joined implements [server.Members]. A member that is here already is replaced: it connected again.
func (m *Members) Joined(ctx context.Context, peer *server.Peer) error {
	h := peer.Hello
	if len(h.MemberId) < memberPrefix || strings.Trim(h.MemberId, "0123456789abcdef") != "" {
		return status.Errorf(codes.InvalidArgument, "member ID must be at least %d hex digits (got %q)", memberPrefix, h.MemberId)
	}
	if ip := net.ParseIP(h.Address); ip == nil || peer.Subject.Workload != "" && ip.IsUnspecified() {
		return status.Errorf(codes.InvalidArgument, "address must be an IP address that peers can reach (got %q)", h.Address)
	}
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	// An ID belongs to the identity that joined under it first: nobody takes over another's endpoint or record.
	known := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindMember, Name: h.MemberId}]
	if known != nil && known.Member.Principal != peer.Principal.String() {
		return status.Errorf(codes.PermissionDenied, "member ID %s belongs to %s", h.MemberId, known.Member.Principal)
	}
	if known != nil && known.Member.Fenced {
		return status.Errorf(codes.PermissionDenied, "member %s was fenced by an operator: start it with an empty data directory", h.MemberId)
	}
	_, err = m.Writer.PutSystem(ctx, peer.Principal.String(), []*tenantstore.Object{m.member(peer, false)}, nil)
	if err != nil {
		return err
	}
	peer.Counted = m.Usage.Last(h.MemberId)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.present[h.MemberId] = peer
	delete(m.gone, h.MemberId)
	return nil
}

// memberPrefix is how much of a member's ID a decision's ID begins with.
const memberPrefix = 12

func system(kind tenantstore.Kind, name string, fill func(*tenantstore.Object)) *tenantstore.Object {
	o := &tenantstore.Object{APIVersion: tenantstore.APIVersion, Kind: kind, Metadata: tenantstore.Metadata{Name: name}}
	fill(o)
	return o
}

func (m *Members) member(peer *server.Peer, left bool) *tenantstore.Object {
	return system(tenantstore.KindMember, peer.Hello.MemberId, func(o *tenantstore.Object) {
		o.Member = &tenantstore.MemberSpec{
			Principal: peer.Principal.String(), Role: tenantstore.Role(peer.Subject.Role), Cell: peer.Subject.Cell, Workload: peer.Subject.Workload,
			Version: peer.Hello.Version, Envoy: peer.Hello.EnvoyVersion, Control: m.ID, Left: left,
		}
		if age := peer.Hello.GrantAge.AsDuration(); age != meshname.GrantTime {
			o.Member.GrantAge = age.Seconds()
		}
		if age := peer.Hello.IssuerAge.AsDuration(); age != meshname.IssuerTime {
			o.Member.IssuerAge = age.Seconds()
		}
	})
}

// Gone implements [server.Members].
func (m *Members) Gone(peer *server.Peer) {
	m.mu.Lock()
	current := m.present[peer.Hello.MemberId] == peer
	if current {
		delete(m.present, peer.Hello.MemberId)
		delete(m.tops, peer.Hello.MemberId)
		m.gone[peer.Hello.MemberId] = time.Now()
		m.forgetSaid(time.Now())
	}
	m.mu.Unlock()
	if current {
		m.expireLater(peer.Hello.MemberId)
	}
}

func (m *Members) expireLater(member string) {
	time.AfterFunc(m.Lease, func() {
		m.mu.Lock()
		back := m.present[member] != nil
		m.mu.Unlock()
		if back || m.ctx.Err() != nil {
			return
		}
		m.removeEndpoint(m.ctx, member)
	})
}

func (m *Members) removeEndpoint(ctx context.Context, member string) {
	err := m.Writer.RemoveEndpoints(ctx, func(name string, at *tenantstore.EndpointSpec) bool { return name == member && at.Control == m.ID })
	if err != nil && ctx.Err() == nil {
		m.Log.Error("an endpoint could not be removed", zap.String("member", member), zap.Error(err))
	}
}

// Reported implements [server.Members].
func (m *Members) Reported(ctx context.Context, peer *server.Peer, report *api.MemberReport) error {
	switch r := report.Report.(type) {
	case *api.MemberReport_Readiness:
		return m.readiness(ctx, peer, r.Readiness.Ready)
	case *api.MemberReport_PublishKey:
		return m.publishKey(ctx, peer, r.PublishKey)
	case *api.MemberReport_Usage:
		return m.usage(ctx, peer, r.Usage)
	case *api.MemberReport_Explanation:
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, asked := range m.asked[question{peer.Hello.MemberId, r.Explanation.DecisionId}] {
			select {
			case asked <- r.Explanation:
			default: // it answered before
			}
		}
		return nil
	case *api.MemberReport_Leave:
		return m.leave(ctx, peer)
	case *api.MemberReport_Position:
		return m.position(ctx, peer, r.Position)
	case *api.MemberReport_Certificate:
		return m.certificate(ctx, peer, r.Certificate)
	case *api.MemberReport_Audit:
		return m.audit(peer, r.Audit)
	case *api.MemberReport_Top:
		return m.topped(ctx, peer, r.Top)
	case *api.MemberReport_Shadow:
		m.shadowed(peer, r.Shadow)
		return nil
	case *api.MemberReport_Uses:
		m.used(peer, r.Uses)
		return nil
	case *api.MemberReport_Coverage:
		m.covers(peer, r.Coverage)
		return nil
	default:
		return status.Errorf(codes.InvalidArgument, "a hello comes first and once, and nothing else than a report follows (got %T)", r)
	}
}

func (m *Members) readiness(ctx context.Context, peer *server.Peer, ready bool) error {
	if peer.Subject.Workload == "" && peer.Hello.Port == 0 {
		return nil // a gateway that moves no tenants
	}
	if peer.Hello.Port < 1 || peer.Hello.Port > 65535 {
		return status.Errorf(codes.InvalidArgument, "port must be from 1 to 65535 (got %d)", peer.Hello.Port)
	}
	_, err := m.Writer.PutSystem(ctx, peer.Principal.String(), []*tenantstore.Object{system(tenantstore.KindEndpoint, peer.Hello.MemberId, func(o *tenantstore.Object) {
		o.Endpoint = &tenantstore.EndpointSpec{
			Cell: peer.Subject.Cell, Workload: peer.Subject.Workload, Address: peer.Hello.Address, Port: int(peer.Hello.Port), Ready: ready, Control: m.ID,
		}
	})}, nil)
	return err
}

// publishKey takes the public half of a signing key, under the peer's own SPIFFE ID and with its scope, and tells the
// peer once the sidecars have it.
func (m *Members) publishKey(ctx context.Context, peer *server.Peer, key *api.PublishKey) error {
	if len(key.PublicKey) != 32 || tenanttoken.KeyID(key.PublicKey) != key.Kid {
		return status.Errorf(codes.InvalidArgument, "key must be 32 bytes of Ed25519 under its own ID (got %d bytes as %q)", len(key.PublicKey), key.Kid)
	}
	notAfter := key.NotAfter.AsTime()
	if end := time.Now().Add(maxKeyLife); notAfter.After(end) {
		return status.Errorf(codes.InvalidArgument, "notAfter must be within %v (got %v)", maxKeyLife, notAfter)
	}
	spec := &tenantstore.SignerKeySpec{
		Principal: peer.Principal.String(), Member: peer.Hello.MemberId, PublicKey: base64.RawURLEncoding.EncodeToString(key.PublicKey), Role: tenantstore.Role(peer.Subject.Role),
		NotAfter: notAfter.Format(time.RFC3339),
	}
	if peer.Subject.Workload != "" {
		snapshot, err := m.Store.Snapshot(ctx)
		if err != nil {
			return err
		}
		workload := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindWorkload, Name: peer.Subject.Workload}]
		if workload == nil || workload.Workload.BoundTenant == "" {
			return status.Errorf(codes.PermissionDenied, "%s is bound to no tenant and may not sign", peer.Principal)
		}
		spec.Cell, spec.Tenant = peer.Subject.Cell, workload.Workload.BoundTenant
	}
	revision, err := m.Writer.PutSystem(ctx, peer.Principal.String(), []*tenantstore.Object{system(tenantstore.KindSignerKey, key.Kid, func(o *tenantstore.Object) {
		o.SignerKey = spec
	})}, nil)
	if err != nil {
		return err
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, keyPatience)
		defer cancel()
		if status, err := m.Cache.Wait(ctx, revision); err != nil {
			m.Log.Warn("a signing key goes into force before every sidecar has it", zap.String("kid", key.Kid), zap.Int("have", status.Enforced), zap.Int("of", status.Total))
		}
		_ = peer.Send(&api.ControlMessage{Message: &api.ControlMessage_KeyInForce{KeyInForce: &api.KeyInForce{Kid: key.Kid}}})
	}()
	return nil
}

// usage counts what a member says of its own workload, which is "" at a gateway, and of its calls, and of tenants that
// there are.
func (m *Members) usage(ctx context.Context, peer *server.Peer, batch *api.UsageBatch) error {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	records := make([]ledger.UsageRecord, 0, len(batch.Records))
	for _, r := range batch.Records {
		tenant := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: r.Tenant}]
		own := r.Workload == peer.Subject.Workload || peer.Subject.Workload != "" && strings.HasPrefix(r.Workload, peer.Subject.Workload+" -> ")
		if tenant == nil || tenant.Metadata.UID != r.TenantUid || !own {
			m.Log.Warn("a record of usage is of no tenant, or not the member's own", zap.String("member", peer.Hello.MemberId), zap.String("tenant", r.Tenant), zap.String("workload", r.Workload))
			continue
		}
		records = append(records, ledger.UsageRecord{
			Minute: r.Minute.AsTime(), Tenant: r.Tenant, TenantUID: r.TenantUid, Workload: r.Workload, Class: r.Class, Requests: r.Requests,
			Refused: r.Refused, Errors: r.Errors, BytesReceived: r.BytesReceived, BytesSent: r.BytesSent, Duration: r.Duration.AsDuration(),
			UnderShare: r.UnderShare, UnderShareRefused: r.UnderShareRefused, UnderShareLate: r.UnderShareLate,
		})
	}
	if err := m.Usage.Append(peer.Hello.MemberId, batch.Sequence, records); err != nil {
		return err
	}
	return peer.Send(&api.ControlMessage{Message: &api.ControlMessage_UsageAck{UsageAck: &api.UsageAck{Sequence: batch.Sequence}}})
}

func (m *Members) leave(ctx context.Context, peer *server.Peer) error {
	m.removeEndpoint(ctx, peer.Hello.MemberId)
	_, err := m.Writer.PutSystem(ctx, peer.Principal.String(), []*tenantstore.Object{m.member(peer, true)}, nil)
	return err
}

// maxCertificates are kept of a member: those that its open connections may show.
const maxCertificates = 4

// certificate notes what a member shows its peers, so that they can refuse it should it be shut out.
func (m *Members) certificate(ctx context.Context, peer *server.Peer, c *api.Certificate) error {
	if sum, err := hex.DecodeString(c.Sha256); err != nil || len(sum) != sha256.Size {
		return status.Errorf(codes.InvalidArgument, "certificate must be given by its SHA-256 in hexadecimal (got %q)", c.Sha256)
	}
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	known := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindMember, Name: peer.Hello.MemberId}]
	if known == nil {
		return nil
	}
	shown := []tenantstore.Certificate{{SHA256: c.Sha256, NotAfter: c.NotAfter.AsTime()}}
	for _, old := range known.Member.Certificates {
		if old.SHA256 != c.Sha256 && time.Now().Before(old.NotAfter) && len(shown) < maxCertificates {
			shown = append(shown, old)
		}
	}
	changed := known.Clone()
	changed.Member.Certificates = shown
	_, err = m.Writer.PutSystem(ctx, peer.Principal.String(), []*tenantstore.Object{changed}, nil)
	return err
}

// Fresh implements [server.Members].
func (m *Members) Fresh() bool { return time.Since(time.Unix(0, m.reached.Load())) < freshTime }

// How often it is looked whether the store answers, and how long an answer counts.
const (
	reachInterval = 2 * time.Second
	freshTime     = 3 * reachInterval
)

// Reach looks whether the store answers, until ctx ends.
func (m *Members) Reach(ctx context.Context) error {
	ticker := time.NewTicker(reachInterval)
	defer ticker.Stop()
	for {
		asked := time.Now()
		asking, cancel := context.WithTimeout(ctx, reachInterval)
		_, err := m.Store.Live(asking)
		cancel()
		if err == nil {
			m.reached.Store(asked.UnixNano())
		} else if ctx.Err() == nil {
			m.Log.Warn("the store is out of reach; sidecars go on with what they have, and count its age", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// position notes how far a member is with a tenant that moves. What it says of others is of no use to anyone.
func (m *Members) position(ctx context.Context, peer *server.Peer, at *api.Position) error {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	move := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindMove, Name: at.Tenant}]
	if move == nil || move.Move.UID != at.TenantUid || move.Move.Outcome != "" {
		return nil
	}
	name := tenantstore.PositionName(peer.Hello.MemberId, at.Tenant)
	var copies []tenantstore.Copy
	for _, c := range at.Copies {
		copies = append(copies, tenantstore.Copy{
			Workload: c.Workload, Bytes: c.Bytes, Passes: c.Passes, Journal: c.Journal, Resyncs: c.Resyncs, Caught: c.Caught,
			DigestFrom: c.DigestFrom, DigestTo: c.DigestTo, Deleted: c.Deleted, Error: c.Error,
		})
	}
	_, err = m.Writer.PutSystem(ctx, peer.Principal.String(), []*tenantstore.Object{system(tenantstore.KindPosition, name, func(o *tenantstore.Object) {
		o.Position = &tenantstore.PositionSpec{Member: peer.Hello.MemberId, Tenant: at.Tenant, UID: at.TenantUid, Epoch: at.Epoch, Drained: at.Drained, Copies: copies}
	})}, nil)
	return err
}

// Follow ends the stream of each member that is fenced, until ctx ends.
func (m *Members) Follow(ctx context.Context) error {
	defer m.unfollowed()
	for ctx.Err() == nil {
		snapshot, err := m.Store.Snapshot(ctx)
		if err != nil {
			return err
		}
		changes, err := m.Store.Watch(ctx, snapshot.Revision)
		if err != nil {
			return err
		}
		m.learn(snapshot.Objects, true)
		for key, o := range snapshot.Objects {
			if key.Kind == tenantstore.KindMember && o.Member.Fenced {
				m.end(key.Name)
			}
		}
		for change := range changes {
			if change.Err != nil && !errors.Is(change.Err, tenantstore.ErrCompacted) {
				return change.Err
			}
			m.note(change)
			for _, o := range change.Put {
				if o.Kind == tenantstore.KindMember && o.Member.Fenced {
					m.end(o.Metadata.Name)
				}
			}
		}
	}
	return nil
}

func (m *Members) end(member string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if peer := m.present[member]; peer != nil {
		peer.Fence()
	}
}

// RemoveOldKeys takes away what has ended: signing keys of more than an hour ago, certificates of members that were
// shut out, and revocations of what has ended by itself; now and every hour until ctx ends.
func (m *Members) RemoveOldKeys(ctx context.Context) error {
	for {
		if err := errors.Join(m.removeOld(ctx, time.Now()), m.Writer.ForgetRevocations(ctx)); err != nil && ctx.Err() == nil {
			m.Log.Warn("old keys could not be removed; it is tried again in an hour", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Hour):
		}
	}
}

func (m *Members) removeOld(ctx context.Context, now time.Time) error {
	snapshot, err := m.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	var put []*tenantstore.Object
	var old []tenantstore.Key
	for key, o := range snapshot.Objects {
		switch key.Kind {
		case tenantstore.KindSignerKey:
			if end, err := time.Parse(time.RFC3339, o.SignerKey.NotAfter); err != nil || now.Sub(end) > time.Hour {
				old = append(old, key)
			}
		case tenantstore.KindMember:
			ended := func(c tenantstore.Certificate) bool { return now.Sub(c.NotAfter) > time.Hour }
			if o.Member.Fenced && slices.ContainsFunc(o.Member.Certificates, ended) {
				left := o.Clone()
				left.Member.Certificates = slices.DeleteFunc(left.Member.Certificates, ended)
				put = append(put, left)
			}
		default:
		}
	}
	if len(put)+len(old) == 0 {
		return nil
	}
	_, err = m.Writer.PutSystem(ctx, "control", put, old)
	return err
}
