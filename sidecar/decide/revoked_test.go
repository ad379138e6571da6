package decide

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/ledger/trail/trailtest"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/audit"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// change changes the set in force.
func (w *world) change(changes ...policyset.Change) {
	w.t.Helper()
	set, err := w.decider.Sets.Load().With(changes, 43)
	check(w.t, err)
	w.decider.Sets.Store(set)
}

// TestRevokedToken: a context that was good is refused from the moment at which its transaction is revoked, where it comes in
// and where it goes out, and others are not.
func TestRevokedToken(t *testing.T) {
	w := newWorld(t, sidecar())
	token := w.token()
	w.want("before", w.inbound(token), policy.Permitted)
	out := func() *Request {
		return &Request{Listener: meshname.ListenerOutbound, Target: "workload/back", Method: "GET", Path: "/", Lease: "o", Headers: HeadersOf(map[string][]string{"txn-token": {token}})}
	}
	w.want("its call", out(), policy.Permitted)
	w.change(policyset.Change{TypeURL: meshname.TypeRevocation, Name: "other", Message: &api.Revocation{Txn: "other"}})
	w.want("another is revoked", w.inbound(token, func(r *Request) { r.Lease = "l2" }), policy.Permitted)
	w.change(policyset.Change{TypeURL: meshname.TypeRevocation, Name: "txn", Message: &api.Revocation{Txn: "txn"}})
	w.want("revoked", w.inbound(token, func(r *Request) { r.Lease = "l3" }), policy.ContextRevoked)
	w.want("its call, of a request that is open still", out(), policy.ContextRevoked)
	w.change(policyset.Change{TypeURL: meshname.TypeRevocation, Name: "txn"})
	w.want("forgotten", w.inbound(token, func(r *Request) { r.Lease = "l4" }), policy.Permitted)
}

