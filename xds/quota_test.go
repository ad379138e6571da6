package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	client "github.com/tenantmesh/tenantmesh/sidecar/quota"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// sharing is allocators over one store and members that share a tenant's limit, over connections that are cut, on a clock
// that a test moves.
type sharing struct {
	t       *testing.T
	store   tenantstore.Store
	writer  *tenantstore.Writer
	edge    identity.Principal
	lines   []*line
	members []*sharer
	uid     string
	limit   policy.Limits // as members know them
}

// line is an allocator's address.
type line struct {
	quota.UnimplementedRateLimitQuotaServiceServer
	s      *sharing
	quota  *Quota
	listen *bufconn.Listener
	stop   func()
}

// sharer is a member.
type sharer struct {
	id      string
	dir     string
	limiter *limit.Limiter
	shares  *client.Shares
	stop    func()

	mu    sync.Mutex
	conns []net.Conn
}

// cut ends the member's connections.
func (m *sharer) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, conn := range m.conns {
		_ = conn.Close()
	}
	m.conns = nil
}

func newSharing(t *testing.T, allocators, members int, limit policy.Limits) *sharing {
	s := &sharing{t: t, store: memstore.New()}
	s.writer = tenantstore.NewWriter(s.store, time.Now)
	var err error
	s.edge, err = identity.GatewayID("mesh.test", "edge")
	if err != nil {
		t.Fatal(err)
	}
	cell := &tenantstore.Object{APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindCell, Metadata: tenantstore.Metadata{Name: "us-1"}}
	cell.Cell = &tenantstore.CellSpec{Region: "us"}
	s.apply(cell)
	s.tenant("gold", limit)
	for range allocators {
		s.allocator(nil)
	}
	for i := range members {
		s.join(fmt.Sprintf("%032x", i*7+1))
	}
	return s
}

