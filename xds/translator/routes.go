package translator

import (
	"maps"
	"regexp"
	"slices"
	"time"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// routeTimeout bounds a whole response; a lease lives as long.
const routeTimeout = 60 * time.Second

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// prefix matches a path and what is below it, never a longer name.
func prefix(path string) *route.RouteMatch {
	if path == "/" {
		return &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}}
	}
	return &route.RouteMatch{PathSpecifier: &route.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: path}}
}

// stripPrefix makes "/" of "/httpbin", and "/get" of "/httpbin/get".
func stripPrefix(path string) *matcher.RegexMatchAndSubstitute {
	return &matcher.RegexMatchAndSubstitute{
		Pattern:      &matcher.RegexMatcher{Regex: "^" + regexp.QuoteMeta(path) + "/?"},
		Substitution: "/",
	}
}

func directResponse(status uint32) *route.Route_DirectResponse {
	return &route.Route_DirectResponse{DirectResponse: &route.DirectResponseAction{Status: status}}
}

func forward(cluster string) *route.RouteAction {
	return &route.RouteAction{
		ClusterSpecifier: &route.RouteAction_Cluster{Cluster: cluster}, Timeout: durationpb.New(routeTimeout),
	}
}

// hookTimeout bounds a hook that moves a tenant's data; a workload's own listener bounds it by routeTimeout, so that
// what takes longer must come in parts.
const hookTimeout = 15 * time.Minute

func within(action *route.RouteAction, timeout time.Duration) *route.RouteAction {
	action.Timeout = durationpb.New(timeout)
	return action
}

// checkContext tells the check where the request is.
func checkContext(context map[string]string) *anypb.Any {
	return packed(&extauthz.ExtAuthzPerRoute{Override: &extauthz.ExtAuthzPerRoute_CheckSettings{
		CheckSettings: &extauthz.CheckSettings{ContextExtensions: context},
	}})
}