// TestWithdrawnKey: a token that Envoy let through by a key that is gone here is refused, unless a key that is here signed it.
func TestWithdrawnKey(t *testing.T) {
	w := newWorld(t, &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": "", "eu-1": "eu"}})
	push := func(jwks string) {
		w.change(policyset.Change{TypeURL: meshname.TypeTokenIssuer, Name: "login", Message: &api.TokenIssuer{Name: "login", TenantClaim: "org", Tenants: []string{"acme"}, Jwks: jwks}})
	}
	push(`{"keys":[{"kty":"EC","kid":"a"}]}`)
	w.decider.Sets.Load().Issuers["login"].Fetched(start.Add(-time.Minute))
	w.want("before", gatewayRequest(), policy.Permitted)
	push(`{"keys":[]}`)
	w.want("its key is gone", gatewayRequest(func(r *Request) { r.Lease = "l2" }), policy.UnauthenticatedTenant)
	w.change(policyset.Change{TypeURL: meshname.TypeTokenIssuer, Name: "login"})
	w.want("its issuer is gone", gatewayRequest(func(r *Request) { r.Lease = "l3" }), policy.UnauthenticatedTenant)
}

// TestHeldIsJudgedAgain: what is open ends when what let it in is taken away, and by nothing else.
func TestHeldIsJudgedAgain(t *testing.T) {
	const grant, front = "grant/support", "front"
	permit := func(name string, change ...func(*api.AccessPolicy)) policyset.Change {
		p := &api.AccessPolicy{Name: name, Effect: "Permit", Principals: []string{edge}, Targets: []*api.Target{{Workload: front}}}
		for _, f := range change {
			f(p)
		}
		return policyset.Change{TypeURL: meshname.TypeAccessPolicy, Name: name, Message: p}
	}
	none := func(typeURL, name string) policyset.Change { return policyset.Change{TypeURL: typeURL, Name: name} }
	for _, test := range []struct {
		name   string
		accept string
		change []policyset.Change
		after  time.Duration
		cutOff time.Duration // since when the control plane was not heard
		reason policy.Reason
	}{
		{name: "nothing"},
		{name: "another policy", change: []policyset.Change{permit("more")}},
		{name: "its transaction is revoked", change: []policyset.Change{{TypeURL: meshname.TypeRevocation, Name: "txn", Message: &api.Revocation{Txn: "txn"}}}, reason: policy.ContextRevoked},
		{name: "what permits it goes", change: []policyset.Change{none(meshname.TypeAccessPolicy, grant)}, reason: policy.DeniedByPolicy},
		{name: "its principal is forbidden", change: []policyset.Change{permit("no", func(p *api.AccessPolicy) { p.Effect = "Forbid" })}, reason: policy.DeniedByPolicy},
		{name: "the grant ends", after: time.Hour, reason: policy.DeniedByPolicy},
		{name: "the control plane is out of reach", cutOff: 6 * time.Minute, reason: policy.DeniedByPolicy},
		{name: "its peer is shut out", change: []policyset.Change{{TypeURL: meshname.TypeProxyConfig, Name: "self", Message: fenced("shown")}}, reason: policy.UnauthenticatedPeer},
		{name: "its peer is none any more", change: []policyset.Change{{TypeURL: meshname.TypeProxyConfig, Name: "self", Message: without(edge)}}, reason: policy.UnauthenticatedPeer},
		{name: "another is shut out", change: []policyset.Change{{TypeURL: meshname.TypeProxyConfig, Name: "self", Message: fenced("other")}}},
	} {
		w := newWorld(t, sidecar())
		w.change(none(meshname.TypeAccessPolicy, "p"), permit(grant, func(p *api.AccessPolicy) { p.NotAfter = timestamppb.New(start.Add(time.Hour)) }))
		a := w.want(test.name, w.inbound(w.token(), func(r *Request) {
			r.Headers.Add("accept", "text/event-stream")
			r.Headers.Add("x-tenantmesh-peer", "shown "+edge)
			r.Headers.Add("x-tenantmesh-grant-reason", "ticket 7")
		}), policy.Permitted)
		r, ok := w.decider.InFlight.Find("l")
		if !ok || r.Held == nil || r.Stream || !w.decider.Timed(&r) || a.Fields.Get("x-tenantmesh-stream") != "held" {
			t.Fatalf("%s: it is open as %+v, and marked %q", test.name, r.Held, a.Fields.Get("x-tenantmesh-stream"))
		}
		w.change(test.change...)
		w.now = start.Add(test.after)
		if test.cutOff > 0 {
			w.decider.Sets.Heard(w.now.Add(-test.cutOff))
		}
		answer, ended := w.decider.Outlived(&r)
		if ended != (test.reason != policy.Permitted) || answer.Decision.Reason != test.reason {
			t.Errorf("%s: ended %v, %q (%s), want %q", test.name, ended, answer.Decision.Reason, answer.Decision.Detail, test.reason)
		}
	}
}

func fenced(shown string) *api.ProxyConfig {
	self := sidecar()
	self.TrustDomain, self.Fenced = "mesh.example", []string{shown}
	return self
}

func without(peer string) *api.ProxyConfig {
	self := sidecar()
	self.TrustDomain, self.Peers = "mesh.example", slices.DeleteFunc(self.Peers, func(p string) bool { return p == peer })
	return self
}

// TestIssuerEndsStreams: at a gateway a stream ends with its issuer's right to speak for the tenant, and with the key that signed its
// token.
func TestIssuerEndsStreams(t *testing.T) {
	w := newWorld(t, &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}, Streams: []*api.Streams{{
		Workload: "front", Strip: "/front", Classes: []*api.Class{{Name: "short", Paths: []string{"/feed/short"}}, {Name: "long", Paths: []string{"/feed/**"}, Streaming: true}},
	}}})
	for path, want := range map[string]string{"/front/feed/x": "held-long", "/front/feed/short": "", "/feed/x": "", "/frontfeed/x": "", "/front": ""} {
		a := w.decider.Decide(gatewayRequest(func(r *Request) { r.Path, r.Target, r.Lease = path, "workload/front", path }))
		if got := a.Fields.Get("x-tenantmesh-stream"); a.Decision.Allowed && got != want {
			t.Errorf("%s is marked %q, want %q", path, got, want)
		}
		w.now = w.now.Add(time.Second)
	}
	r, ok := w.decider.InFlight.Find("/front/feed/x")
	if !ok || r.Held == nil || !r.Stream || r.Held.Txn == "" {
		t.Fatalf("it is open as %+v", r)
	}
	if _, ended := w.decider.Outlived(&r); ended {
		t.Error("it ends by nothing")
	}
	push := func(jwks string) {
		w.change(policyset.Change{TypeURL: meshname.TypeTokenIssuer, Name: "login", Message: &api.TokenIssuer{Name: "login", TenantClaim: "org", Tenants: []string{"acme"}, Jwks: jwks}})
	}
	both := strings.TrimSuffix(logins()[1].jwks, "]}") + "," + strings.TrimPrefix(logins()[0].jwks, `{"keys":[`)
	for _, now := range []struct {
		jwks string
		want policy.Reason
	}{{both, policy.Permitted}, {logins()[1].jwks, policy.UnauthenticatedTenant}} {
		push(now.jwks)
		if answer, ended := w.decider.Outlived(&r); ended != (now.want != policy.Permitted) || answer.Decision.Reason != now.want {
			t.Errorf("by the keys %s: ended %v, %q", now.jwks, ended, answer.Decision.Reason)
		}
	}
	w.now = w.now.Add(time.Minute)
	w.want("a stream by a key that is gone", gatewayRequest(func(r *Request) { r.Path, r.Target, r.Lease = "/front/feed/y", "workload/front", "y" }), policy.UnauthenticatedTenant)
	w.change(policyset.Change{TypeURL: meshname.TypeTokenIssuer, Name: "login"})
	if answer, ended := w.decider.Outlived(&r); !ended || answer.Decision.Reason != policy.UnauthenticatedTenant {
		t.Errorf("ended %v, %q", ended, answer.Decision.Reason)
	}
}

