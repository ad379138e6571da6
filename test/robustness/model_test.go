package robustness

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/position"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/server"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

const (
	trustDomain = "mesh.example"
	tenant      = "acme"
)

var tenantKey = tenantstore.Key{Kind: tenantstore.KindTenant, Name: tenant}

// world is a mesh in one goroutine: the real store, controller, deciders, ledgers of open requests and positions, with
// the network, the disks, the clock and the services' data in between as a seed wants them.
type world struct {
	random  *rand.Rand
	now     time.Time
	store   *memstore.Store
	writer  *tenantstore.Writer
	members *xds.Members
	nodes   []*node
	keys    map[string]tenanttoken.SigningKey // by gateway, made once: they are the dear part

	strategy string               // of the workload's data
	progress map[string]*progress // of movers, by gateway
	journal  []*entry             // of movers, on their disks
	late     []func()             // messages that may come again
	fences   map[string]int64     // greatest fencing token of a hook, by cell
	tokens   int64                // fencing tokens given out
	spared   int                  // times that all data was there before the seal
	repeated int                  // writes, at the other cell

	requests []*request                // anywhere on their way
	data     map[string]map[string]int // what each cell's service keeps: how often each write was applied
	acked    map[string]bool
	clients  int
	epoch    int64 // of the store, as it was seen last
	fault    fault
	broken   error // the first invariant that does not hold
	accepted int   // writes
	called   int   // writes from within a cell
	moved    int   // cutovers
	underway int   // those before everything was let come to rest
}

// fault breaks the protocol on purpose.
type fault int

const (
	none           fault = iota
	drainedLies          // members report that they have drained when they have not
	fenceIsIgnored       // sidecars let writes pass as if they were reads
	reportsUnsaved       // members report what is not on their disk yet
	readsStayOpen        // nobody holds reads before the cutover
	digestsUnread        // the mover believes that the other cell has followed
	copiesNothing        // the mover reports equal digests and has not copied
)

// node is a gateway or a sidecar: what dies with its process, and what its disk keeps.
type node struct {
	id, cell string // cell "" for a gateway
	peer     *server.Peer
	sets     *policyset.Holder
	decider  *decide.Decider
	inflight *inflight.Ledger
	tracker  *position.Tracker
	disk     *policyset.Set
	shown    int64 // newest epoch that it reported
	life     int   // grows with each crash
	lags     bool  // it hears late of a cutover
}

// request is a client's write or read, and where it is.
type request struct {
	id        string
	write     bool
	at        stage
	lease     string
	gateway   *node
	mover     *node // who sends it on, when that is another gateway
	moverLife int
	forwarded string // lease there
	entry     *entry // set: the mover repeats it at the other cell
	life      int    // of the gateway when it took it: a gateway that crashed answers nobody
	cell      string
	token     string
	sidecar   *node
	inner     string          // lease there
	innerLife int             // of the sidecar when it let it in: what a sidecar that crashed let in is answered by nobody
	knew      map[string]bool // writes that were acknowledged before it was sent
	byMover   bool
	failed    bool   // the client is told so
	call      string // a write of the service to another of its cell, on behalf of the request; "" for none, or not yet
	slow      bool   // it takes long, wherever it is
}

type stage int

const (
	held     stage = iota // in the gateway's Go process
	onTheWay              // to a cell
	admitted              // the service has it
	served                // the service has done it; its end is not seen yet
)

func (w *world) fail(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format, args...)
	}
}

