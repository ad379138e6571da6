package adversarial

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// typeURLs are all that is pushed, and one that is not.
var typeURLs = []string{
	"type.googleapis.com/envoy.config.listener.v3.Listener", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	"type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration", "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
	"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	meshname.TypeTenantPolicy, meshname.TypeAccessPolicy, meshname.TypeSignerKey, meshname.TypeTokenIssuer, meshname.TypeProxyConfig,
	"type.googleapis.com/envoy.service.runtime.v3.Runtime", "type.googleapis.com/tenantmesh.v1alpha1.Unknown",
}

// notTheirs are names of resources of the gateway, of another cell, and of other workloads: of them front of us-1 may see
// none. Each sort of resource has some of these.
var notTheirs = []string{
	"gateway", "egress", "gateway/us-1", "gateway/-", "gateway/move", "gateway/jwt_authn", "cell/eu-1/workload/go", "cell/us-1/workload/gunicorn", "cell/us-1/workload/node", "initech", "test", "mesh/svid", "self/other",
}

// stub is a client of the control plane under some identity.
func (w *world) stub(t *testing.T, as string, foreign bool) *grpc.ClientConn {
	t.Helper()
	var secured credentials.TransportCredentials
	if as == "" {
		secured = insecure.NewCredentials()
	} else {
		secured = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{w.Forged(t, []string{as}, foreign)}, MinVersion: tls.VersionTLS13})
	}
	conn, err := grpc.NewClient(w.Control(), grpc.WithTransportCredentials(secured))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

const frontID = "spiffe://mesh.example/cell/us-1/workload/front"

// ask subscribes to names of a type (none: to all) as somebody, and returns what came before it was quiet.
func (w *world) ask(t *testing.T, as string, foreign bool, typeURL string, names []string, node string) (got []string, bodies []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-client-cert", "URI=spiffe://mesh.example/gateway/edge"), 10*time.Second)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(w.stub(t, as, foreign)).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, nil, err
	}
	request := &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, Node: &core.Node{Id: node, Cluster: "gateway"}, ResourceNamesSubscribe: names}
	if len(names) == 0 {
		request.ResourceNamesSubscribe = []string{"*"}
	}
	// What is known to be there comes after it: what was asked for came, or does not come.
	err = stream.Send(request)
	if err == nil && typeURL != meshname.TypeProxyConfig {
		err = stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: meshname.TypeProxyConfig, ResourceNamesSubscribe: []string{meshname.ProxyConfigName}})
	}
	for err == nil || errors.Is(err, io.EOF) {
		var response *discovery.DeltaDiscoveryResponse
		if response, err = stream.Recv(); err != nil {
			return got, bodies, err
		}
		for _, r := range response.Resources {
			if response.TypeUrl == typeURL {
				got, bodies = append(got, r.Name), append(bodies, r.Resource.GetValue()...)
			}
		}
		if response.TypeUrl == meshname.TypeProxyConfig {
			break
		}
	}
	return got, bodies, err
}

// askForMore: nobody gets from the control plane what is not its own, on any RPC, of any type, under any name.
func (w *world) askForMore(t *testing.T) {
	for _, typeURL := range typeURLs {
		for what, names := range map[string][]string{"by name": notTheirs, "everything": nil} {
			t.Run("front asks "+what+" for "+typeURL[strings.LastIndexByte(typeURL, '.')+1:], func(t *testing.T) {
				got, bodies, err := w.ask(t, frontID, false, typeURL, names, "gateway")
				if err != nil {
					t.Fatal(err)
				}
				for _, problem := range foreignTo(got, bodies) {
					t.Error(problem)
				}
			})
		}
		for who, as := range strangers {
			t.Run(who+" asks for "+typeURL[strings.LastIndexByte(typeURL, '.')+1:], func(t *testing.T) {
				if got, _, err := w.ask(t, as.id, as.foreign, typeURL, nil, "gateway"); len(got) > 0 || err == nil {
					t.Errorf("%s got %v, %v", as.id, got, err)
				}
			})
		}
	}
	t.Run("state of the world", func(t *testing.T) {
		stream, err := discovery.NewAggregatedDiscoveryServiceClient(w.stub(t, frontID, false)).StreamAggregatedResources(t.Context())
		if err == nil {
			err = stream.Send(&discovery.DiscoveryRequest{TypeUrl: typeURLs[0]})
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
			t.Errorf("the answer is %v", err)
		}
		_ = err
	})
	t.Run("members", w.reportAsOthers)
	t.Run("quota", w.quotaOfOthers)
	t.Run("admin API", w.administer)
}

