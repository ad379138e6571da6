package translator

import (
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationrules "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclog "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	extauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	headermutation "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
)

// Bounds of every listener.
const (
	checkTimeout      = 2 * time.Second  // of ext_authz, whose own default of 200 ms would refuse under load
	headersTimeout    = 10 * time.Second // to send a request's headers
	idleTimeout       = time.Hour
	streamIdleTimeout = 5 * time.Minute
	connectionAge     = 10 * time.Minute // so that a rotated SVID is soon the one in use
	maxHeaders        = 100
	maxHeadersKB      = 60
	maxStreams        = 128
	windowBytes       = 64 << 10
	bufferBytes       = 32 << 10
)

var (
	ads       = &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}, ResourceApiVersion: core.ApiVersion_V3}
	toSidecar = &core.GrpcService{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: meshname.ClusterSidecar}}}
	overwrite = core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
)

// filter is one HTTP filter of ours.
type filter struct {
	name   string
	config proto.Message
}

// filters is the order of the HTTP filters, the same everywhere: the lease's key is made before anything may wait;
// tokens are verified before they are judged; nothing passes unjudged to the router.
func filters(listener string, verify *hcm.HttpFilter, more ...*mutationrules.HeaderMutation) []*hcm.HttpFilter {
	list := []*hcm.HttpFilter{httpFilter(leaseKey(more))}
	if verify != nil {
		list = append(list, verify)
	}
	return append(list, httpFilter(check(listener)), httpFilter(filter{"envoy.filters.http.router", &router.Router{}}))
}

func httpFilter(f filter) *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: f.name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: packed(f.config)}}
}

// leaseKey overwrites what the client sent: the key is made here, before the check, because a client may hang up
// while the check is pending, and is logged when the stream ends.
func leaseKey(more []*mutationrules.HeaderMutation) filter {
	return filter{"envoy.filters.http.header_mutation", &headermutation.HeaderMutation{Mutations: &headermutation.Mutations{
		RequestMutations: append([]*mutationrules.HeaderMutation{set(propagation.HeaderLease, "%UNIQUE_ID%")}, more...),
	}}}
}

// check asks the Go process. It fails closed, and says 503 when there is no answer. Its answer may be what the route is
// chosen by: at a gateway the cell, before a service the class.
func check(listener string) filter {
	config := &extauthz.ExtAuthz{
		Services:            &extauthz.ExtAuthz_GrpcService{GrpcService: withTimeout(checkTimeout)},
		TransportApiVersion: core.ApiVersion_V3,
		StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		EncodeRawHeaders:    true,
		ValidateMutations:   true,
		StatPrefix:          "tenantmesh",
		ClearRouteCache:     listener != meshname.ListenerOutbound,
	}
	if listener == meshname.ListenerGateway {
		config.MetadataContextNamespaces = []string{meshname.MetadataJWT}
	}
	return filter{"envoy.filters.http.ext_authz", config}
}

func withTimeout(d time.Duration) *core.GrpcService {
	service := proto.Clone(toSidecar).(*core.GrpcService)
	service.Timeout = durationpb.New(d)
	return service
}

func set(name, value string) *mutationrules.HeaderMutation {
	return &mutationrules.HeaderMutation{Action: &mutationrules.HeaderMutation_Append{Append: &core.HeaderValueOption{
		Header: &core.HeaderValue{Key: name, Value: value}, AppendAction: overwrite,
	}}}
}

func remove(name string) *mutationrules.HeaderMutation {
	return &mutationrules.HeaderMutation{Action: &mutationrules.HeaderMutation_Remove{Remove: name}}
}

// removeAll removes every header whose name begins so.
func removeAll(prefix string) *mutationrules.HeaderMutation {
	return &mutationrules.HeaderMutation{Action: &mutationrules.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationrules.HeaderMutation_RemoveOnMatch{
		KeyMatcher: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: prefix}},
	}}}
}

// connectionManager is what every listener has; the caller adds routes and filters.
func connectionManager(name string) *hcm.HttpConnectionManager {
	return &hcm.HttpConnectionManager{
		StatPrefix:                   name,
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcm.HttpConnectionManager_REJECT_REQUEST,
		StripPortMode:                &hcm.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true},
		ServerName:                   "tenantmesh",
		ServerHeaderTransformation:   hcm.HttpConnectionManager_OVERWRITE,
		ForwardClientCertDetails:     hcm.HttpConnectionManager_SANITIZE_SET,
		SetCurrentClientCertDetails:  &hcm.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true},
		GenerateRequestId:            wrapperspb.Bool(true),
		PreserveExternalRequestId:    true, // a gateway removes the client's before one is made
		MaxRequestHeadersKb:          wrapperspb.UInt32(maxHeadersKB),
		RequestHeadersTimeout:        durationpb.New(headersTimeout),
		RequestTimeout:               durationpb.New(meshname.ReceiptTime),
		StreamIdleTimeout:            durationpb.New(streamIdleTimeout),
		CommonHttpProtocolOptions: &core.HttpProtocolOptions{
			IdleTimeout:                  durationpb.New(idleTimeout),
			MaxConnectionDuration:        durationpb.New(connectionAge),
			MaxStreamDuration:            durationpb.New(meshname.StreamTime),
			MaxHeadersCount:              wrapperspb.UInt32(maxHeaders),
			HeadersWithUnderscoresAction: core.HttpProtocolOptions_REJECT_REQUEST,
		},
		Http2ProtocolOptions: &core.Http2ProtocolOptions{
			AllowConnect: true, // upgrades between Envoys (RFC 8441)
			// What is wrong with one request ends that one: a connection between Envoys carries those of many tenants.
			OverrideStreamErrorOnInvalidHttpMessage: wrapperspb.Bool(true),
			MaxConcurrentStreams:                    wrapperspb.UInt32(maxStreams),
			InitialStreamWindowSize:                 wrapperspb.UInt32(windowBytes),
			InitialConnectionWindowSize:             wrapperspb.UInt32(16 * windowBytes),
		},
		UpgradeConfigs:   []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		AccessLog:        []*accesslog.AccessLog{toLedger(name)},
		AccessLogOptions: &hcm.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(meshname.RenewalTime)},
		LocalReplyConfig: localReplies(),
	}
}

// toLedger sends one entry a request, at once: it releases the request's lease. Those of a long stream before renew it.
func toLedger(name string) *accesslog.AccessLog {
	config := &grpclog.HttpGrpcAccessLogConfig{
		CommonConfig: &grpclog.CommonGrpcAccessLogConfig{
			LogName: name, GrpcService: toSidecar, TransportApiVersion: core.ApiVersion_V3,
			BufferSizeBytes: wrapperspb.UInt32(0), BufferFlushInterval: durationpb.New(time.Second),
		},
		AdditionalRequestHeadersToLog: []string{propagation.HeaderLease},
	}
	if name == meshname.ListenerOutbound { // whether the call failed
		config.AdditionalResponseHeadersToLog = []string{propagation.HeaderReason, "grpc-status"}
		config.AdditionalResponseTrailersToLog = []string{"grpc-status"}
	}
	return &accesslog.AccessLog{Name: "envoy.access_loggers.http_grpc", ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: packed(config)}}
}
