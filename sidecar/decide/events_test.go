package decide

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

const consumerID = "spiffe://mesh.example/cell/us-1/workload/front"

func topics() *api.Events {
	return &api.Events{Produces: []string{"orders"}, Consumes: []string{"orders"}, Lifetime: durationpb.New(24 * time.Hour)}
}

func gatewayOf(peer string, cell string) *api.ProxyConfig {
	return &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": "", "eu-1": "eu"}, EventPeers: []*api.EventPeer{{Principal: peer, Cell: cell, Events: topics()}}}
}

func besideConsumer() *api.ProxyConfig {
	return &api.ProxyConfig{Role: "sidecar", Cell: "us-1", Workload: "front", Principal: consumerID, Events: topics(), DependsOn: []*api.Dependency{{Kind: "workload", Name: "back"}}}
}

func (w *world) eventClaims(change func(*tenanttoken.Claims)) tenanttoken.Claims {
	w.t.Helper()
	acme, err := identity.ParseTenantID("acme")
	check(w.t, err)
	claims := tenanttoken.Claims{
		Audience: "mesh.example", IssuedAt: w.now, Expiry: w.now.Add(5 * time.Minute), Txn: "00000000000000000000000000000001", Subject: "alice",
		Context: tenanttoken.Context{Tenant: acme, UID: "uid-1", Tier: "gold", Cell: "us-1", Epoch: 7, Role: tenanttoken.Owner, Purpose: tenanttoken.Request},
	}
	if change != nil {
		change(&claims)
	}
	return claims
}

func (w *world) context(change func(*tenanttoken.Claims)) string {
	w.t.Helper()
	text, err := w.signer.Sign(w.eventClaims(change))
	check(w.t, err)
	return text
}

func (w *world) eventToken(change func(*tenanttoken.Claims)) string {
	w.t.Helper()
	text, err := w.signer.SignEvent(tenanttoken.Event{Claims: w.eventClaims(change), Topic: "orders"})
	check(w.t, err)
	return text
}

func (w *world) exchange(name string, e Event, reason policy.Reason) string {
	w.t.Helper()
	signed, answer := w.decider.DecideEvent(e)
	if d := answer.Decision; d.Reason != reason || d.Allowed != (reason == policy.Permitted) || d.Point != meshname.PointEvents {
		w.t.Errorf("%s: %q (%s), want %q", name, d.Reason, d.Detail, reason)
	} else if reason != policy.Permitted && (signed != "" || d.Detail == "") {
		w.t.Errorf("%s: a refusal gives %q and says %q", name, signed, d.Detail)
	}
	return signed
}

func principal(t *testing.T, text string) identity.Principal {
	t.Helper()
	p, err := identity.ParsePrincipal(text)
	check(t, err)
	return p
}

// TestEventAtGateway: a gateway signs an event's token for the topics of who asks, and by it a context that says where the tenant is now and who opened it.
func TestEventAtGateway(t *testing.T) {
	w := newWorld(t, gatewayOf(consumerID, "us-1"))
	peer := principal(t, consumerID)
	sealed := w.exchange("a token", Event{Topic: "orders", Token: w.context(nil), Peer: peer}, policy.Permitted)
	v := tenanttoken.NewVerifier(tenanttoken.Options{Audience: "mesh.example"})
	claims, err := v.VerifyEvent(sealed, "orders", w.decider.Sets.Load().Keys, w.now)
	check(t, err)
	if claims.Context.UID != "uid-1" || claims.Txn != "00000000000000000000000000000001" || claims.Expiry.Sub(claims.IssuedAt) != time.Hour { // the key ends then
		t.Errorf("%+v", claims)
	}
	w.now = w.now.Add(20 * time.Minute) // every context of then is over
	opened := w.exchange("a context", Event{Open: true, Topic: "orders", Token: sealed, Peer: peer}, policy.Permitted)
	context, err := v.Verify(opened, w.decider.Sets.Load().Keys, w.now)
	check(t, err)
	if c := context.Context; c.Purpose != tenanttoken.Job || c.Cell != "us-1" || c.Epoch != 7 || context.Txn != claims.Txn || !slices.Contains(context.Keys, tenanttoken.DigestOf(opener(peer))) {
		t.Errorf("%+v", context)
	}
	w.exchange("a stranger", Event{Topic: "orders", Token: w.context(nil), Peer: principal(t, "spiffe://mesh.example/cell/us-1/workload/back")}, policy.UnauthenticatedPeer)
	w.exchange("another topic", Event{Topic: "invoices", Token: w.context(nil), Peer: peer}, policy.DeniedByPolicy)
	w.exchange("another cell's context", Event{Topic: "orders", Token: w.context(func(c *tenanttoken.Claims) { c.Context.Cell = "eu-1" }), Peer: peer}, policy.Misdirected)
	w.exchange("a copy", Event{Topic: "orders", Token: w.context(func(c *tenanttoken.Claims) { c.Context.Role = tenanttoken.Replica }), Peer: peer}, policy.DeniedByPolicy)
	w.exchange("a mover's", Event{Topic: "orders", Token: w.context(func(c *tenanttoken.Claims) { c.Context.Purpose = tenanttoken.Export }), Peer: peer}, policy.DeniedByPolicy)
	w.signer = nil
	w.exchange("without a key", Event{Open: true, Topic: "orders", Token: sealed, Peer: peer}, policy.EnforcementUnavailable)
}

