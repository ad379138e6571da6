package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar"
	"github.com/tenantmesh/tenantmesh/sidecar/accesslog"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
	"github.com/tenantmesh/tenantmesh/sidecar/extauthz"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/shadow"
)

const (
	trustDomain = "bench.example"
	policies    = 1000
	gatewayID   = "spiffe://" + trustDomain + "/gateway/edge"
)

// counts is what a floor's servers have seen.
type counts struct {
	Checks  atomic.Int64
	Entries atomic.Int64 // of the access log
	Streams atomic.Int64 // of ext_proc that were opened
	Ended   atomic.Int64 // of those
}

// ServeHTTP tells them.
func (c *counts) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, c.Checks.Load(), c.Entries.Load(), c.Streams.Load(), c.Ended.Load())
}

// floor always allows.
type floor struct {
	auth.UnimplementedAuthorizationServer
	*counts
}

func (f floor) Check(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	f.Checks.Add(1)
	return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{}}}, nil
}

// floorLog takes each entry of an access log, and does nothing with it.
type floorLog struct {
	logv3.UnimplementedAccessLogServiceServer
	*counts
}

func (f floorLog) StreamAccessLogs(stream logv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		f.Entries.Add(int64(len(message.GetHttpLogs().GetLogEntry())))
	}
}

// floorProcessor lets everything go on.
type floorProcessor struct {
	procv3.UnimplementedExternalProcessorServer
	*counts
}

func (f floorProcessor) Process(stream procv3.ExternalProcessor_ProcessServer) error {
	f.Streams.Add(1)
	defer f.Ended.Add(1)
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestHeaders{RequestHeaders: &procv3.HeadersResponse{}}}
		if message.GetResponseTrailers() != nil {
			answer.Response = &procv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &procv3.TrailersResponse{}}
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// ending decides as the product does, and ends each request at once, as the access log would.
type ending struct{ *decide.Decider }

func (e ending) Decide(request *decide.Request) decide.Answer {
	answer := e.Decider.Decide(request)
	e.End(decide.Ended{Lease: request.Lease})
	return answer
}

// key signs the contexts of this run: the server and the client are started with the same one.
func key() (tenanttoken.SigningKey, error) {
	return tenanttoken.LoadOrCreateKey(os.Getenv("BENCH_KEY"), 24*time.Hour, time.Now())
}

// decider is the product's decision, with a thousand policies and a log that is encoded and thrown away.
func decider(listener string, k tenanttoken.SigningKey, tenants int) (*decide.Decider, error) {
	self := &api.ProxyConfig{
		Role: "sidecar", TrustDomain: trustDomain, Principal: "spiffe://" + trustDomain + "/cell/us-1/workload/front", Cell: "us-1", Workload: "front", Peers: []string{gatewayID},
	}
	if listener == meshname.ListenerGateway {
		self = &api.ProxyConfig{Role: "gateway", TrustDomain: trustDomain, Cells: map[string]string{"us-1": ""}}
	}
	changes := []policyset.Change{
		{TypeURL: meshname.TypeProxyConfig, Name: "self", Message: self},
		{TypeURL: meshname.TypeSignerKey, Name: k.KID, Message: &api.SignerKey{Kid: k.KID, Principal: gatewayID, PublicKey: k.Public(), Role: "gateway", NotAfter: timestamppb.New(k.NotAfter)}},
		{TypeURL: meshname.TypeTokenIssuer, Name: "login", Message: &api.TokenIssuer{Name: "login", TenantClaim: "tenant", Tenants: []string{"*"}}},
	}
	for i := range policies {
		changes = append(changes, policyset.Change{TypeURL: meshname.TypeAccessPolicy, Name: fmt.Sprint("p", i), Message: &api.AccessPolicy{
			Name: fmt.Sprintf("p%03d", i), Effect: "Permit", Principals: []string{fmt.Sprintf("spiffe://%s/cell/*/workload/w%d", trustDomain, i)}, Targets: []*api.Target{{Workload: "front"}},
		}})
	}
	changes = append(changes, policyset.Change{TypeURL: meshname.TypeAccessPolicy, Name: "z", Message: &api.AccessPolicy{
		Name: "z", Effect: "Permit", Principals: []string{"spiffe://" + trustDomain + "/gateway/*"}, Targets: []*api.Target{{Workload: "front", Methods: []string{"GET"}, Paths: []string{"/front/**"}}},
	}})
	for i := range tenants {
		changes = append(changes, tenantChange(i))
	}
	set, err := (*policyset.Set)(nil).With(changes, 1)
	if err != nil {
		return nil, err
	}
	sets := &policyset.Holder{}
	sets.Store(set)
	principal, err := identity.ParsePrincipal(gatewayID)
	if err != nil {
		return nil, err
	}
	signer, err := tenanttoken.NewSigner(k, principal)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), &zapcore.BufferedWriteSyncer{WS: null}, zap.InfoLevel))
	return decide.New(decide.Config{
		Sets: sets, Limiter: limit.New(limit.Options{}), Attribution: attribution.New(attribution.Options{}), InFlight: inflight.New(inflight.Options{}), Log: decisionlog.New("0123456789abcdef", log),
		Meter: ledger.NewMeter(), Signer: func() *tenanttoken.Signer { return signer }, Metrics: decide.NewMetrics(prometheus.NewRegistry()), Now: time.Now,
		Uses: shadow.New(), Coverage: coverage.New(), // as the product counts
	}), nil
}

