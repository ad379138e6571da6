package decide

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// TestMoved: hooks of a workload's data, and copies of requests, are for the tenant's mover, at the very epoch, in the
// steps of a move in which something is copied, in the direction in which it flows.
func TestMoved(t *testing.T) {
	migrating := &api.Placement{State: "MIGRATING", Cell: "us-2", Target: "us-1", Epoch: 9, Since: 3, Mover: "m1", Follow: 8, Copy: true}
	sealed := &api.Placement{State: "FENCING", Cell: "us-2", Target: "us-1", Epoch: 9, Since: 3, Mover: "m1", Sealed: true, Copy: true}
	cleaning := &api.Placement{State: "FINAL", Cell: "us-2", Target: "us-1", Epoch: 9, Since: 9, Mover: "m1", Sealed: true}
	from := func(p *api.Placement) *api.Placement { // the same move, seen where the owner is
		p = proto.CloneOf(p)
		p.Cell, p.Target = p.Target, p.Cell
		return p
	}
	with := func(p *api.Placement, change func(*api.Placement)) *api.Placement {
		p = proto.CloneOf(p)
		change(p)
		return p
	}
	const imports, writes = "/data", "/rows"
	for _, test := range []struct {
		name      string
		placement *api.Placement
		strategy  string
		method    string
		path      string
		claims    func(*tenanttoken.Claims)
		request   func(*Request)
		reason    policy.Reason
	}{
		{"an import", migrating, "catchUp", "PATCH", imports, nil, nil, policy.Permitted},
		{"an import under the seal", sealed, "fenced", "PUT", imports, nil, nil, policy.Permitted},
		{"a deletion", cleaning, "fenced", "DELETE", imports, nil, nil, policy.Permitted},
		{"an export", from(sealed), "fenced", "GET", imports, func(c *tenanttoken.Claims) { c.Context.Role = tenanttoken.Owner }, nil, policy.Permitted},
		{"of a suspended tenant too", sealed, "fenced", "PUT", imports, nil, nil, policy.Permitted},
		{"an import before the seal", migrating, "fenced", "PUT", imports, nil, nil, policy.Misdirected},
		{"an import before all has ended", with(migrating, func(p *api.Placement) { p.Copy = false }), "catchUp", "PUT", imports, nil, nil, policy.Misdirected},
		{"an import after the cutover", with(migrating, func(p *api.Placement) { p.State = "CUTOVER" }), "catchUp", "PUT", imports, nil, nil, policy.Misdirected},
		{"an import of an older epoch", sealed, "fenced", "PUT", imports, func(c *tenanttoken.Claims) { c.Context.Epoch = 8 }, nil, policy.Misdirected},
		{"by another member's key", with(sealed, func(p *api.Placement) { p.Mover = "m2" }), "fenced", "PUT", imports, nil, nil, policy.DeniedByPolicy},
		{"without a mover", with(sealed, func(p *api.Placement) { p.Mover = "" }), "fenced", "PUT", imports, nil, nil, policy.DeniedByPolicy},
		{"by a workload of the cell", sealed, "fenced", "PUT", imports, nil, func(r *Request) { r.Peer = "spiffe://mesh.example/cell/us-1/workload/other" }, policy.DeniedByPolicy},
		{"an import where the owner is", from(sealed), "fenced", "PUT", imports, func(c *tenanttoken.Claims) { c.Context.Role = tenanttoken.Owner }, nil, policy.DeniedByPolicy},
		{"an import as the owner", sealed, "fenced", "PUT", imports, func(c *tenanttoken.Claims) { c.Context.Role = tenanttoken.Owner }, nil, policy.Misdirected},
		{"a hook for an ordinary request", sealed, "fenced", "PUT", imports, func(c *tenanttoken.Claims) { c.Context.Purpose = tenanttoken.Request }, nil, policy.DeniedByPolicy},
		{"a hook by an encoded path", sealed, "fenced", "PUT", "/d%61ta", func(c *tenanttoken.Claims) {
			c.Context.Purpose, c.Context.Role = tenanttoken.Request, tenanttoken.Owner
		}, nil, policy.Misdirected},
		{"of another incarnation", sealed, "fenced", "PUT", imports, func(c *tenanttoken.Claims) { c.Context.UID = "uid-0" }, nil, policy.TenantDeleted},
		{"a copy of a write", migrating, "dualWrite", "POST", writes, request, nil, policy.Permitted},
		{"a copy of a write under the seal", sealed, "dualWrite", "POST", writes, request, nil, policy.Permitted},
		{"a copy once reads are held", with(sealed, func(p *api.Placement) { p.Shut = true }), "dualWrite", "POST", writes, request, nil, policy.Misdirected},
		{"a copy to a workload that catches up", migrating, "catchUp", "POST", writes, request, nil, policy.DeniedByPolicy},
		{"a copy that no policy permits", migrating, "dualWrite", "POST", writes, request, func(r *Request) { r.Peer = "spiffe://mesh.example/control" }, policy.DeniedByPolicy},
	} {
		self := sidecar()
		self.Peers = append(self.Peers, "spiffe://mesh.example/control")
		self.TenantData = []*api.TenantData{{Workload: "front", Strategy: test.strategy, Export: imports, Import: imports, Digest: "/digest", Delete: imports}}
		w := newWorld(t, self, func(p *api.TenantPolicy) {
			p.Placement = test.placement
			if test.name == "of a suspended tenant too" {
				p.Phase = "Suspended"
			}
		})
		token := w.token(func(c *tenanttoken.Claims) {
			c.Context.Epoch, c.Context.Role, c.Context.Purpose = 9, tenanttoken.Replica, tenanttoken.Export
			if test.claims != nil {
				test.claims(c)
			}
		})
		r := w.inbound(token, func(r *Request) { r.Method, r.Path = test.method, test.path })
		if test.request != nil {
			test.request(r)
		}
		a := w.want(test.name, r, test.reason)
		if open := w.decider.InFlight.Open(); open != map[bool]int{true: 1}[a.Decision.Allowed] {
			t.Errorf("%s: %d requests are open", test.name, open)
		}
	}
}