func newWorld(seed uint64, broken fault, keys map[string]tenanttoken.SigningKey, usage *ledger.Usage) (*world, error) {
	w := &world{
		random: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), store: memstore.New(), keys: keys,
		data: map[string]map[string]int{"a": {}, "b": {}}, acked: map[string]bool{}, fault: broken,
		progress: map[string]*progress{}, fences: map[string]int64{},
	}
	w.strategy = []string{policyset.StrategyFenced, policyset.StrategyCatchUp, policyset.StrategyDualWrite}[w.random.IntN(3)]
	w.writer = tenantstore.NewWriter(w.store, func() time.Time { return w.now })
	documents, err := tenantstore.DecodeYAML("", strings.NewReader(fmt.Sprintf(objects, w.strategy)))
	if err != nil {
		return nil, err
	}
	var list []*tenantstore.Object
	for _, d := range documents {
		list = append(list, d.Object)
	}
	if _, err := w.writer.Apply(context.Background(), "test", list, tenantstore.ApplyOptions{}); err != nil {
		return nil, err
	}
	w.members = xds.NewMembers(context.Background(), xds.MembersConfig{Store: w.store, Writer: w.writer, Cache: server.NewCache(), Usage: usage, Lease: time.Hour, ID: "one", Log: zap.NewNop()})
	for i, at := range []struct{ name, cell string }{{"g1", ""}, {"g2", ""}, {"a1", "a"}, {"a2", "a"}, {"b1", "b"}, {"b2", "b"}} {
		n := &node{id: fmt.Sprintf("%032x", 0xa0+i), cell: at.cell, lags: w.random.IntN(2) == 0}
		id, err := identity.GatewayID(trustDomain, at.name)
		subject := server.Subject{Role: "gateway"}
		if at.cell != "" {
			id, err = identity.WorkloadID(trustDomain, at.cell, "front")
			subject = server.Subject{Role: "sidecar", Cell: at.cell, Workload: "front"}
		}
		if err != nil {
			return nil, err
		}
		n.peer = &server.Peer{Principal: id, Subject: subject, Hello: &api.Hello{MemberId: n.id, Address: "127.0.0.1", Port: 1}}
		if err := w.members.Joined(context.Background(), n.peer); err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, n)
	}
	for _, n := range w.nodes {
		if err := w.boot(n); err != nil {
			return nil, err
		}
		w.pull(n)
		n.disk = n.sets.Load()
	}
	return w, nil
}