func (s *sharing) apply(object *tenantstore.Object) {
	if _, err := s.writer.Apply(s.t.Context(), "test", []*tenantstore.Object{object}, tenantstore.ApplyOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// tenant puts the tenant into the store, and what members know of it.
func (s *sharing) tenant(tier string, limit policy.Limits) {
	tenant := &tenantstore.Object{APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: "acme"}}
	tenant.Tenant = &tenantstore.TenantSpec{Tier: tier, Region: "us", Limits: limit}
	s.apply(tenant)
	snapshot, err := s.store.Snapshot(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.uid, s.limit = snapshot.Objects[tenant.Key()].Metadata.UID, limit.Over(tenantstore.Tiers(snapshot.Objects)[tier].Limits)
}

// allocator starts one, at the address of another that has ended, or at a new one.
func (s *sharing) allocator(at *line) {
	if at == nil {
		at = &line{s: s}
		s.lines = append(s.lines, at)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	at.listen = bufconn.Listen(1 << 20)
	at.quota = NewQuota(QuotaConfig{Store: s.store, Writer: s.writer, Now: time.Now, Log: zap.NewNop()})
	g := grpc.NewServer()
	quota.RegisterRateLimitQuotaServiceServer(g, at)
	served, ran := make(chan struct{}), make(chan struct{})
	listen, q := at.listen, at.quota
	go func() { _ = g.Serve(listen); close(served) }()
	go func() { _ = q.Run(ctx); close(ran) }()
	at.stop = func() { cancel(); g.Stop(); <-served; <-ran }
}

// StreamRateLimitQuotas is xds/server's, but for who calls.
func (l *line) StreamRateLimitQuotas(stream quota.RateLimitQuotaService_StreamRateLimitQuotasServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	member, err := l.quota.Open(l.s.edge, first.BucketQuotaUsages[0].BucketId.Bucket[meshname.QuotaMember])
	if err != nil {
		return err
	}
	defer member.Close()
	if err := stream.Send(member.Hello()); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		for {
			report, err := stream.Recv()
			if err == nil {
				err = member.Report(report)
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	for {
		select {
		case _, open := <-member.Changed():
			if !open {
				return io.EOF
			}
			response, err := member.Next()
			if err != nil {
				return err
			}
			if err := stream.Send(response); err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
}

func (s *sharing) join(id string) {
	object := system(tenantstore.KindMember, id, func(o *tenantstore.Object) {
		o.Member = &tenantstore.MemberSpec{Principal: s.edge.String(), Role: tenantstore.RoleGateway}
	})
	if _, err := s.writer.PutSystem(s.t.Context(), "test", []*tenantstore.Object{object}, nil); err != nil {
		s.t.Fatal(err)
	}
	m := &sharer{id: id, dir: s.t.TempDir()}
	s.members = append(s.members, m)
	s.start(m)
}

// start starts a member's process, with what is on its disk.
func (s *sharing) start(m *sharer) {
	ctx, cancel := context.WithCancel(s.t.Context())
	m.limiter = limit.New(limit.Options{})
	m.shares = client.New(m.id, m.limiter, time.Now())
	var conns []*grpc.ClientConn
	for _, l := range s.lines {
		conn, err := grpc.NewClient("passthrough:///allocator", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(client.ConnectParams), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := l.listen.DialContext(ctx)
			if err == nil {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.conns = append(m.conns, conn)
			}
			return conn, err
		}))
		if err != nil {
			s.t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	c, err := client.NewClient(client.Config{Shares: m.shares, Conns: conns, Path: filepath.Join(m.dir, "shared.json"), Now: time.Now, Log: zap.NewNop()})
	if err != nil {
		s.t.Fatal(err)
	}
	ran, followed := make(chan struct{}), make(chan struct{})
	go func() { _ = c.Run(ctx); close(ran) }()
	shares := m.shares
	go func() { // what policysync does
		defer close(followed)
		for ctx.Err() == nil {
			_ = tenantstore.Follow(ctx, s.store, func(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, changes <-chan tenantstore.Change) error {
				for {
					group := tenantstore.Groups(objects)[meshname.GroupGateways]
					shares.Saved(&policyset.Set{Self: &policyset.Self{Role: "gateway", Groups: []*api.ShareGroup{{Name: meshname.GroupGateways, Members: group.Members, Counted: group.Counted}}}})
					change, ok := <-changes
					if !ok {
						return errors.New("over")
					}
					for _, o := range change.Put {
						objects[o.Key()] = o
					}
				}
			})
		}
	}()
	m.stop = func() {
		cancel()
		for _, conn := range conns {
			_ = conn.Close()
		}
		<-ran
		<-followed
	}
}

// ask has so many requests come to a member at once.
func (s *sharing) ask(m *sharer, n int) (let int) {
	for range n {
		r := &limit.Request{UID: s.uid, ChargeTenant: true, Limits: s.limit}
		if v := m.shares.Admit(m.limiter, time.Now(), "acme", r); v.Reason == policy.Permitted {
			let++
		}
	}
	return let
}

func (s *sharing) stop() {
	for _, m := range s.members {
		m.stop()
	}
	for _, l := range s.lines {
		l.stop()
	}
	if err := s.store.Close(); err != nil {
		s.t.Error(err)
	}
}

// windows checks that in no window more was let in than the rate times its length and the burst.
type windows struct {
	rate, burst float64
	at          []time.Duration
	total       []int
}

func (w *windows) add(at time.Duration, total int) {
	w.at, w.total = append(w.at, at), append(w.total, total)
}

func (w *windows) check(t *testing.T) {
	t.Helper()
	lowest := math.Inf(1) // of total - rate x time
	for i, at := range w.at {
		level := float64(w.total[i]) - w.rate*at.Seconds()
		if level-lowest > w.burst+0.5 {
			t.Fatalf("at %v: %.1f requests more than the rate lets in were let in since some time before, and the burst is %v", at, level-lowest, w.burst)
		}
		lowest = min(lowest, level)
	}
}

// TestSharedUnderFaults: whatever is cut and whoever dies, what is let in stays within the limit in every window, and a
// member that dies brings back no more than its own burst.
func TestSharedUnderFaults(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				const rate, burst = 100, 20
				s := newSharing(t, 2, 3, policy.Limits{RequestsPerSecond: rate, Burst: burst, Concurrency: policy.Unlimited})
				defer s.stop()
				<-time.After(8 * time.Second)
				w := &windows{rate: rate, burst: burst}
				began, total, heavy := time.Now(), 0, 0
				for step := range 8000 { // 80 s
					<-time.After(10 * time.Millisecond)
					if step%150 == 0 {
						heavy = random.IntN(len(s.members))
					}
					for i, m := range s.members {
						// Zipf-like: 3, 1.5, 1 of a load of twice the limit.
						share := []float64{1.1, 0.55, 0.36}[(i-heavy+len(s.members))%len(s.members)]
						total += s.ask(m, int(share)+map[bool]int{true: 1}[random.Float64() < share-math.Floor(share)])
					}
					w.add(time.Since(began), total)
					switch random.IntN(1500) {
					case 0:
						s.members[random.IntN(len(s.members))].cut()
					case 1:
						l := s.lines[random.IntN(len(s.lines))]
						l.stop()
						s.allocator(l)
					case 2:
						m := s.members[random.IntN(len(s.members))]
						m.stop()
						s.start(m)
						w.burst += burst / 3.0 // its buckets are new
					default:
					}
				}
				w.check(t)
				t.Logf("%d of %d", total, 80*rate)
				if total < 80*rate/2 {
					t.Errorf("%d were let in in 80 s", total)
				}
			})
		})
	}
}

// TestSharedByDemand: without faults the whole limit is used wherever the load is, 2 s after it went there; when all
// allocators are gone, each member falls to its part; and when they come back, so does the rest.
func TestSharedByDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst = 100, 20
		s := newSharing(t, 1, 3, policy.Limits{RequestsPerSecond: rate, Burst: burst, Concurrency: policy.Unlimited})
		defer s.stop()
		<-time.After(8 * time.Second)
		load := func(m *sharer, lasts time.Duration) (let int) {
			for range int(lasts / (5 * time.Millisecond)) {
				<-time.After(5 * time.Millisecond)
				let += s.ask(m, 1)
			}
			return let
		}
		for _, m := range s.members {
			load(m, 2*time.Second)
			if let := load(m, 10*time.Second); let < 950 || let > 1000 {
				t.Errorf("%s: %d of 1000 were let in", m.id, let)
			}
		}
		s.lines[0].stop()
		load(s.members[0], 6*time.Second)
		for _, m := range s.members {
			if let := load(m, 10*time.Second); let < 330 || let > 334+burst/3 {
				t.Errorf("%s: %d of its part of 333 were let in", m.id, let)
			}
		}
		s.allocator(s.lines[0])
		load(s.members[1], 10*time.Second)
		if let := load(s.members[1], 10*time.Second); let < 950 || let > 1000 {
			t.Errorf("with an allocator again: %d of 1000 were let in", let)
		}
	})
}