func request(c *tenanttoken.Claims) { c.Context.Purpose = tenanttoken.Request }

// TestCopyCallsNobody: what a copied request would call was called where the owner is.
func TestCopyCallsNobody(t *testing.T) {
	self := sidecar()
	self.TenantData = []*api.TenantData{{Workload: "front", Strategy: "dualWrite", Export: "/data", Import: "/data", Digest: "/digest"}}
	self.DependsOn = []*api.Dependency{{Kind: "workload", Name: "back"}, {Kind: "dependency", Name: "mail", Tenancy: "untenanted"}}
	w := newWorld(t, self, func(p *api.TenantPolicy) {
		p.Placement = &api.Placement{State: "MIGRATING", Cell: "us-2", Target: "us-1", Epoch: 9, Since: 3, Mover: "m1", Follow: 8, Copy: true}
	})
	token := w.token(func(c *tenanttoken.Claims) { c.Context.Epoch, c.Context.Role = 9, tenanttoken.Replica })
	w.want("the copy", w.inbound(token, func(r *Request) { r.Method = "POST" }), policy.Permitted)
	for _, target := range []string{"workload/back", "dependency/mail"} {
		w.want("a call of "+target, outbound(target, map[string][]string{"txn-token": {token}}), policy.DeniedByPolicy)
	}
}

// TestFenced: a peer whose certificate an operator shut out is refused, whatever its SPIFFE ID.
func TestFenced(t *testing.T) {
	self := sidecar()
	self.Fenced = []string{"ab12"}
	w := newWorld(t, self)
	w.want("shut out", w.inbound(w.token(), func(r *Request) { r.Headers.Add(propagation.HeaderPeer, "ab12") }), policy.UnauthenticatedPeer)
	w.want("another instance", w.inbound(w.token(), func(r *Request) { r.Headers.Add(propagation.HeaderPeer, "cd34") }), policy.Permitted)
}

