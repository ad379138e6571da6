package decide

import (
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
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
	w.decider.Sets.Load().Issuers["login"].Fetched(start.Add(-2e9))
	w.want("before", gatewayRequest(), policy.Permitted)
	push(`{"keys":[]}`)
	w.want("its key is gone", gatewayRequest(func(r *Request) { r.Lease = "l2" }), policy.UnauthenticatedTenant)
	w.change(policyset.Change{TypeURL: meshname.TypeTokenIssuer, Name: "login"})
	w.want("its issuer is gone", gatewayRequest(func(r *Request) { r.Lease = "l3" }), policy.UnauthenticatedTenant)
}