// TestNewMember: one that joins has nothing of its own before the others know of it, and takes nothing from the sum.
func TestNewMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst = 100, 20
		s := newSharing(t, 1, 1, policy.Limits{RequestsPerSecond: rate, Burst: burst, Concurrency: policy.Unlimited})
		defer s.stop()
		<-time.After(time.Second)
		if let := s.ask(s.members[0], 25); let != burst {
			t.Errorf("one that is alone has %d of the whole burst at once", let)
		}
		<-time.After(8 * time.Second)
		w, began, total := &windows{rate: rate, burst: burst}, time.Now(), 0
		for step := range 2000 {
			<-time.After(10 * time.Millisecond)
			if step%400 == 200 {
				s.join(fmt.Sprintf("%032x", 3000-step))
			}
			for _, m := range s.members {
				total += s.ask(m, 1)
			}
			w.add(time.Since(began), total)
		}
		w.check(t)
		if total < 20*rate*3/4 {
			t.Errorf("%d were let in in 20 s", total)
		}
		snapshot, err := s.store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if group := tenantstore.Groups(snapshot.Objects)[meshname.GroupGateways]; len(group.Members) != 6 || !slices.Equal(group.Members, group.Counted) {
			t.Errorf("the parts of %v of %v count", group.Counted, group.Members)
		}
	})
}

