package translator

import (
	"slices"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	matching "github.com/cncf/xds/go/xds/type/matcher/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extension "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skip "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	extproc "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

const filterHold = "envoy.filters.http.ext_proc"

// hold puts one filter more last before the router: the Go process holds on to each request that may last as long as it is
// open, and can end it without touching another of its connection. Upgrades are all held; of other requests those that the
// check says are, by a header, which costs others a look for it. Without the Go process there is none.
func hold(manager *hcm.HttpConnectionManager) {
	holder := &extproc.ExternalProcessor{
		GrpcService:    &core.GrpcService{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: meshname.ClusterStreams}}},
		MessageTimeout: durationpb.New(checkTimeout),
		StatusOnError:  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		StatPrefix:     "tenantmesh",
		// Trailers that are still to come keep the call open: an upgrade has none.
		ProcessingMode: &extproc.ProcessingMode{
			RequestHeaderMode: extproc.ProcessingMode_SEND, ResponseHeaderMode: extproc.ProcessingMode_SKIP,
			RequestTrailerMode: extproc.ProcessingMode_SKIP, ResponseTrailerMode: extproc.ProcessingMode_SEND,
		},
		ForwardRules: &extproc.HeaderForwardingRules{AllowedHeaders: &matcher.ListStringMatcher{Patterns: []*matcher.StringMatcher{
			{MatchPattern: &matcher.StringMatcher_Exact{Exact: propagation.HeaderLease}},
		}}},
		RouteCacheAction: extproc.ExternalProcessor_RETAIN,
	}
	plain, last := manager.HttpFilters, len(manager.HttpFilters)-1
	upgrades := slices.Insert(slices.Clone(plain), last, httpFilter(filter{filterHold, holder}))
	for _, upgrade := range manager.UpgradeConfigs {
		upgrade.Filters = upgrades
	}
	manager.HttpFilters = slices.Insert(slices.Clone(plain), last, httpFilter(filter{filterHold, onlyHeld(holder)}))
}

// onlyHeld skips a filter for requests that the check did not mark. What cannot be told runs it.
func onlyHeld(config proto.Message) *extension.ExtensionWithMatcher {
	marked := &matching.Matcher_MatcherList_Predicate{MatchType: &matching.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: &matching.Matcher_MatcherList_Predicate_SinglePredicate{
		Input: &xdscore.TypedExtensionConfig{Name: "header", TypedConfig: packed(&matcher.HttpRequestHeaderMatchInput{HeaderName: propagation.HeaderStream})},
		Matcher: &matching.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &matching.StringMatcher{
			MatchPattern: &matching.StringMatcher_Prefix{Prefix: propagation.StreamHeld},
		}},
	}}}
	return &extension.ExtensionWithMatcher{
		ExtensionConfig: &core.TypedExtensionConfig{Name: filterHold, TypedConfig: packed(config)},
		XdsMatcher: &matching.Matcher{MatcherType: &matching.Matcher_MatcherList_{MatcherList: &matching.Matcher_MatcherList{Matchers: []*matching.Matcher_MatcherList_FieldMatcher{{
			Predicate: &matching.Matcher_MatcherList_Predicate{MatchType: &matching.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: marked}},
			OnMatch:   &matching.Matcher_OnMatch{OnMatch: &matching.Matcher_OnMatch_Action{Action: &xdscore.TypedExtensionConfig{Name: "skip", TypedConfig: packed(&skip.SkipFilter{})}}},
		}}}}},
	}
}

// withStreams gives what lasts of a route a route of its own, before it: upgrades, and where a workload has such a class
// what the check says is of one.
func withStreams(r *route.Route, w *ir.Workload) []*route.Route {
	routes := withUpgrades(r)
	if !streaming(w) {
		return routes
	}
	long := proto.Clone(r).(*route.Route)
	if r.Name != "" {
		long.Name = r.Name + " streams"
	}
	long.Match.Headers = append(long.Match.Headers, exactly(propagation.HeaderStream, propagation.StreamLong))
	long.GetRoute().Timeout = durationpb.New(0)
	long.GetRoute().MaxStreamDuration = &route.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(0)}
	return slices.Insert(routes, 1, long)
}

func streaming(w *ir.Workload) bool {
	for _, class := range w.Spec.Classes {
		if class.Streaming {
			return true
		}
	}
	return false
}

// streams are the classes of a workload of which some last, as a gateway sees their paths.
func streams(w *ir.Workload) (list []*api.Streams) {
	if !streaming(w) {
		return nil
	}
	var classes []*api.Class
	for _, class := range w.Spec.Classes {
		classes = append(classes, &api.Class{Name: class.Name, Methods: class.Methods, Paths: class.Paths, Streaming: class.Streaming})
	}
	for _, e := range w.Spec.Expose {
		s := &api.Streams{Workload: w.Name, Classes: classes}
		if e.StripPrefix {
			s.Strip = e.PathPrefix
		}
		list = append(list, s)
	}
	return list
}
