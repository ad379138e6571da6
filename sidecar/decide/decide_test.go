package decide

import (
	"strings"
	"testing"
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
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	edge    = "spiffe://mesh.example/gateway/edge"
	other   = "spiffe://mesh.example/gateway/other"
	reports = "spiffe://mesh.example/cell/us-1/workload/reports"
)

// world is a decider with the set that a test gives it.
type world struct {
	t       *testing.T
	decider *Decider
	meter   *ledger.Meter
	now     time.Time
	signer  *tenanttoken.Signer
	key     tenanttoken.SigningKey
}

func newWorld(t *testing.T, self *api.ProxyConfig, change ...func(*api.TenantPolicy)) *world {
	t.Helper()
	w := &world{t: t, now: start, meter: ledger.NewMeter()}
	var err error
	w.key, err = tenanttoken.NewSigningKey(start.Add(time.Hour))
	check(t, err)
	principal, err := identity.ParsePrincipal(edge)
	check(t, err)
	w.signer, err = tenanttoken.NewSigner(w.key, principal)
	check(t, err)
	acme := &api.TenantPolicy{
		Tenant: "acme", Uid: "uid-1", Tier: "gold", Phase: "Active", Placement: &api.Placement{State: "ACTIVE", Cell: "us-1", Epoch: 7, Since: 7},
		Limits: &api.Limits{RequestsPerSecond: 10, Burst: 2, Concurrency: 5},
	}
	for _, f := range change {
		f(acme)
	}
	self.TrustDomain = "mesh.example"
	set, err := (*policyset.Set)(nil).With([]policyset.Change{
		{TypeURL: meshname.TypeProxyConfig, Name: "self", Message: self},
		{TypeURL: meshname.TypeTenantPolicy, Name: "acme", Message: acme},
		{TypeURL: meshname.TypeTenantPolicy, Name: "globex", Message: &api.TenantPolicy{Tenant: "globex", Uid: "uid-2", Phase: "Active", Placement: acme.Placement, Limits: acme.Limits}},
		{TypeURL: meshname.TypeTokenIssuer, Name: "login", Message: &api.TokenIssuer{Name: "login", TenantClaim: "org", Tenants: []string{"acme"}, Jwks: logins()[0].jwks}},
		{TypeURL: meshname.TypeAccessPolicy, Name: "p", Message: &api.AccessPolicy{Name: "p", Effect: "Permit", Principals: []string{"spiffe://mesh.example/gateway/*"}, Targets: []*api.Target{{Workload: "front"}}}},
		{TypeURL: meshname.TypeSignerKey, Name: w.key.KID, Message: &api.SignerKey{Kid: w.key.KID, Principal: edge, PublicKey: w.key.Public(), Role: "gateway", NotAfter: timestamppb.New(w.key.NotAfter), Member: "m1"}},
	}, 42)
	check(t, err)
	sets := &policyset.Holder{}
	sets.Store(set)
	w.decider = New(Config{
		Sets: sets, Limiter: limit.New(limit.Options{}), Attribution: attribution.New(attribution.Options{}), InFlight: inflight.New(inflight.Options{}), Log: decisionlog.New("0123456789abcdef", zap.NewNop()),
		Meter: w.meter, Signer: func() *tenanttoken.Signer { return w.signer }, Metrics: NewMetrics(prometheus.NewRegistry()), Now: func() time.Time { return w.now },
	})
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want decides and checks the reason.
func (w *world) want(name string, r *Request, reason policy.Reason) Answer {
	w.t.Helper()
	a := w.decider.Decide(r)
	if a.Decision.Reason != reason || a.Decision.Allowed != (reason == policy.Permitted) {
		w.t.Errorf("%s: %q (%s), want %q", name, a.Decision.Reason, a.Decision.Detail, reason)
	}
	if reason != policy.Permitted && (len(a.Fields.All()) > 0 || a.Decision.Detail == "") {
		w.t.Errorf("%s: a refusal changes %v and says %q", name, a.Fields.All(), a.Decision.Detail)
	}
	if found, ok := w.decider.Log.Find(a.Decision.ID); !ok || found.Detail != a.Decision.Detail {
		w.t.Errorf("%s: the decision is not remembered", name)
	}
	return a
}

// payload is that of a token that Envoy verified.
type payload map[string]any

func (c payload) Text(claim string) string {
	text, _ := c[claim].(string)
	return text
}

func verified(issuer string, c payload) []Token { return []Token{{issuer, c}} }

func gatewayRequest(change ...func(*Request)) *Request {
	r := &Request{
		Listener: meshname.ListenerGateway, Method: "GET", Path: "/front?secret=1", Lease: "lease-1",
		Headers: HeadersOf(map[string][]string{"x-request-id": {"id-1"}, "authorization": {logins()[0].bearer}}),
		Tokens:  verified("login", payload{"org": "acme", "sub": "alice"}),
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func TestGateway(t *testing.T) {
	self := func() *api.ProxyConfig {
		return &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": "", "eu-1": "eu"}}
	}
	w := newWorld(t, self())
	a := w.want("good", gatewayRequest(), policy.Permitted)
	claims, err := tenanttoken.NewVerifier(tenanttoken.Options{Audience: "mesh.example"}).Verify(a.Fields.Get("txn-token"), w.decider.Sets.Load().Keys, start)
	check(t, err)
	if c := claims.Context; c.Tenant.String() != "acme" || c.UID != "uid-1" || c.Cell != "us-1" || c.Epoch != 7 || claims.Subject != "alice" || len(c.Keys) != 2 ||
		c.Keys[1] != tenanttoken.KeyDigest("id-1") || c.Keys[0] != tenanttoken.KeyDigest(traceID(a.Fields.Get("traceparent"))) {
		t.Errorf("the context is %+v", claims)
	}
	if a.Fields.Get("x-tenantmesh-cell") != "us-1" || !a.Fields.Removes("authorization") || a.Decision.Path != "/front" || a.Decision.Revision != 42 {
		t.Errorf("the answer is %+v", a)
	}
	w.want("second", gatewayRequest(func(r *Request) { r.Lease = "lease-2" }), policy.Permitted)
	limited := w.want("over the burst", gatewayRequest(func(r *Request) { r.Lease = "lease-3" }), policy.RateLimited)
	if limited.Decision.RetryAfter < time.Second || !limited.Limited || limited.Decision.Rule != "tenant rate" {
		t.Errorf("the refusal is %+v", limited)
	}
	w.decider.End(Ended{Lease: "lease-1"})
	if n := w.decider.Limiter.Leases(w.now); n != 1 {
		t.Errorf("%d leases, want 1", n)
	}
	if usage := w.meter.Take(); len(usage) != 1 || usage[0].Refused != 1 {
		t.Errorf("a gateway's usage is %+v: only what it refused", usage)
	}
	own := w.want("the client's own IDs", gatewayRequest(func(r *Request) {
		r.Headers.Add("x-tenantmesh-client-request-id", "mine")
		r.Headers.Add("traceparent", "theirs")
		r.Tokens = nil
	}), policy.UnauthenticatedTenant)
	if own.Decision.ClientRequestID != "mine" || own.Decision.ClientTraceparent != "theirs" {
		t.Errorf("the refusal keeps of its client's own IDs %+v", own.Decision)
	}
	w.want("Authorization is wanted", gatewayRequest(func(r *Request) { r.Lease, r.ForwardAuthorization = "lease-4", true; w.now = start.Add(time.Second) }), policy.Permitted)

	for name, test := range map[string]struct {
		request func(*Request)
		tenant  func(*api.TenantPolicy)
		reason  policy.Reason
	}{
		"no token":           {func(r *Request) { r.Tokens = nil }, nil, policy.UnauthenticatedTenant},
		"a bad one":          {func(r *Request) { r.Tokens, r.TokenFailure = nil, "Jwt is expired" }, nil, policy.UnauthenticatedTenant},
		"unknown issuer":     {func(r *Request) { r.Tokens = verified("other", payload{"org": "acme"}) }, nil, policy.UnauthenticatedTenant},
		"two headers":        {func(r *Request) { r.Headers.Add("authorization", "b") }, nil, policy.UnauthenticatedTenant},
		"no claim":           {func(r *Request) { r.Tokens = verified("login", payload{"tenant": "acme"}) }, nil, policy.UnauthenticatedTenant},
		"claim of a number":  {func(r *Request) { r.Tokens = verified("login", payload{"org": 7.0}) }, nil, policy.UnauthenticatedTenant},
		"may not speak":      {func(r *Request) { r.Tokens = verified("login", payload{"org": "globex"}) }, nil, policy.UnauthenticatedTenant},
		"suspended":          {nil, func(p *api.TenantPolicy) { p.Phase = "Suspended" }, policy.TenantSuspended},
		"deleted":            {nil, func(p *api.TenantPolicy) { p.Phase = "Deleting" }, policy.TenantDeleted},
		"no cell yet":        {nil, func(p *api.TenantPolicy) { p.Phase = "Provisioning" }, policy.EnforcementUnavailable},
		"unknown cell":       {nil, func(p *api.TenantPolicy) { p.Placement.Cell = "gone" }, policy.EnforcementUnavailable},
		"residency":          {nil, func(p *api.TenantPolicy) { p.Residency = "eu" }, policy.Residency},
		"unknown listener":   {func(r *Request) { r.Listener = "other" }, nil, policy.EnforcementUnavailable},
		"residency is right": {nil, func(p *api.TenantPolicy) { p.Residency, p.Placement.Cell = "eu", "eu-1" }, policy.Permitted},
	} {
		var changes []func(*api.TenantPolicy)
		if test.tenant != nil {
			changes = append(changes, test.tenant)
		}
		r := gatewayRequest()
		if test.request != nil {
			test.request(r)
		}
		newWorld(t, self(), changes...).want(name, r, test.reason)
	}
	w = newWorld(t, self())
	w.signer = nil
	w.want("no key in force", gatewayRequest(), policy.EnforcementUnavailable)
	if n := w.decider.Limiter.Leases(start); n != 0 {
		t.Errorf("a refusal holds %d leases", n)
	}
	w.decider.Sets.Store(nil)
	w.want("nothing was pushed", gatewayRequest(), policy.EnforcementUnavailable)
}

func (w *world) token(change ...func(*tenanttoken.Claims)) string {
	w.t.Helper()
	acme, err := identity.ParseTenantID("acme")
	check(w.t, err)
	claims := tenanttoken.Claims{Audience: "mesh.example", IssuedAt: start, Expiry: start.Add(5 * time.Minute), Txn: "txn", Context: tenanttoken.Context{
		Tenant: acme, UID: "uid-1", Tier: "gold", Cell: "us-1", Epoch: 7, Role: tenanttoken.Owner, Purpose: tenanttoken.Request,
		Keys: []string{tenanttoken.KeyDigest("id-1"), tenanttoken.KeyDigest(trace)},
	}}
	for _, f := range change {
		f(&claims)
	}
	token, err := w.signer.Sign(claims)
	check(w.t, err)
	return token
}

const trace = "0123456789abcdef0123456789abcdef"

func (w *world) inbound(token string, change ...func(*Request)) *Request {
	r := &Request{Listener: meshname.ListenerInbound, Method: "GET", Path: "/x", Peer: edge, Lease: "l", Headers: HeadersOf(map[string][]string{
		"txn-token": {token}, "x-request-id": {"id-1"}, "traceparent": {"00-" + trace + "-0123456789abcdef-01"},
	})}
	for _, f := range change {
		f(r)
	}
	return r
}

func sidecar() *api.ProxyConfig {
	return &api.ProxyConfig{
		Role: "sidecar", Cell: "us-1", Workload: "front", Principal: "spiffe://mesh.example/cell/us-1/workload/front",
		Peers:     []string{edge, neighbour, reports, other},
		DependsOn: []*api.Dependency{{Kind: "workload", Name: "back"}, {Kind: "workload", Name: "open", Tenancy: "untenanted"}, {Kind: "dependency", Name: "mail"}},
	}
}

func TestInbound(t *testing.T) {
	w := newWorld(t, sidecar())
	a := w.want("good", w.inbound(w.token()), policy.Permitted)
	if a.Fields.Get("x-tenant-id") != "acme" || a.Fields.Get("x-tenant-tier") != "gold" || a.Decision.Rule != "p" {
		t.Errorf("the answer is %+v", a)
	}
	if w.decider.InFlight.Open() != 1 {
		t.Errorf("%d requests are open, want 1", w.decider.InFlight.Open())
	}
	w.decider.End(Ended{Lease: "l", BytesSent: 10, Status: 503})
	w.decider.End(Ended{Lease: "l", BytesSent: 10, Status: 503})
	if usage := w.meter.Take(); len(usage) != 1 || usage[0].Requests != 1 || usage[0].Errors != 1 || usage[0].BytesSent != 10 {
		t.Errorf("a request that ended twice is counted as %+v", usage)
	}
	for name, test := range map[string]struct {
		claims  func(*tenanttoken.Claims)
		request func(*Request)
		tenant  func(*api.TenantPolicy)
		reason  policy.Reason
	}{
		"no peer":              {nil, func(r *Request) { r.Peer = "" }, nil, policy.UnauthenticatedPeer},
		"a peer of elsewhere":  {nil, func(r *Request) { r.Peer = "spiffe://other.example/gateway/edge" }, nil, policy.UnauthenticatedPeer},
		"a peer that is gone":  {nil, func(r *Request) { r.Peer = "spiffe://mesh.example/cell/us-1/workload/gone" }, nil, policy.UnauthenticatedPeer},
		"no context":           {nil, func(r *Request) { r.Headers = Headers{} }, nil, policy.ContextMissing},
		"two contexts":         {nil, func(r *Request) { r.Headers.Add("txn-token", "x") }, nil, policy.ContextMissing},
		"altered":              {nil, func(r *Request) { r.Headers[slot("txn-token")].value += "A" }, nil, policy.ContextForeign},
		"expired":              {func(c *tenanttoken.Claims) { c.IssuedAt, c.Expiry = start.Add(-time.Minute), start }, nil, nil, policy.ContextMissing},
		"other trust domain":   {func(c *tenanttoken.Claims) { c.Audience = "other.example" }, nil, nil, policy.ContextForeign},
		"other cell":           {func(c *tenanttoken.Claims) { c.Context.Cell = "eu-1" }, nil, nil, policy.Misdirected},
		"older epoch":          {func(c *tenanttoken.Claims) { c.Context.Epoch = 6 }, nil, nil, policy.Misdirected},
		"newer epoch":          {func(c *tenanttoken.Claims) { c.Context.Epoch = 8 }, nil, nil, policy.Permitted},
		"moved away":           {nil, nil, func(p *api.TenantPolicy) { p.Placement.Cell = "us-2" }, policy.Misdirected},
		"moved here, not told": {func(c *tenanttoken.Claims) { c.Context.Epoch = 8 }, nil, func(p *api.TenantPolicy) { p.Placement.Cell = "us-2" }, policy.Permitted},
		"a replica":            {func(c *tenanttoken.Claims) { c.Context.Role = tenanttoken.Replica }, nil, nil, policy.DeniedByPolicy},
		"other incarnation":    {func(c *tenanttoken.Claims) { c.Context.UID = "uid-0" }, nil, nil, policy.TenantDeleted},
		"unknown tenant":       {func(c *tenanttoken.Claims) { c.Context.Tenant, _ = identity.ParseTenantID("hooli") }, nil, nil, policy.TenantUnknown},
		"suspended":            {nil, nil, func(p *api.TenantPolicy) { p.Phase = "Suspended" }, policy.TenantSuspended},
		"residency":            {nil, nil, func(p *api.TenantPolicy) { p.Residency = "eu" }, policy.Residency},
		"no permit":            {nil, func(r *Request) { r.Peer = "spiffe://mesh.example/cell/us-1/workload/other" }, nil, policy.DeniedByPolicy},
		"no lease":             {nil, func(r *Request) { r.Lease = "" }, nil, policy.Overloaded},
	} {
		var changes []func(*api.TenantPolicy)
		if test.tenant != nil {
			changes = append(changes, test.tenant)
		}
		w := newWorld(t, sidecar(), changes...)
		token := w.token()
		if test.claims != nil {
			token = w.token(test.claims)
		}
		r := w.inbound(token)
		if test.request != nil {
			test.request(r)
		}
		w.want(name, r, test.reason)
	}
	for _, tenancy := range []string{"observe", "untenanted"} {
		self := sidecar()
		self.Tenancy = tenancy
		w := newWorld(t, self)
		a := w.want(tenancy, w.inbound("", func(r *Request) { r.Headers = Headers{} }), policy.Permitted)
		if a.Fields.Get("x-tenant-id") != "" || len(a.Fields.All()) == 0 {
			t.Errorf("%s: without a context the answer changes %v", tenancy, a.Fields.All())
		}
	}
	self := sidecar()
	self.DeliverContext = true
	w = newWorld(t, self)
	if a := w.want("delivered", w.inbound(w.token()), policy.Permitted); a.Fields.Removes("txn-token") {
		t.Error("with deliverContext the context is removed")
	}
}

func outbound(target string, headers map[string][]string) *Request {
	return &Request{Listener: meshname.ListenerOutbound, Target: target, Method: "GET", Path: "/", Lease: "out", Headers: HeadersOf(headers)}
}

func TestOutbound(t *testing.T) {
	w := newWorld(t, sidecar())
	token := w.token()
	w.want("inbound", w.inbound(token), policy.Permitted)
	proofs := map[string]map[string][]string{
		"txn-token":    {"txn-token": {token}},
		"traceparent":  {"traceparent": {"00-" + trace + "-ffffffffffffffff-00"}},
		"x-request-id": {"x-request-id": {"id-1"}},
	}
	for name, headers := range proofs {
		a := w.want(name, outbound("workload/back", headers), policy.Permitted)
		if a.Fields.Get("txn-token") != token {
			t.Errorf("%s: the context is not the one that came", name)
		}
		if a := w.want(name+" to a dependency", outbound("dependency/mail", headers), policy.Permitted); a.Fields.Get("txn-token") != "" {
			t.Errorf("%s: the context leaves the mesh", name)
		}
	}
	w.want("not listed", outbound("", proofs["traceparent"]), policy.DeniedByPolicy)
	w.want("nothing", outbound("workload/back", nil), policy.ContextMissing)
	w.want("nothing, to who needs none", outbound("workload/open", nil), policy.Permitted)
	w.want("two contexts", outbound("workload/back", map[string][]string{"txn-token": {token, token}}), policy.ContextUnattributed)
	w.want("another's context", outbound("workload/back", map[string][]string{"txn-token": {w.token(func(c *tenanttoken.Claims) { c.Txn = "other" })}}), policy.ContextUnattributed)

	// globex, with acme's trace ID: it is refused for both.
	globex, _ := identity.ParseTenantID("globex")
	second := w.token(func(c *tenanttoken.Claims) { c.Context.Tenant, c.Context.UID = globex, "uid-2" })
	w.want("globex, same trace ID", w.inbound(second, func(r *Request) { r.Lease, r.Headers[slot("x-request-id")].n = "l2", 0 }), policy.Permitted)
	w.want("a trace ID of two tenants", outbound("workload/back", proofs["traceparent"]), policy.ContextUnattributed)
	w.want("acme's request ID still", outbound("workload/back", proofs["x-request-id"]), policy.Permitted)

	// After the request has ended its calls count for the grace, and then not.
	w.decider.End(Ended{Lease: "l"})
	w.want("just closed", outbound("workload/back", proofs["x-request-id"]), policy.Permitted)
	w.now = start.Add(6 * time.Second)
	w.want("long closed", outbound("workload/back", proofs["x-request-id"]), policy.ContextMissing)

	w = newWorld(t, sidecar())
	w.want("inbound", w.inbound(w.token()), policy.Permitted)
	w.now = start.Add(6 * time.Minute)
	w.want("the context has expired", outbound("workload/back", proofs["x-request-id"]), policy.ContextMissing)
}

func TestOutboundBound(t *testing.T) {
	self := sidecar()
	self.BoundTenant = "acme"
	w := newWorld(t, self)
	if a := w.want("bound", outbound("workload/back", nil), policy.Permitted); a.Fields.Get("txn-token") == "" || a.Decision.Tenant != "acme" {
		t.Errorf("the answer is %+v", a)
	}
	w.want("second", outbound("workload/back", nil), policy.Permitted)
	w.want("over the burst", outbound("workload/back", nil), policy.RateLimited)
	w = newWorld(t, self, func(p *api.TenantPolicy) { p.Placement.Cell = "us-2" })
	w.want("owned elsewhere", outbound("workload/back", nil), policy.Misdirected)
	w = newWorld(t, self, func(p *api.TenantPolicy) { p.Phase = "Suspended" })
	w.want("suspended", outbound("workload/back", nil), policy.TenantSuspended)
	w = newWorld(t, self)
	w.signer = nil
	w.want("no key", outbound("workload/back", nil), policy.EnforcementUnavailable)
}

// TestStaleness: what must not outlive the control plane lapses, the rest stays.
func TestStaleness(t *testing.T) {
	w := newWorld(t, &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}})
	unknown := func(r *Request) { r.Tokens = verified("login", payload{"org": "new"}); r.Lease = "u" }
	speaks, err := w.decider.Sets.Load().With([]policyset.Change{{TypeURL: meshname.TypeTokenIssuer, Name: "login", Message: &api.TokenIssuer{Name: "login", TenantClaim: "org", Tenants: []string{"*"}, Jwks: logins()[0].jwks}}}, 43)
	check(t, err)
	w.decider.Sets.Store(speaks)
	w.decider.Sets.Heard(start)
	w.now = start.Add(2 * time.Second)
	w.want("an unknown tenant", gatewayRequest(unknown), policy.TenantUnknown)
	w.now = start.Add(6 * time.Second)
	if a := w.want("an unknown tenant, and nobody to ask", gatewayRequest(unknown), policy.EnforcementUnavailable); a.Decision.RetryAfter == 0 {
		t.Error("it has no Retry-After")
	}
	w.now = start.Add(20 * time.Minute)
	w.want("a known tenant after 20 minutes", gatewayRequest(), policy.Permitted)
	w.now = start.Add(25 * time.Hour)
	w.want("after a day", gatewayRequest(func(r *Request) { r.Lease = "d" }), policy.UnauthenticatedTenant)
}

// TestGrantLapses: an AccessGrant holds for five minutes without the control plane, a policy for good.
func TestGrantLapses(t *testing.T) {
	w := newWorld(t, sidecar())
	granted, err := w.decider.Sets.Load().With([]policyset.Change{{TypeURL: meshname.TypeAccessPolicy, Name: "p", Message: &api.AccessPolicy{
		Name: "grant/g", Effect: "Permit", Principals: []string{edge}, Targets: []*api.Target{{Workload: "front"}}, NotAfter: timestamppb.New(start.Add(24 * time.Hour)),
	}}}, 43)
	check(t, err)
	w.decider.Sets.Store(granted)
	w.decider.Sets.Heard(start)
	w.now = start.Add(4 * time.Minute)
	with := func(lease string, reasons ...string) *Request {
		return w.inbound(w.token(), func(r *Request) {
			r.Lease = lease
			for _, reason := range reasons {
				r.Headers.Add(propagation.HeaderPurpose, reason)
			}
		})
	}
	answer := w.want("within the bound", with("1", "ticket 7"), policy.Permitted)
	if !answer.Fields.Removes(propagation.HeaderPurpose) {
		t.Error("the service gets the reason for which the grant is used")
	}
	for name, reasons := range map[string][]string{"none": nil, "empty": {" "}, "two": {"a", "b"}, "a line": {"a\nb"}, "long": {strings.Repeat("x", maxPurpose+1)}} {
		w.want(name, with("r"+name, reasons...), policy.DeniedByPolicy)
	}
	w.decider.Sets.Heard(start.Add(-2 * time.Minute))
	w.want("past it", with("2", "ticket 7"), policy.DeniedByPolicy)
}

// TestHungUp: a request whose end comes first holds nothing, and what needs no memory leaves none.
func TestHungUp(t *testing.T) {
	w := newWorld(t, sidecar(), func(p *api.TenantPolicy) {
		p.Limits = &api.Limits{Classes: map[string]*api.ClassLimit{"exports": {Concurrency: 1}}}
	})
	w.decider.End(Ended{Lease: "l"})
	w.want("ended before", w.inbound(w.token()), policy.Overloaded)
	if w.decider.InFlight.Open() != 0 || w.decider.Limiter.Leases(w.now) != 0 || w.decider.Attribution.Len() != 0 {
		t.Errorf("%d open, %d leases, %d attributable", w.decider.InFlight.Open(), w.decider.Limiter.Leases(w.now), w.decider.Attribution.Len())
	}
	w.want("good", w.inbound(w.token()), policy.Permitted)
	if w.decider.EnvoyEnded(); w.decider.InFlight.Open() != 0 || w.decider.Attribution.Len() != 0 {
		t.Error("requests outlive their Envoy")
	}
	bound := sidecar()
	bound.BoundTenant = "acme"
	w = newWorld(t, bound)
	call := &Request{Listener: meshname.ListenerOutbound, Target: "workload/back", Method: "GET", Path: "/", Lease: "o"}
	w.decider.End(Ended{Lease: "o"})
	w.want("a bound call that ended before", call, policy.Overloaded)
	if n := w.decider.Limiter.Leases(w.now); n != 0 {
		t.Errorf("%d leases", n)
	}
	w.want("a bound call", call, policy.Permitted)
	if n := w.decider.Limiter.Leases(w.now); n != 1 {
		t.Errorf("%d leases, want 1", n)
	}
	w.decider.End(Ended{Lease: "o", Settled: true})
	if n := w.decider.Limiter.Leases(w.now); n != 0 {
		t.Errorf("%d leases after the end", n)
	}
}

// TestLimitedIsExplained: who is refused by a limit was let in by a policy, and explain names both.
func TestLimitedIsExplained(t *testing.T) {
	self := sidecar()
	self.Classes = []*api.Class{{Name: "exports", Paths: []string{"/export"}}}
	w := newWorld(t, self, func(p *api.TenantPolicy) {
		p.Limits = &api.Limits{Classes: map[string]*api.ClassLimit{"exports": {Concurrency: 1}}}
	})
	request := w.inbound(w.token())
	request.Path = "/%65xport"
	w.want("the first", request, policy.Permitted)
	request.Lease = "l2"
	d := w.want("the second", request, policy.ConcurrencyLimited).Decision
	if d.Rule != "class concurrency" || len(d.Rules) != 1 || d.Rules[0].Rule != "p" || !d.Rules[0].Matched {
		t.Errorf("rule %q, rules %+v", d.Rule, d.Rules)
	}
	request.Path = "/%zz"
	w.want("a path that nobody can read", request, policy.DeniedByPolicy)
}