// TestOnward: a write that both cells must get goes by the tenant's mover, and by no other.
func TestOnward(t *testing.T) {
	gateway := func(mover string) *world {
		self := &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": "", "us-2": ""}, Movers: map[string]string{"m2": "127.0.0.1:9"}}
		self.TenantData = []*api.TenantData{{Workload: "front", Strategy: "dualWrite"}, {Workload: "back", Strategy: "catchUp"}}
		w := newWorld(t, self, func(p *api.TenantPolicy) {
			p.Placement = &api.Placement{State: "MIGRATING", Cell: "us-1", Target: "us-2", Epoch: 9, Since: 3, Mover: mover, Follow: 9}
		})
		w.decider.Member = "m1"
		return w
	}
	ask := func(w *world, method, target string, forwarded bool) Onward {
		lease := method + target
		if !forwarded {
			w.want("at the gateway", gatewayRequest(func(r *Request) { r.Method, r.Target, r.Lease = method, target, lease }), policy.Permitted)
		}
		onward, answer, ok := w.decider.Onward(&Request{
			Listener: meshname.ListenerGateway, Method: method, Path: "/front", Lease: lease, Target: target, Forwarded: forwarded,
			Headers: HeadersOf(map[string][]string{propagation.HeaderTxnToken: {w.token(func(c *tenanttoken.Claims) { c.Context.Epoch = 9 })}}),
		})
		if !ok {
			t.Errorf("%s %s: %s", method, target, answer.Decision.Detail)
		}
		return onward
	}
	mine, other, gone := gateway("m1"), gateway("m2"), gateway("m3")
	if o := ask(mine, "POST", "workload/front", false); o.Repeat == nil || o.Token == "" || o.Cell != "us-1" {
		t.Errorf("a write at the mover: %+v", o)
	}
	if o := ask(mine, "PUT", "workload/front", true); o.Repeat == nil || o.Token == "" {
		t.Errorf("a write that another gateway sent: %+v", o)
	}
	if o := ask(other, "POST", "workload/front", false); o.Via != "127.0.0.1:9" || o.Token != "" || o.Held {
		t.Errorf("a write at another gateway: %+v", o)
	}
	if o := ask(other, "PUT", "workload/front", true); !o.Held || o.Token != "" {
		t.Errorf("a write that was sent to who is not the mover: %+v", o)
	}
	if o := ask(gone, "POST", "workload/front", false); !o.Held || o.Token != "" {
		t.Errorf("a write while the mover is out of reach: %+v", o)
	}
	if o := ask(other, "POST", "workload/back", false); o.Via != "" || o.Held || o.Token == "" {
		t.Errorf("a write to a workload that catches up: %+v", o)
	}
	if o := ask(gateway("m2"), "GET", "workload/front", false); o.Via != "" || o.Held || o.Token == "" {
		t.Errorf("a read: %+v", o)
	}
}

// TestFenceWithin: a fence gives way to a write of a newer epoch only when a gateway sends it, which would not if the
// fence still stood; within the cell the context may be that of a read that was let in meanwhile.
func TestFenceWithin(t *testing.T) {
	for _, test := range []struct {
		peer   string
		epoch  int64
		sealed bool
		shut   bool
		method string
		reason policy.Reason
	}{
		{edge, 9, false, false, "POST", policy.WriteFenced},
		{edge, 9, false, false, "GET", policy.Permitted},
		{edge, 10, true, false, "POST", policy.Permitted},
		{edge, 9, true, true, "GET", policy.WriteFenced},
		{neighbour, 9, false, false, "POST", policy.Permitted},
		{neighbour, 9, true, false, "POST", policy.WriteFenced},
		{neighbour, 10, true, false, "POST", policy.WriteFenced},
		{neighbour, 10, true, false, "GET", policy.Permitted},
		{neighbour, 10, true, true, "GET", policy.WriteFenced},
	} {
		w := newWorld(t, sidecar(), func(p *api.TenantPolicy) {
			p.Placement = &api.Placement{State: "FENCING", Cell: "us-1", Target: "us-2", Epoch: 9, Since: 3, Sealed: test.sealed, Shut: test.shut}
		})
		set, err := w.decider.Sets.Load().With([]policyset.Change{{TypeURL: meshname.TypeAccessPolicy, Name: "within", Message: &api.AccessPolicy{
			Name: "within", Effect: "Permit", Principals: []string{neighbour}, Targets: []*api.Target{{Workload: "front"}},
		}}}, 43)
		check(t, err)
		w.decider.Sets.Store(set)
		token := w.token(func(c *tenanttoken.Claims) { c.Context.Epoch = test.epoch })
		w.want(fmt.Sprintf("%+v", test), w.inbound(token, func(r *Request) { r.Peer, r.Method = test.peer, test.method }), test.reason)
	}
}

const neighbour = "spiffe://mesh.example/cell/us-1/workload/other"