var strangers = map[string]struct {
	id      string
	foreign bool
}{
	"nobody": {"", false}, "another CA": {frontID, true}, "a workload that is not listed": {"spiffe://mesh.example/cell/us-1/workload/nobody", false},
	"another trust domain": {"spiffe://other.example/gateway/edge", false}, "a gateway of a longer name": {"spiffe://mesh.example/gateway/edge/x", false},
	"the control plane": {"spiffe://mesh.example/control", false}, "a cell that is not there": {"spiffe://mesh.example/cell/us-2/workload/front", false},
}

// foreignTo says what of some resources is not front's of us-1.
func foreignTo(names []string, bodies []byte) (problems []string) {
	for _, name := range names {
		if slices.Contains(notTheirs, name) || strings.HasPrefix(name, "gateway") {
			problems = append(problems, "front got "+name)
		}
	}
	for _, text := range []string{"eu-1", "initech", "gunicorn"} {
		// Policies name whom they are about; which policies there are, a workload that they name may know.
		if strings.Contains(string(bodies), text) && !strings.Contains(string(bodies), "spiffe://mesh.example/gateway/*") {
			problems = append(problems, fmt.Sprintf("front got something about %s", text))
		}
	}
	return problems
}

func memberID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// reportAsOthers: a member reports for itself only.
func (w *world) reportAsOthers(t *testing.T) {
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gateway := ""
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindMember && o.Member.Role == tenantstore.RoleGateway {
			gateway = key.Name
		}
	}
	own, err := tenanttoken.NewSigningKey(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	hello := func(id string) *api.MemberReport {
		return &api.MemberReport{Report: &api.MemberReport_Hello{Hello: &api.Hello{MemberId: id, Address: "127.0.0.1", Port: 1}}}
	}
	key := func(notAfter time.Time, kid string) *api.MemberReport {
		return &api.MemberReport{Report: &api.MemberReport_PublishKey{PublishKey: &api.PublishKey{Kid: kid, PublicKey: own.Public(), NotAfter: timestamppb.New(notAfter)}}}
	}
	for name, test := range map[string]struct {
		as      string
		foreign bool
		reports []*api.MemberReport
		code    codes.Code
	}{
		"the gateway's member ID":           {frontID, false, []*api.MemberReport{hello(gateway)}, codes.PermissionDenied},
		"no member ID":                      {frontID, false, []*api.MemberReport{hello("")}, codes.InvalidArgument},
		"a member ID that is a path":        {frontID, false, []*api.MemberReport{hello("../../member")}, codes.InvalidArgument},
		"a key, though bound to nobody":     {frontID, false, []*api.MemberReport{hello(memberID()), key(own.NotAfter, own.KID)}, codes.PermissionDenied},
		"a key under the ID of another":     {"spiffe://mesh.example/gateway/mallory", false, []*api.MemberReport{hello(memberID()), key(own.NotAfter, strings.Repeat("0", 32))}, codes.InvalidArgument},
		"a key for ever":                    {"spiffe://mesh.example/gateway/mallory", false, []*api.MemberReport{hello(memberID()), key(time.Now().Add(10*365*24*time.Hour), own.KID)}, codes.InvalidArgument},
		"a report before the hello":         {frontID, false, []*api.MemberReport{key(own.NotAfter, own.KID)}, codes.InvalidArgument},
		"a second hello as the gateway":     {frontID, false, []*api.MemberReport{hello(memberID()), hello(gateway)}, codes.InvalidArgument},
		"a workload that is not listed":     {"spiffe://mesh.example/cell/us-1/workload/nobody", false, []*api.MemberReport{hello(memberID())}, codes.PermissionDenied},
		"of another CA":                     {frontID, true, []*api.MemberReport{hello(memberID())}, codes.Unavailable},
		"of another trust domain":           {"spiffe://other.example/gateway/edge", false, []*api.MemberReport{hello(memberID())}, codes.Unavailable},
		"without a certificate":             {"", false, []*api.MemberReport{hello(memberID())}, codes.Unavailable},
		"an address that is not an address": {frontID, false, []*api.MemberReport{{Report: &api.MemberReport_Hello{Hello: &api.Hello{MemberId: memberID(), Address: "evil.example", Port: 1}}}}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stream, err := api.NewMemberServiceClient(w.stub(t, test.as, test.foreign)).Report(ctx)
			for i := 0; err == nil && i < len(test.reports); i++ {
				if err = stream.Send(test.reports[i]); errors.Is(err, io.EOF) {
					err = nil
				}
				if err == nil && i == 0 && len(test.reports) > 1 {
					_, err = stream.Recv() // the welcome
				}
			}
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != test.code {
				t.Errorf("the answer is %v, want %v", err, test.code)
			}
		})
	}
	after, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o := after.Objects[tenantstore.Key{Kind: tenantstore.KindSignerKey, Name: own.KID}]; o != nil {
		t.Errorf("the attacker's key is in force: %+v", o.SignerKey)
	}
}