const objects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: a}
spec: {region: us, capacity: {freeCpu: 0.9, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: b}
spec: {region: us, capacity: {freeCpu: 0.5, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us, limits: {requestsPerSecond: -1, concurrency: -1}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /}], dependsOn: [front], tenantData: {strategy: %s, hooks: {export: /x, import: /x, digest: /d}}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: p}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*", "spiffe://mesh.example/cell/*/workload/front"], targets: [{workload: front}]}
`

// boot starts a node's process: what it knows is what its disk has.
func (w *world) boot(n *node) error {
	n.sets, n.inflight = &policyset.Holder{}, inflight.New(inflight.Options{})
	n.tracker = position.New(n.inflight)
	n.life++
	set := n.disk
	if set == nil {
		var err error
		if set, err = w.fixed(n); err != nil {
			return err
		}
	}
	n.sets.Store(set)
	if n.disk != nil {
		n.tracker.Saved(n.disk)
	}
	var signer *tenanttoken.Signer
	if n.cell == "" {
		var err error
		if signer, err = tenanttoken.NewSigner(w.keys[n.id], n.peer.Principal); err != nil {
			return err
		}
	}
	n.decider = decide.New(decide.Config{
		Sets: n.sets, Limiter: limit.New(limit.Options{}), Attribution: attribution.New(attribution.Options{}), InFlight: n.inflight,
		Log: decisionlog.New(n.id, zap.NewNop()), Meter: ledger.NewMeter(), Signer: func() *tenanttoken.Signer { return signer }, Member: n.id,
		Metrics: decide.NewMetrics(prometheus.NewRegistry()), Now: func() time.Time { return w.now },
	})
	return nil
}

// fixed is what does not change: what the node is, the policies, the keys.
func (w *world) fixed(n *node) (*policyset.Set, error) {
	snapshot, err := w.store.Snapshot(context.Background())
	if err != nil {
		return nil, err
	}
	mesh := ir.Build(snapshot, ir.Options{TrustDomain: trustDomain})
	mesh.Gateways = nil
	mesh.Movers = map[string]ir.Endpoint{}
	for id := range w.keys {
		mesh.Movers[id] = ir.Endpoint{Address: id, Port: moverPort}
	}
	var changes []policyset.Change
	for _, r := range translator.Translate(mesh) {
		if policyset.New(r.TypeURL) != nil && w.hears(n, r.Audience) {
			changes = append(changes, policyset.Change{TypeURL: r.TypeURL, Name: r.Name, Message: r.Message})
		}
	}
	for id, key := range w.keys {
		for _, g := range w.nodes {
			if g.id == id {
				changes = append(changes, policyset.Change{TypeURL: meshname.TypeSignerKey, Name: key.KID, Message: &api.SignerKey{
					Kid: key.KID, Principal: g.peer.Principal.String(), PublicKey: key.Private.Public().(ed25519.PublicKey), Role: "gateway", NotAfter: timestamppb.New(key.NotAfter), Member: id,
				}})
			}
		}
	}
	changes = append(changes, policyset.Change{TypeURL: meshname.TypeTokenIssuer, Name: "login", Message: &api.TokenIssuer{Name: "login", TenantClaim: "tenant", Tenants: []string{"*"}}})
	return (*policyset.Set)(nil).With(changes, 1)
}

func (w *world) hears(n *node, audience string) bool {
	if n.cell == "" {
		return audience == translator.AudienceAll || audience == translator.AudienceGateway
	}
	return slices.Contains(translator.Audiences(n.cell, "front"), audience)
}

// pull brings a node what the store has now; what was between is not seen.
func (w *world) pull(n *node) {
	snapshot, err := w.store.Snapshot(context.Background())
	if err != nil {
		w.fail("snapshot: %w", err)
		return
	}
	built, _ := ir.BuildTenant(snapshot.Objects, tenantstore.Tiers(snapshot.Objects), tenant)
	change := policyset.Change{TypeURL: meshname.TypeTenantPolicy, Name: tenant}
	for _, r := range translator.Tenant(built) {
		if w.hears(n, r.Audience) {
			message := r.Message.(*api.TenantPolicy)
			if w.fault == readsStayOpen {
				message.Placement.Shut = false
			}
			change.Message = message
		}
	}
	set, err := n.sets.Load().With([]policyset.Change{change}, snapshot.Revision)
	if err != nil {
		w.fail("pull: %w", err)
		return
	}
	if old, ok := n.sets.Load().Tenant(tenant); ok {
		if t, ok := set.Tenant(tenant); ok && t.Epoch < old.Epoch {
			w.fail("epochs only grow: %s went from %d to %d", n.id, old.Epoch, t.Epoch)
		}
	}
	n.sets.Store(set)
	if w.fault == reportsUnsaved {
		n.tracker.Saved(set)
	}
}

func (w *world) save(n *node) {
	n.disk = n.sets.Load()
	n.tracker.Saved(n.disk)
}

// report brings the store a node's positions; it may be lost.
func (w *world) report(n *node) {
	positions, _ := n.tracker.Positions(w.now)
	for _, p := range positions {
		if w.fault == drainedLies {
			p.Drained = true
		}
		if p.Epoch < n.shown {
			w.fail("epochs only grow, across reboots too: %s reported %d after %d", n.id, p.Epoch, n.shown)
		}
		n.shown = p.Epoch
		w.again(func() {
			_ = w.members.Reported(context.Background(), n.peer, &api.MemberReport{Report: &api.MemberReport_Position{Position: p}})
		})
		if err := w.members.Reported(context.Background(), n.peer, &api.MemberReport{Report: &api.MemberReport_Position{Position: p}}); err != nil {
			w.fail("report: %w", err)
		}
	}
}

// placement is what the store says.
func (w *world) placement() (tenantstore.Placement, tenantstore.Snapshot) {
	snapshot, err := w.store.Snapshot(context.Background())
	if err != nil {
		w.fail("snapshot: %w", err)
	}
	p := *snapshot.Objects[tenantKey].Status.Placement
	if p.Epoch < w.epoch {
		w.fail("epochs only grow: the store went from %d to %d", w.epoch, p.Epoch)
	}
	w.epoch = p.Epoch
	return p, snapshot
}

// step lets the controller go on, maybe by what it saw a while ago.
func (w *world) step(objects map[tenantstore.Key]*tenantstore.Object) {
	next, waits := tenantstore.NextMove(objects, tenant, w.now)
	if next != "" && len(waits) == 0 {
		w.transit(tenantstore.MoveRequest{Transition: next, Epoch: objects[tenantKey].Status.Placement.Epoch})
	}
}

func (w *world) transit(request tenantstore.MoveRequest) {
	request.Tenant = tenant
	before, _ := w.placement()
	_, err := w.writer.Move(context.Background(), "test", request)
	var problems tenantstore.Problems
	if err != nil && !errors.As(err, &problems) {
		w.fail("%s: %w", request.Transition, err)
	}
	if after, _ := w.placement(); after.Cell != before.Cell {
		w.moved++
	}
}

// claims are those of a token that Envoy verified.
type claims map[string]string

func (c claims) Text(claim string) string { return c[claim] }

// client sends a request to a gateway.
func (w *world) client() {
	w.clients++
	r := &request{id: fmt.Sprint("r", w.clients), write: w.random.IntN(2) > 0, gateway: w.nodes[w.random.IntN(2)], knew: map[string]bool{}, slow: w.random.IntN(6) == 0}
	r.lease, r.life = "outer-"+r.id, r.gateway.life
	for id := range w.acked {
		r.knew[id] = true
	}
	answer := r.gateway.decider.Decide(&decide.Request{
		Listener: meshname.ListenerGateway, Target: "workload/front", Method: r.method(), Path: "/rows", Lease: r.lease,
		Headers: decide.HeadersOf(map[string][]string{propagation.HeaderRequestID: {r.id}}), Tokens: []decide.Token{{Issuer: "login", Claims: claims{"tenant": tenant, "sub": "s"}}},
	})
	if !answer.Decision.Allowed {
		return
	}
	r.token, r.cell, r.at = answer.Fields.Get(propagation.HeaderTxnToken), answer.Fields.Get(propagation.HeaderCell), onTheWay
	if r.cell == meshname.CellMove {
		r.at, r.byMover = held, true
	}
	w.requests = append(w.requests, r)
}

func (r *request) method() string {
	if r.write {
		return "POST"
	}
	return "GET"
}

// advance takes a request one stage on, and reports whether it is still on its way.
func (w *world) advance(r *request) bool {
	switch r.at {
	case held:
		return w.onward(r)
	case onTheWay:
		return w.serve(r)
	case admitted: // it goes on even when the sidecar has crashed
		if r.call == "" && w.random.IntN(4) == 0 && !w.calls(r) {
			r.failed = true // with what it called
		}
		if r.write {
			w.data[r.cell][r.id]++
		}
		r.at = served
		return true
	default:
		if r.sidecar.life == r.innerLife {
			r.sidecar.decider.End(decide.Ended{Lease: r.inner})
		}
		through := r.mover == nil || r.mover.life == r.moverLife
		w.answered(r, r.sidecar.life == r.innerLife)
		if r.gateway.life == r.life {
			r.gateway.decider.End(decide.Ended{Lease: r.lease})
			if r.sidecar.life == r.innerLife && !r.failed && through {
				if r.write {
					w.acked[r.id] = true
				}
				if r.call != "" {
					w.acked[r.call] = true
				}
			}
		}
		return false
	}
}

// calls lets the service write to another of its cell, for the request, and reports whether it was let in.
func (w *world) calls(r *request) bool {
	var there []*node
	for _, n := range w.nodes {
		if n.cell == r.cell {
			there = append(there, n)
		}
	}
	other := there[w.random.IntN(len(there))]
	lease := fmt.Sprint("call-", r.id, "-", w.random.Uint64())
	if !w.inbound(other, r.sidecar, "POST", "/rows", lease, r.token).Decision.Allowed {
		return false
	}
	p, _ := w.placement()
	if p.Cell != r.cell || p.State == tenantstore.StateFencing && p.Copy {
		w.fail("once the source is at rest nobody accepts writes there, from within the cell either: %s did (%s, epoch %d)", r.cell, p.State, p.Epoch)
	}
	r.call = r.id + "-call"
	w.data[r.cell][r.call]++
	w.called++
	other.decider.End(decide.Ended{Lease: lease})
	return true
}

func (w *world) onward(r *request) bool {
	if r.gateway.life != r.life {
		return false
	}
	onward, _, ok := r.gateway.decider.Onward(&decide.Request{
		Listener: meshname.ListenerGateway, Target: "workload/front", Method: r.method(), Path: "/rows", Lease: r.lease, Headers: decide.HeadersOf(map[string][]string{propagation.HeaderTxnToken: {r.token}}),
	})
	if ok && onward.Via != "" {
		onward = w.forward(r, onward.Via)
	}
	if !ok || onward.Held && w.random.IntN(10) == 0 { // it was held for as long as it may
		r.gateway.decider.End(decide.Ended{Lease: r.lease})
		return false
	}
	if !onward.Held {
		w.intend(r, &onward)
		r.token, r.cell, r.at = onward.Token, onward.Cell, onTheWay
	}
	return true
}

func (w *world) serve(r *request) bool {
	var there []*node
	for _, n := range w.nodes {
		if n.cell == r.cell {
			there = append(there, n)
		}
	}
	r.sidecar = there[w.random.IntN(len(there))]
	r.inner = fmt.Sprint("inner-", r.id, "-", w.random.Uint64())
	method := r.method()
	if w.fault == fenceIsIgnored {
		method = "GET"
	}
	answer := w.inbound(r.sidecar, r.gateway, method, "/rows", r.inner, r.token)
	if !answer.Decision.Allowed {
		w.untaken(r)
		again := answer.Decision.Reason == policy.Misdirected || answer.Decision.Reason == policy.WriteFenced
		if r.byMover && again && r.gateway.life == r.life {
			r.at = held
			return true
		}
		if r.gateway.life == r.life {
			r.gateway.decider.End(decide.Ended{Lease: r.lease})
		}
		return false
	}
	p, _ := w.placement()
	if r.write {
		w.accepted++
		if p.Cell != r.cell {
			w.fail("at most one cell accepts the owner's writes: %s did, and %s owns the tenant (%s, epoch %d)", r.cell, p.Cell, p.State, p.Epoch)
		}
		if p.State == tenantstore.StateFencing && p.Sealed {
			w.fail("nobody accepts writes while the tenant is sealed: %s did, at epoch %d", r.cell, p.Epoch)
		}
	} else if p.State != tenantstore.StateFencing {
		for id := range r.knew {
			if w.data[r.cell][id] == 0 {
				w.fail("reads follow writes outside FENCING: %s does not have %s (%s, epoch %d)", r.cell, id, p.State, p.Epoch)
			}
		}
	}
	r.at, r.innerLife = admitted, r.sidecar.life
	return true
}

func (w *world) inbound(n, gateway *node, method, path, lease, token string) decide.Answer {
	return n.decider.Decide(&decide.Request{
		Listener: meshname.ListenerInbound, Method: method, Path: path, Lease: lease, Peer: gateway.peer.Principal.String(),
		Headers: decide.HeadersOf(map[string][]string{propagation.HeaderTxnToken: {token}}),
	})
}

// copy lets a gateway that finds itself the mover copy, by the way of the cells' sidecars.
func (w *world) copy(g *node) {
	t, ok := g.sets.Load().Tenant(tenant)
	if !ok || !t.Copy || t.Mover != g.id || t.State == policyset.Final {
		return
	}
	if t.State == policyset.Migrating {
		w.follow(g, t)
		return
	}
	if w.fault != copiesNothing && !w.caughtUp(g, t) {
		if !w.hook(g, t, t.Cell, "GET", tenanttoken.Owner, nil) || !w.hook(g, t, t.Target, "PUT", tenanttoken.Replica, maps.Clone(w.data[t.Cell])) {
			return // it is tried again
		}
	}
	g.tracker.Copied(tenant, t.Epoch, []*api.Copy{{Workload: "front", DigestFrom: "d", DigestTo: "d"}})
}

// run plays events as the seed wants them, then lets everything come to rest, and checks what is left.
func (w *world) run(events int) error {
	old, _ := w.store.Snapshot(context.Background())
	for i := 0; i < events && w.broken == nil; i++ {
		n := w.nodes[w.random.IntN(len(w.nodes))]
		switch k := w.random.IntN(100); {
		case k < 6:
			w.client()
		case k < 36:
			w.pass()
		case k < 66: // mostly one after the other, as it is when nothing is wrong
			if p, _ := w.placement(); n.lags && p.State == tenantstore.StateCutover && w.random.IntN(30) > 0 {
				continue // who owns the tenant now is the news that hurts most when it is late
			}
			w.pull(n)
			if w.random.IntN(10) < 9 {
				w.save(n)
			}
			if w.random.IntN(10) < 9 {
				w.report(n)
			}
		case k < 68:
			w.save(n)
		case k < 69:
			if len(w.late) > 0 {
				w.late[w.random.IntN(len(w.late))]()
			}
		case k < 76:
			w.report(n)
		case k < 88:
			_, now := w.placement()
			w.step(now.Objects)
		case k < 90:
			w.step(old.Objects)
			_, old = w.placement()
		case k < 95:
			w.copy(w.nodes[0])
			w.copy(w.nodes[1])
		case k < 96:
			w.operate()
		case k < 97:
			w.crashed(n)
			if err := w.boot(n); err != nil { // it crashes, and starts from its disk
				return err
			}
		default:
			w.now = w.now.Add(time.Duration(w.random.IntN(1500)) * time.Millisecond)
		}
	}
	w.underway = w.moved
	w.rest()
	return w.broken
}

// pass takes one request on, or loses it or its answer.
func (w *world) pass() {
	if len(w.requests) == 0 {
		return
	}
	i := w.random.IntN(len(w.requests))
	r := w.requests[i]
	if r.slow && w.random.IntN(8) > 0 {
		return
	}
	if w.random.IntN(4) == 0 && r.slow && r.at == onTheWay && r.gateway.life == r.life { // the client gives up; what was sent may arrive all the same
		r.gateway.decider.End(decide.Ended{Lease: r.lease})
		r.life = -1
		return
	}
	if w.advance(r) {
		return
	}
	w.requests = slices.Delete(w.requests, i, i+1)
}

// operate is what an operator may do at any time.
func (w *world) operate() {
	p, _ := w.placement()
	other := map[string]string{"a": "b", "b": "a"}[p.Cell]
	w.transit([]tenantstore.MoveRequest{
		{Transition: tenantstore.MoveAbort}, {Transition: tenantstore.MoveRollback}, {Transition: tenantstore.MoveStart, To: other, Grace: 1},
	}[min(2, w.random.IntN(10))])
}

// rest lets every request and the move come to their end, with everyone well.
func (w *world) rest() {
	for range 400 {
		if w.broken != nil {
			return
		}
		for i := 0; i < len(w.requests); {
			if w.advance(w.requests[i]) {
				i++
			} else {
				w.requests = slices.Delete(w.requests, i, i+1)
			}
		}
		for _, n := range w.nodes {
			w.pull(n)
			w.save(n)
			w.report(n)
			if n.cell == "" {
				w.copy(n)
				w.report(n)
			}
		}
		p, now := w.placement()
		w.step(now.Objects)
		w.now = w.now.Add(500 * time.Millisecond)
		if p.Target == "" && len(w.requests) == 0 {
			break
		}
	}
	p, _ := w.placement()
	if p.Target != "" || len(w.requests) > 0 {
		w.fail("everything comes to rest: the tenant is %s at epoch %d, and %d requests are open", p.State, p.Epoch, len(w.requests))
	}
	for id := range w.acked {
		if n := w.data[p.Cell][id]; n != 1 {
			w.fail("every acknowledged write is in the owner, applied once: %s is there %d times", id, n)
		}
	}
}