func tenantName(i int) string { return fmt.Sprintf("tenant-%05d", i) }

func tenantChange(i int) policyset.Change {
	return policyset.Change{TypeURL: meshname.TypeTenantPolicy, Name: tenantName(i), Message: &api.TenantPolicy{
		Tenant: tenantName(i), Uid: "uid-" + tenantName(i), Tier: "gold", Labels: map[string]string{"plan": "paid"}, Phase: "Active",
		Placement: &api.Placement{State: "ACTIVE", Cell: "us-1", Epoch: 1},
		Limits:    &api.Limits{RequestsPerSecond: 1e6, Burst: 1e6, Concurrency: 1e6, Classes: map[string]*api.ClassLimit{"exports": {Concurrency: 4}}},
	}}
}

// countsSuffix makes of a server's socket the one at which it tells its counts.
const countsSuffix = ".counts"

func serveChecks(kind, socket string, tenants int) error {
	debug.SetGCPercent(400) // as the product's, for the floor too
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if kind == "floor" {
		g := grpc.NewServer(grpc.MaxConcurrentStreams(4096))
		c := &counts{}
		auth.RegisterAuthorizationServer(g, floor{counts: c})
		logv3.RegisterAccessLogServiceServer(g, floorLog{counts: c})
		procv3.RegisterExternalProcessorServer(g, floorProcessor{counts: c})
		told, err := net.Listen("unix", socket+countsSuffix)
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(told, c) }() //nolint:gosec // asked by this program alone, until it kills the server
		return g.Serve(listener)
	}
	k, err := key()
	if err != nil {
		return err
	}
	g := grpc.NewServer(sidecar.ServerOptions()...)
	name := meshname.ListenerInbound
	if kind == "gateway" || kind == "gateway-logged" {
		name = meshname.ListenerGateway
	}
	d, err := decider(name, k, tenants)
	if err != nil {
		return err
	}
	if kind == "gateway-logged" { // a real Envoy ends its requests by its access log
		extauthz.Register(g, d)
		accesslog.Register(g, d)
	} else {
		extauthz.Register(g, ending{d})
	}
	return g.Serve(listener)
}

// requests make checks of a kind, each with a lease of its own.
type requests struct {
	kind   string
	signer *tenanttoken.Signer
	seen   []call // by tenant
	n      atomic.Int64
	zipf   *mathrand.Zipf // nil: all in turn
}

// zipfExponent is that of the tenants' shares of the requests.
const zipfExponent = 1.1

// call is what is known of a transaction: its context, and the IDs that its gateway vouches for in it.
type call struct{ token, trace, id string }