// quotaOfOthers: a member asks for its own part of limits only.
func (w *world) quotaOfOthers(t *testing.T) {
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gateway := ""
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindMember && o.Member.Role == tenantstore.RoleGateway && o.Member.Principal == "spiffe://mesh.example/gateway/edge" {
			gateway = key.Name
		}
	}
	for name, test := range map[string]struct {
		as             string
		foreign        bool
		domain, member string
		code           codes.Code
	}{
		"the gateway's": {frontID, false, meshname.QuotaDomain, gateway, codes.PermissionDenied}, "of no member": {frontID, false, meshname.QuotaDomain, "", codes.InvalidArgument},
		"of another domain": {frontID, false, "other", gateway, codes.InvalidArgument}, "a stranger's": {"spiffe://mesh.example/x", false, meshname.QuotaDomain, gateway, codes.PermissionDenied},
		"of another CA": {"spiffe://mesh.example/gateway/edge", true, meshname.QuotaDomain, gateway, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stream, err := quota.NewRateLimitQuotaServiceClient(w.stub(t, test.as, test.foreign)).StreamRateLimitQuotas(ctx)
			if err == nil {
				_ = stream.Send(&quota.RateLimitQuotaUsageReports{Domain: test.domain, BucketQuotaUsages: []*quota.RateLimitQuotaUsageReports_BucketQuotaUsage{
					{BucketId: &quota.BucketId{Bucket: map[string]string{meshname.QuotaMember: test.member}}},
				}})
				var response *quota.RateLimitQuotaResponse
				if response, err = stream.Recv(); err == nil {
					t.Fatalf("the answer is %v", response)
				}
			}
			if status.Code(err) != test.code {
				t.Errorf("the answer is %v, want %v", err, test.code)
			}
		})
	}
}

// administer: a sidecar reads from the admin API what is pushed to it, and nothing else; others nothing.
func (w *world) administer(t *testing.T) {
	call := func(as string, foreign bool, method, path string) (int, string) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, Certificates: []tls.Certificate{w.Forged(t, []string{as}, foreign)}, MinVersion: tls.VersionTLS13,
		}}}
		request, err := http.NewRequestWithContext(t.Context(), method, "https://"+w.API()+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://mesh.example/control")
		response, err := client.Do(request)
		if err != nil {
			return -1, ""
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(text)
	}
	const base = "/apis/tenantmesh.dev/v1alpha1"
	for _, path := range []string{
		"/status", "/audit", "/audit/head", "/usage", "/top", "/slo", "/advice", "/moves", "/rollouts", "/decisions/000000000000-0000000000000000", "/tenants/acme/candidates", "/tenants/initech/config", "/tenants/acme/config/", "/openapi.json",
		base + "/tenants", base + "/tenants/acme", base + "/watch", base + "/signerkeys", "/sidecar/resources/../../audit", "//audit", "/tenants/x%20/config/../../../audit", "/tenants/x%2f..%2f..%2faudit%3f/config",
	} {
		if code, text := call(frontID, false, http.MethodGet, path); code == http.StatusOK {
			t.Errorf("front reads %s: %.200s", path, text)
		}
	}
	for _, path := range []string{base + "/apply", base + "/tenants/acme", "/tenants/acme/place", "/sidecar/resources"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if code, text := call(frontID, false, method, path); code < 300 {
				t.Errorf("front does %s %s: %d %.200s", method, path, code, text)
			}
		}
	}
	code, text := call(frontID, false, http.MethodGet, meshname.PathSidecarResources)
	if code != http.StatusOK || strings.Contains(text, "initech") || strings.Contains(text, "TokenIssuer") {
		t.Errorf("front is told %d, and other's: %.300s", code, text)
	}
	for who, as := range strangers {
		if as.id == "" {
			continue
		}
		if code, text := call(as.id, as.foreign, http.MethodGet, meshname.PathSidecarResources); code == http.StatusOK {
			t.Errorf("%s reads resources: %.200s", who, text)
		}
	}
}