// TestEndedStreamIsTold: a stream that ends because what let it in was taken away leaves an audit event, like a refusal.
func TestEndedStreamIsTold(t *testing.T) {
	w := newWorld(t, sidecar())
	authority := trailtest.New(t)
	recorder, err := audit.Open(audit.Config{
		Member: "m", Dir: t.TempDir(), Signer: authority.SVID(t, "spiffe://mesh.example/front"), Metrics: audit.NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(),
		Now: func() time.Time { return w.now },
	})
	check(t, err)
	w.decider.Audit = recorder
	w.want("the stream", w.inbound(w.token(), func(r *Request) { r.Headers.Add("accept", "text/event-stream") }), policy.Permitted)
	r, _ := w.decider.InFlight.Find("l")
	if _, ended := w.decider.Outlived(&r); ended {
		t.Fatal("it ends by nothing")
	}
	w.change(policyset.Change{TypeURL: meshname.TypeRevocation, Name: "txn", Message: &api.Revocation{Txn: "txn"}})
	answer, _ := w.decider.Outlived(&r)
	recorder.Flush(w.now)
	_, batches, err := recorder.Next(1)
	check(t, err)
	var told []trail.Event
	for _, text := range batches {
		var b trail.Batch
		check(t, json.Unmarshal(text, &b))
		events, err := b.Verify(authority.Pool())
		check(t, err)
		for _, e := range events {
			if e.Kind == trail.Decision {
				told = append(told, e)
			}
		}
	}
	if len(told) != 1 || told[0].Reason != "context_revoked" || told[0].Point != "stream" || told[0].Tenant != "acme" || told[0].TenantUID != "uid-1" || told[0].Txn != "txn" || told[0].Decision != answer.Decision.ID {
		t.Errorf("%+v", told)
	}
}
