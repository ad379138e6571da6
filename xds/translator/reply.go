package translator

import (
	"slices"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	cel "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
)

// envoysOwn are the answers that Envoy gives by itself and that a reason fits.
var envoysOwn = []struct {
	filter *accesslog.AccessLogFilter
	reason policy.Reason
}{
	{details("ext_authz_error"), policy.EnforcementUnavailable}, // a check without an answer
	{detailsBegin("rbac_access_denied"), policy.DeniedByPolicy}, // the check allowed it, and no policy can
	{withFlags("UO"), policy.Overloaded},                        // a full service
	{status(accesslog.ComparisonFilter_EQ, 421), policy.Misdirected},
}

// localReplies makes problem details (RFC 9457) of what Envoy answers by itself, with a reason where one fits. The first
// that matches counts. A refusal of the check is left as the Go process wrote it; and in a gRPC client's status the body
// would be the message.
func localReplies() *hcm.LocalReplyConfig {
	config := &hcm.LocalReplyConfig{}
	add := func(filter *accesslog.AccessLogFilter, reason policy.Reason, body *core.SubstitutionFormatString, retry ...string) {
		mapper := &hcm.ResponseMapper{Filter: filter, BodyFormatOverride: body}
		if reason != policy.Permitted {
			for header := range slices.Chunk(append([]string{propagation.HeaderReason, reason.String()}, retry...), 2) {
				mapper.HeadersToAdd = append(mapper.HeadersToAdd, &core.HeaderValueOption{
					Header: &core.HeaderValue{Key: header[0], Value: header[1]}, AppendAction: core.HeaderValueOption_ADD_IF_ABSENT,
				})
			}
		}
		config.Mappers = append(config.Mappers, mapper)
	}
	// All of them may be over in a second: a process that starts again, a queue, a move.
	for _, own := range envoysOwn {
		add(both(isGRPC(), own.filter), own.reason, nil, "grpc-retry-pushback-ms", "1000")
	}
	add(isGRPC(), policy.Permitted, nil)
	add(details("ext_authz_denied"), policy.Permitted, nil)
	for _, own := range envoysOwn {
		add(own.filter, own.reason, problem(own.reason), "retry-after", "1")
	}
	add(status(accesslog.ComparisonFilter_GE, 400), policy.Permitted, problem(policy.Permitted))
	return config
}

// problem is a body; what exactly failed stays inside, and the request's ID leads to it.
func problem(reason policy.Reason) *core.SubstitutionFormatString {
	fields := map[string]*structpb.Value{
		"type": structpb.NewStringValue("about:blank"), "title": structpb.NewStringValue("The proxy answered: no service did."),
		"status": structpb.NewStringValue("%RESPONSE_CODE%"), "instance": structpb.NewStringValue("urn:tenantmesh:request:%REQ(X-REQUEST-ID)%"),
	}
	if reason != policy.Permitted {
		fields["type"], fields["title"] = structpb.NewStringValue("https://tenantmesh.dev/reasons#"+reason.String()), structpb.NewStringValue(reason.Title())
		fields["reason"], fields["advice"] = structpb.NewStringValue(reason.String()), structpb.NewStringValue(reason.Advice())
	}
	return &core.SubstitutionFormatString{
		Format: &core.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: fields}}, ContentType: "application/problem+json",
	}
}

func both(a, b *accesslog.AccessLogFilter) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_AndFilter{AndFilter: &accesslog.AndFilter{Filters: []*accesslog.AccessLogFilter{a, b}}}}
}

func isGRPC() *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslog.HeaderFilter{Header: &route.HeaderMatcher{
		Name: "content-type", HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{
			StringMatch: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: "application/grpc"}},
		},
	}}}}
}

func withFlags(flags ...string) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{ResponseFlagFilter: &accesslog.ResponseFlagFilter{Flags: flags}}}
}

func status(op accesslog.ComparisonFilter_Op, code uint32) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslog.StatusCodeFilter{
		Comparison: &accesslog.ComparisonFilter{Op: op, Value: &core.RuntimeUInt32{DefaultValue: code, RuntimeKey: "tenantmesh.local_reply"}},
	}}}
}

// details matches what Envoy calls the origin of an answer (%RESPONSE_CODE_DETAILS%).
func details(exact string) *accesslog.AccessLogFilter {
	return detailed("response.code_details == '" + exact + "'")
}

func detailsBegin(with string) *accesslog.AccessLogFilter {
	return detailed("response.code_details.startsWith('" + with + "')")
}

func detailed(expression string) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslog.ExtensionFilter{
		Name: "envoy.access_loggers.extension_filters.cel", ConfigType: &accesslog.ExtensionFilter_TypedConfig{
			TypedConfig: packed(&cel.ExpressionFilter{Expression: expression}),
		},
	}}}
}
