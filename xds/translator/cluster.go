package translator

import (
	"net/netip"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttp "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

const (
	connectTimeout = 2 * time.Second
	maxPending     = 1024
	maxConnections = 1024
	maxRequests    = 4096
	retryPercent   = 20 // of the requests that are open: how many may be Envoy's own retries
	minRetries     = 3
)

// upstream is one workload in one cell: its cluster and its endpoints.
func upstream(w *ir.Workload, instance ir.Instance, audience string) []Resource {
	name := meshname.ClusterWorkload(instance.Cell, w.Name)
	c := discovered(name, upstreamProtocol("http2"))
	c.TransportSocket = transportSocket(&tls.UpstreamTlsContext{CommonTlsContext: &tls.CommonTlsContext{
		TlsParams:                      &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3},
		AlpnProtocols:                  []string{"h2"},
		TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{{Name: meshname.SecretSVID, SdsConfig: ads}},
		ValidationContextType: &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: &tls.CertificateValidationContext{MatchTypedSubjectAltNames: []*tls.SubjectAltNameMatcher{{
				SanType: tls.SubjectAltNameMatcher_URI,
				Matcher: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: instance.ID.String()}},
			}}},
			ValidationContextSdsSecretConfig: &tls.SdsSecretConfig{Name: meshname.SecretBundle, SdsConfig: ads},
		}},
	}})
	// Only what fails before an answer ejects a host: a refusal (429, 503 with a reason) is an answer.
	c.OutlierDetection = &cluster.OutlierDetection{
		SplitExternalLocalOriginErrors: true, ConsecutiveLocalOriginFailure: wrapperspb.UInt32(5),
		EnforcingConsecutive_5Xx: wrapperspb.UInt32(0), EnforcingSuccessRate: wrapperspb.UInt32(0), EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(0),
		BaseEjectionTime: durationpb.New(5 * time.Second), MaxEjectionPercent: wrapperspb.UInt32(50),
	}
	assignment := &endpoint.ClusterLoadAssignment{ClusterName: name}
	if len(instance.Endpoints) > 0 {
		locality := &endpoint.LocalityLbEndpoints{}
		for _, e := range instance.Endpoints {
			locality.LbEndpoints = append(locality.LbEndpoints, &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: socketAddress(e.Address, e.Port)}}})
		}
		assignment.Endpoints = []*endpoint.LocalityLbEndpoints{locality}
	}
	return []Resource{envoyResource(name, audience, c), envoyResource(name, audience, assignment)}
}

// localService is the service beside the Envoy; the Go process says where it listens.
func localService(protocol string) *cluster.Cluster {
	if protocol == "grpc" {
		protocol = "http2"
	}
	return discovered(meshname.ClusterLocalService, upstreamProtocol(protocol))
}

// clusterDependency is the name of the cluster of one host of a Dependency.
func clusterDependency(name, host string) string { return "dependency/" + name + "/" + host }

// external is one host of a Dependency: what is for one is never sent to another, and shows that one's certificate.
func external(d ir.Dependency, host string) *cluster.Cluster {
	name := clusterDependency(d.Name, host)
	c := &cluster.Cluster{
		Name: name, ConnectTimeout: durationpb.New(connectTimeout),
		ClusterDiscoveryType:          &cluster.Cluster_Type{Type: cluster.Cluster_STRICT_DNS},
		TypedExtensionProtocolOptions: upstreamProtocol("http1"),
		CircuitBreakers:               circuitBreakers(),
		LoadAssignment: &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: []*endpoint.LbEndpoint{
			{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: socketAddress(host, d.Spec.Port)}}},
		}}}},
	}
	if d.Spec.TLS {
		// A certificate names an address as such, and nobody asks for one by SNI (RFC 6066, section 3).
		sni, san := host, tls.SubjectAltNameMatcher_DNS
		if _, err := netip.ParseAddr(host); err == nil {
			sni, san = "", tls.SubjectAltNameMatcher_IP_ADDRESS
		}
		c.TransportSocket = transportSocket(&tls.UpstreamTlsContext{
			Sni: sni,
			// Envoy 1.40 has no word for the roots of its machine (system_root_certs is gRPC's), and refuses names without roots.
			CommonTlsContext: &tls.CommonTlsContext{ValidationContextType: &tls.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tls.CertificateValidationContext{MatchTypedSubjectAltNames: []*tls.SubjectAltNameMatcher{{
					SanType: san, Matcher: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: host}},
				}}},
				ValidationContextSdsSecretConfig: &tls.SdsSecretConfig{Name: meshname.SecretRoots, SdsConfig: ads},
			}}},
		})
	}
	return c
}

func discovered(name string, protocol map[string]*anypb.Any) *cluster.Cluster {
	return &cluster.Cluster{
		Name: name, ConnectTimeout: durationpb.New(connectTimeout),
		ClusterDiscoveryType:          &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:              &cluster.Cluster_EdsClusterConfig{EdsConfig: ads},
		TypedExtensionProtocolOptions: protocol,
		CircuitBreakers:               circuitBreakers(),
	}
}

func circuitBreakers() *cluster.CircuitBreakers {
	return &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
		MaxConnections: wrapperspb.UInt32(maxConnections), MaxPendingRequests: wrapperspb.UInt32(maxPending), MaxRequests: wrapperspb.UInt32(maxRequests), TrackRemaining: true,
		RetryBudget: &cluster.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: &typev3.Percent{Value: retryPercent}, MinRetryConcurrency: wrapperspb.UInt32(minRetries)},
	}}}
}

// upstreamProtocol names the HTTP version. Connections are made anew now and then, so that a rotated SVID is soon
// the one in use.
func upstreamProtocol(name string) map[string]*anypb.Any {
	explicit := &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig{ProtocolConfig: &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{}}
	if name == "http2" {
		explicit.ProtocolConfig = &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &core.Http2ProtocolOptions{
			AllowConnect: true, OverrideStreamErrorOnInvalidHttpMessage: wrapperspb.Bool(true), // what is wrong with one answer ends that one
			// Until the other side has said how many it takes, Envoy would open any number, and retries of those that are refused have a budget.
			MaxConcurrentStreams: wrapperspb.UInt32(maxStreams),
		}}
	}
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&upstreamhttp.HttpProtocolOptions{
		CommonHttpProtocolOptions: &core.HttpProtocolOptions{MaxConnectionDuration: durationpb.New(connectionAge), IdleTimeout: durationpb.New(time.Minute)},
		UpstreamProtocolOptions:   &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	})}
}

func transportSocket(config proto.Message) *core.TransportSocket {
	return &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: packed(config)}}
}

func socketAddress(address string, port int) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
