package ratelimit

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// TestService asks over a Unix socket, as Envoy does.
func TestService(t *testing.T) {
	set, err := (*policyset.Set)(nil).With([]policyset.Change{{TypeURL: meshname.TypeTenantPolicy, Name: "acme", Message: &api.TenantPolicy{
		Tenant: "acme", Uid: "u", Limits: &api.Limits{RequestsPerSecond: 1, Burst: 2, Classes: map[string]*api.ClassLimit{"exports": {RequestsPerSecond: 1, Burst: 1}}},
	}}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	server := &Server{Sets: &policyset.Holder{}, Limiter: limit.New(limit.Options{}), Now: func() time.Time { return time.Unix(1e9, 0) }}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	rls.RegisterRateLimitServiceServer(g, server)
	go func() { _ = g.Serve(listener) }()
	defer g.Stop()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(tenant, class string) *rls.RateLimitResponse {
		t.Helper()
		entries := []*commonv3.RateLimitDescriptor_Entry{{Key: "tenant", Value: tenant}}
		if class != "" {
			entries = append(entries, &commonv3.RateLimitDescriptor_Entry{Key: "class", Value: class})
		}
		response, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(context.Background(), &rls.RateLimitRequest{Domain: Domain, Descriptors: []*commonv3.RateLimitDescriptor{{Entries: entries}}})
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	if ask("acme", "").OverallCode != rls.RateLimitResponse_OVER_LIMIT {
		t.Error("before anything was pushed a tenant is within its limit")
	}
	server.Sets.Store(set)
	for i, test := range []struct {
		tenant, class string
		want          rls.RateLimitResponse_Code
	}{
		{"acme", "", rls.RateLimitResponse_OK}, {"acme", "", rls.RateLimitResponse_OK}, {"acme", "", rls.RateLimitResponse_OVER_LIMIT},
		{"acme", "exports", rls.RateLimitResponse_OK}, {"acme", "exports", rls.RateLimitResponse_OVER_LIMIT}, {"nobody", "", rls.RateLimitResponse_OVER_LIMIT},
	} {
		if got := ask(test.tenant, test.class); got.OverallCode != test.want {
			t.Errorf("%d: %s %s: %v, want %v", i, test.tenant, test.class, got.OverallCode, test.want)
		}
	}

	// The check counts in the same limiter, and what counts as several does.
	later := time.Unix(1e9, 0).Add(time.Hour)
	server.Now = func() time.Time { return later }
	server.Limiter.Admit(later, &limit.Request{UID: "u", Limits: policy.Limits{RequestsPerSecond: 1, Burst: 2}, ChargeTenant: true})
	send := func(change func(*rls.RateLimitRequest)) (rls.RateLimitResponse_Code, codes.Code) {
		request := &rls.RateLimitRequest{Domain: Domain, Descriptors: []*commonv3.RateLimitDescriptor{{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "tenant", Value: "acme"}}}}}
		change(request)
		response, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(context.Background(), request)
		return response.GetOverallCode(), status.Code(err)
	}
	for i, test := range []struct {
		change func(*rls.RateLimitRequest)
		want   rls.RateLimitResponse_Code
		code   codes.Code
	}{
		{func(r *rls.RateLimitRequest) { r.HitsAddend = 2 }, rls.RateLimitResponse_OVER_LIMIT, codes.OK},
		{func(r *rls.RateLimitRequest) { r.HitsAddend, r.Descriptors[0].HitsAddend = 2, wrapperspb.UInt64(1) }, rls.RateLimitResponse_OK, codes.OK},
		{func(*rls.RateLimitRequest) {}, rls.RateLimitResponse_OVER_LIMIT, codes.OK},
		{func(r *rls.RateLimitRequest) { r.Domain = "other" }, 0, codes.InvalidArgument},
		{func(r *rls.RateLimitRequest) { r.Descriptors[0].IsNegativeHits = true }, 0, codes.InvalidArgument},
		{func(r *rls.RateLimitRequest) { r.Descriptors[0].Entries[0].Key = "user" }, 0, codes.InvalidArgument},
	} {
		if got, code := send(test.change); got != test.want || code != test.code {
			t.Errorf("hits %d: %v %v, want %v %v", i, got, code, test.want, test.code)
		}
	}
}
