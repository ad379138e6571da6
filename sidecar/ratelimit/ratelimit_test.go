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
	"google.golang.org/grpc/credentials/insecure"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
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
		response, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(context.Background(), &rls.RateLimitRequest{Descriptors: []*commonv3.RateLimitDescriptor{{Entries: entries}}})
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
}