// TestSharedTenantChanges: a tenant's limit changes, it goes to another tier, and it is made anew under its name, all under
// load: at each moment what was let in since the last change is within the limit in force, or the one before.
func TestSharedTenantChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharing(t, 1, 3, policy.Limits{RequestsPerSecond: 100, Burst: 20, Concurrency: policy.Unlimited})
		defer s.stop()
		<-time.After(8 * time.Second)
		before := s.limit
		load := func(what string) (let int) {
			for step := range 500 { // 5 s
				<-time.After(10 * time.Millisecond)
				for i, m := range s.members {
					let += s.ask(m, 1+(i+step/100)%3)
				}
			}
			most := 5*max(before.RequestsPerSecond, s.limit.RequestsPerSecond) + float64(max(before.Burst, s.limit.Burst))
			if s.limit.RequestsPerSecond > 0 && before.RequestsPerSecond > 0 && float64(let) > most || float64(let) < 5*min(before.RequestsPerSecond, s.limit.RequestsPerSecond)/2 {
				t.Errorf("%s: %d were let in, and at most %.0f may be", what, let, most)
			}
			before = s.limit
			return let
		}
		load("at first")
		for _, limit := range []policy.Limits{
			{RequestsPerSecond: 20, Burst: 5, Concurrency: policy.Unlimited}, {RequestsPerSecond: 1000, Burst: 100, Concurrency: policy.Unlimited},
			{RequestsPerSecond: 0.001, Burst: 1, Concurrency: policy.Unlimited}, {RequestsPerSecond: policy.Unlimited, Burst: 1, Concurrency: policy.Unlimited},
			{RequestsPerSecond: 50, Burst: 3, Concurrency: 1},
		} {
			s.tenant("gold", limit)
			load(fmt.Sprintf("%+v", limit))
		}
		s.tenant("bronze", policy.Limits{})
		load("of tier bronze")
		s.tenant("platinum", policy.Limits{})
		load("of tier platinum")

		s.tenant("gold", policy.Limits{RequestsPerSecond: 0.001, Burst: 6, Concurrency: policy.Unlimited})
		load("with next to nothing")
		uid := s.uid
		if _, err := s.writer.Delete(t.Context(), "test", []tenantstore.Key{{Kind: tenantstore.KindTenant, Name: "acme"}}, tenantstore.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
		s.tenant("gold", policy.Limits{RequestsPerSecond: 100, Burst: 20, Concurrency: policy.Unlimited})
		if s.uid == uid {
			t.Fatal("the tenant is the same")
		}
		load("made anew")
		if let := load("made anew"); let < 450 {
			t.Errorf("what the one before used up is missing: %d of 500", let)
		}
	})
}

// TestSharedConcurrency: no more requests are open than the limit, wherever they come, while links are cut and members die;
// and what is free is found.
func TestSharedConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		const most = 3
		s := newSharing(t, 1, 3, policy.Limits{RequestsPerSecond: policy.Unlimited, Concurrency: most})
		defer s.stop()
		<-time.After(8 * time.Second)
		type request struct {
			member *sharer
			shares *client.Shares // the process
			lease  string
			end    time.Time
		}
		var open []request
		let := [2]int{}           // before and after faults begin
		for step := range 24000 { // 240 s
			<-time.After(10 * time.Millisecond)
			now := time.Now()
			open = slices.DeleteFunc(open, func(r request) bool {
				if r.member.shares != r.shares {
					return true // it died with its Envoy
				}
				if now.Before(r.end) {
					return false
				}
				r.member.limiter.Release(now, r.lease)
				return true
			})
			m := s.members[(step/300+random.IntN(5)/4)%3]
			r := request{m, m.shares, fmt.Sprint(step), now.Add(time.Duration(random.IntN(200)) * time.Millisecond)}
			v := m.shares.Admit(m.limiter, now, "acme", &limit.Request{UID: s.uid, ChargeTenant: true, Limits: s.limit, Lease: r.lease, LeaseTTL: time.Minute})
			if v.Reason == policy.Permitted {
				open = append(open, r)
				let[step/12000]++
			}
			if len(open) > most {
				t.Fatalf("at step %d %d requests are open", step, len(open))
			}
			if step < 12000 {
				continue
			}
			switch m := s.members[random.IntN(3)]; random.IntN(2000) {
			case 0:
				m.cut()
			case 1:
				m.stop()
				s.start(m)
			default:
			}
		}
		t.Logf("%v", let)
		if let[0] < 12000/20 || let[1] < 12000/40 {
			t.Errorf("%v of 12000 each were let in", let)
		}
	})
}