// TestEventOpened: state and placement are those of now, not those of when the event was produced.
func TestEventOpened(t *testing.T) {
	peer := principal(t, consumerID)
	for name, test := range map[string]struct {
		change func(*api.TenantPolicy)
		reason policy.Reason
	}{
		"as it was":           {func(*api.TenantPolicy) {}, policy.Permitted},
		"a newer epoch":       {func(p *api.TenantPolicy) { p.Placement.Epoch = 9 }, policy.Permitted},
		"suspended":           {func(p *api.TenantPolicy) { p.Phase = "Suspended" }, policy.TenantSuspended},
		"deleted":             {func(p *api.TenantPolicy) { p.Phase = "Deleting" }, policy.TenantDeleted},
		"another incarnation": {func(p *api.TenantPolicy) { p.Uid = "uid-9" }, policy.TenantDeleted},
		"elsewhere":           {func(p *api.TenantPolicy) { p.Placement.Cell = "eu-1" }, policy.Misdirected},
		"residency":           {func(p *api.TenantPolicy) { p.Residency = "eu" }, policy.Residency},
		"moving": {func(p *api.TenantPolicy) {
			p.Placement.State, p.Placement.Target = string(policyset.Migrating), "eu-1"
		}, policy.WriteFenced},
	} {
		gateway := newWorld(t, gatewayOf(consumerID, "us-1"), test.change)
		gateway.exchange(name+", at a gateway", Event{Open: true, Topic: "orders", Token: gateway.eventToken(nil), Peer: peer}, test.reason)
		beside := newWorld(t, besideConsumer(), test.change)
		beside.exchange(name+", beside the consumer", Event{Open: true, Topic: "orders", Token: beside.eventToken(nil)}, test.reason)
	}
	w := newWorld(t, besideConsumer())
	w.exchange("over", Event{Open: true, Topic: "orders", Token: w.eventToken(func(c *tenanttoken.Claims) {
		c.IssuedAt, c.Expiry = w.now.Add(-2*time.Hour), w.now.Add(-time.Hour)
	})}, policy.ContextMissing)
	w.exchange("a context", Event{Open: true, Topic: "orders", Token: w.context(nil)}, policy.ContextForeign)
	set, err := w.decider.Sets.Load().With([]policyset.Change{{TypeURL: meshname.TypeRevocation, Name: "00000000000000000000000000000001", Message: &api.Revocation{Txn: "00000000000000000000000000000001"}}}, 43)
	check(t, err)
	token := w.eventToken(nil)
	w.decider.Sets.Store(set)
	w.exchange("revoked", Event{Open: true, Topic: "orders", Token: token}, policy.ContextRevoked)
}

// TestEventsCalls: the context of an event is good for the calls and events of who opened it, and of nobody else.
func TestEventsCalls(t *testing.T) {
	w := newWorld(t, besideConsumer())
	by := func(who string, purpose tenanttoken.Purpose) string {
		return w.context(func(c *tenanttoken.Claims) {
			c.Context.Purpose, c.Context.Keys = purpose, []string{tenanttoken.KeyDigest(opener(principal(t, who)))}
		})
	}
	const other = "spiffe://mesh.example/cell/us-1/workload/back"
	for name, test := range map[string]struct {
		token  string
		reason policy.Reason
	}{
		"its own":                         {by(consumerID, tenanttoken.Job), policy.Permitted},
		"another workload's":              {by(other, tenanttoken.Job), policy.ContextUnattributed},
		"a request whose ID says so":      {by(consumerID, tenanttoken.Request), policy.ContextUnattributed}, // a client chooses its x-request-id
		"a request that is not open here": {w.context(nil), policy.ContextUnattributed},
	} {
		w.exchange(name, Event{Topic: "orders", Token: test.token}, test.reason)
		w.want(name, &Request{Listener: meshname.ListenerOutbound, Target: "workload/back", Method: "GET", Path: "/x", Lease: "l-" + name, Headers: HeadersOf(map[string][]string{"txn-token": {test.token}, ":authority": {"back"}})}, test.reason)
	}
}
