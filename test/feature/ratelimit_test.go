package feature

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
)

// TestRateLimitService: an Envoy that is not the mesh's, and a client of its own, ask a gateway for a tenant's limit over mTLS,
// and it is the one that the gateway counts in.
func TestRateLimitService(t *testing.T) {
	ports, err := freeport.Take(3)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.GatewayAt(t, "gateway", "--ratelimit-address", address, "--ratelimit-clients", "spiffe://mesh.example/control")
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	w.Apply(t, globex("limits: {requestsPerSecond: 0.01, burst: 10}"))
	source, err := svid.Open(t.Context(), w.WorkloadAPI())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	edge, err := identity.GatewayID("mesh.example", "edge")
	if err != nil {
		t.Fatal(err)
	}

	// By a client of its own: 6 of the 10.
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(svid.ClientTLS(source, svid.AuthorizeIDs(edge)))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(change func(*rls.RateLimitRequest), entries ...string) (*rls.RateLimitResponse, error) {
		d := &commonv3.RateLimitDescriptor{}
		for i := 0; i < len(entries); i += 2 {
			d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
		}
		request := &rls.RateLimitRequest{Domain: "tenantmesh", Descriptors: []*commonv3.RateLimitDescriptor{d}}
		change(request)
		return rls.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), request)
	}
	six := func(r *rls.RateLimitRequest) { r.HitsAddend = 6 }
	response, err := ask(six, "tenant", "globex")
	if err != nil || response.OverallCode != rls.RateLimitResponse_OK || response.Statuses[0].LimitRemaining != 4 {
		t.Fatalf("6 of 10: %v, %v", response, err)
	}
	headers := map[string]string{}
	for _, h := range response.ResponseHeadersToAdd {
		headers[strings.ToLower(h.Key)] = h.Value
	}
	if !strings.HasPrefix(headers["ratelimit-policy"], `"tenant-rate";q=10;w=1000;pk=:`) || !strings.HasPrefix(headers["ratelimit"], `"tenant-rate";r=4;t=600;pk=:`) {
		t.Errorf("the headers are %v", headers)
	}
	if response, err = ask(six, "tenant", "globex"); err != nil || response.OverallCode != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("6 of 4: %v, %v", response, err)
	}
	for what, call := range map[string]func() (*rls.RateLimitResponse, error){
		"another domain": func() (*rls.RateLimitResponse, error) {
			return ask(func(r *rls.RateLimitRequest) { r.Domain = "other" }, "tenant", "globex")
		},
		"a class, at a gateway": func() (*rls.RateLimitResponse, error) {
			return ask(func(*rls.RateLimitRequest) {}, "tenant", "globex", "class", "exports")
		},
		"a descriptor of its own": func() (*rls.RateLimitResponse, error) { return ask(func(*rls.RateLimitRequest) {}, "user", "alice") },
		"a limit that it brings": func() (*rls.RateLimitResponse, error) {
			return ask(func(r *rls.RateLimitRequest) {
				r.Descriptors[0].Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{}
			}, "tenant", "globex")
		},
	} {
		if _, err := call(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}

	// By an Envoy with the rate limit filter: 3 of the 4 that are left, and through the gateway 1.
	envoy := foreignEnvoy(t, source, address, ports[1], ports[2])
	for i := range 3 {
		want(t, fmt.Sprint("through the gateway and the other Envoy, ", i), asTenant(t, envoy, "globex"), 200, "")
	}
	want(t, "through the gateway", w.Get(t, w.gateway.URL+"/front/x", "globex"), 200, "")
	if r := asTenant(t, envoy, "globex"); r.Status != http.StatusTooManyRequests || !strings.HasPrefix(r.Header.Get("RateLimit"), `"tenant-rate";r=0;t=100;pk=:`) || r.Header.Get("Retry-After") == "" {
		t.Errorf("the 11th: %d %v", r.Status, r.Header)
	}
	want(t, "the 12th, through the gateway", w.Get(t, w.gateway.URL+"/front/x", "globex"), 429, "rate_limited")
	if r := asTenant(t, envoy, "nobody"); r.Status != http.StatusTooManyRequests {
		t.Errorf("a tenant that there is not: %d", r.Status)
	}

	// Who shows no identity may not ask.
	other, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := rls.NewRateLimitServiceClient(other).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "tenantmesh"}); status.Code(err) != codes.Unavailable {
		t.Errorf("without an identity: %v", err)
	}
}

func asTenant(t *testing.T, envoy, tenant string) meshtest.Response {
	t.Helper()
	return meshtest.Do(t, nil, http.MethodGet, envoy, http.Header{"X-Tenant": {tenant}}, nil)
}

// foreignEnvoy is an Envoy before a service of its own, which asks for the limit of the tenant that a header names.
func foreignEnvoy(t *testing.T, source *svid.Source, limits string, port, admin int) (address string) {
	t.Helper()
	service := httptest.NewServer(http.HandlerFunc(tell))
	t.Cleanup(service.Close)
	u, err := url.Parse(service.URL)
	if err != nil {
		t.Fatal(err)
	}
	own, err := source.X509SVID()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := source.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := own.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var roots bytes.Buffer
	for _, c := range bundle.X509Authorities() {
		if err := pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for name, text := range map[string][]byte{"chain.pem": chain, "key.pem": key, "roots.pem": roots.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, rlsPort, _ := strings.Cut(limits, ":")
	config := fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route:
                  cluster: service
                  rate_limits:
                  - actions: [{request_headers: {header_name: x-tenant, descriptor_key: tenant}}]
          http_filters:
          - name: envoy.filters.http.ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: tenantmesh
              failure_mode_deny: true
              timeout: 5s
              rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limits}}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: service
    load_assignment: {cluster_name: service, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
  - name: limits
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: limits, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          tls_certificates: [{certificate_chain: {filename: %[6]s/chain.pem}, private_key: {filename: %[6]s/key.pem}}]
          validation_context:
            trusted_ca: {filename: %[6]s/roots.pem}
            match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://mesh.example/gateway/edge"}}]
`, admin, port, u.Port(), host, rlsPort, dir)
	path := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	binary, _, err := bootstrap.FindEnvoy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "-c", path, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the other Envoy: %s", log.String())
		}
	})
	until(t, func() bool {
		client := http.Client{Timeout: time.Second}
		response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", admin))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return fmt.Sprintf("http://127.0.0.1:%d/x", port)
}