func newRequests(s subject) (*requests, error) {
	r := &requests{kind: s.kind}
	if s.zipf {
		r.zipf = mathrand.NewZipf(mathrand.New(mathrand.NewPCG(1, 2)), zipfExponent, 1, uint64(s.tenants-1)) //nolint:gosec // the same in each run
	}
	k, err := key()
	if err != nil {
		return nil, err
	}
	principal, err := identity.ParsePrincipal(gatewayID)
	if err != nil {
		return nil, err
	}
	if r.signer, err = tenanttoken.NewSigner(k, principal); err != nil {
		return nil, err
	}
	for i := range s.tenants {
		c, err := r.call(i)
		if err != nil {
			return nil, err
		}
		r.seen = append(r.seen, c)
	}
	return r, nil
}

func (r *requests) call(i int) (call, error) {
	id, err := identity.ParseTenantID(tenantName(i))
	if err != nil {
		return call{}, err
	}
	now, c := time.Now(), call{trace: random(), id: random()}
	c.token, err = r.signer.Sign(tenanttoken.Claims{
		Audience: trustDomain, IssuedAt: now, Expiry: now.Add(5 * time.Minute), Txn: random(), Subject: "alice",
		Context: tenanttoken.Context{Tenant: id, UID: "uid-" + tenantName(i), Tier: "gold", Cell: "us-1", Epoch: 1, Role: tenanttoken.Owner, Purpose: tenanttoken.Request, Keys: []string{tenanttoken.KeyDigest(c.trace), tenanttoken.KeyDigest(c.id)}},
	})
	return c, err
}

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// batch is as many checks as one measurement sends.
func (r *requests) batch() ([]*auth.CheckRequest, error) {
	checks := make([]*auth.CheckRequest, batch)
	for i := range checks {
		var err error
		if checks[i], err = r.next(); err != nil {
			return nil, err
		}
	}
	return checks, nil
}

// all is a check of each tenant.
func (r *requests) all() ([]*auth.CheckRequest, error) {
	checks := make([]*auth.CheckRequest, len(r.seen))
	for i := range checks {
		var err error
		if checks[i], err = r.of(i); err != nil {
			return nil, err
		}
	}
	return checks, nil
}

func (r *requests) next() (*auth.CheckRequest, error) {
	if r.zipf != nil {
		return r.of(int(r.zipf.Uint64()))
	}
	return r.of(int(r.n.Add(1)) % len(r.seen))
}

// of is a check of a tenant.
func (r *requests) of(i int) (*auth.CheckRequest, error) {
	c := r.seen[i]
	headers := map[string]string{
		":authority": "front", ":method": "GET", ":path": "/front/documents/1?page=2", ":scheme": "http", "user-agent": "bench/1.0", "accept": "*/*",
		"x-request-id": c.id, "traceparent": "00-" + c.trace + "-0123456789abcdef-01", "x-forwarded-proto": "http", "x-tenantmesh-lease": random(),
	}
	attributes := &auth.AttributeContext{
		Source:  &auth.AttributeContext_Peer{Principal: gatewayID},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/front/documents/1?page=2"}},
	}
	switch r.kind {
	case "gateway":
		attributes.ContextExtensions = map[string]string{meshname.ExtensionListener: meshname.ListenerGateway, meshname.ExtensionTarget: "workload/front"}
		payload, err := structpb.NewStruct(map[string]any{"iss": "https://login", "sub": "alice", "tenant": tenantName(i), "aud": "bench", "exp": 1e10})
		if err != nil {
			return nil, err
		}
		attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			meshname.MetadataJWT: {Fields: map[string]*structpb.Value{meshname.MetadataJWTPayload("login"): structpb.NewStructValue(payload)}},
		}}
	default:
		attributes.ContextExtensions = map[string]string{meshname.ExtensionListener: meshname.ListenerInbound}
		if r.kind == "inbound-new" {
			var err error
			if c, err = r.call(i); err != nil {
				return nil, err
			}
			headers["x-request-id"], headers["traceparent"] = c.id, "00-"+c.trace+"-0123456789abcdef-01"
		}
		headers["txn-token"] = c.token
	}
	list := &corev3.HeaderMap{}
	for name, value := range headers {
		list.Headers = append(list.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	attributes.Request.Http.HeaderMap = list
	return &auth.CheckRequest{Attributes: attributes}, nil
}
