package translator

import (
	"maps"
	"regexp"
	"slices"
	"time"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

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
		ClusterSpecifier: &route.RouteAction_Cluster{Cluster: cluster}, Timeout: durationpb.New(meshname.ResponseTime),
	}
}

// within bounds an answer by another time than the usual.
func within(action *route.RouteAction, timeout time.Duration) *route.RouteAction {
	action.Timeout = durationpb.New(timeout)
	return action
}

// withUpgrades gives a route's upgrades a route of their own, before it: they last as long as they are used.
func withUpgrades(r *route.Route) []*route.Route {
	upgrades := proto.Clone(r).(*route.Route)
	if r.Name != "" {
		upgrades.Name = r.Name + " upgrades"
	}
	upgrades.Match.Headers = append(upgrades.Match.Headers, &route.HeaderMatcher{
		Name: "upgrade", HeaderMatchSpecifier: &route.HeaderMatcher_PresentMatch{PresentMatch: true},
	})
	upgrades.GetRoute().MaxStreamDuration = &route.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(0)}
	return []*route.Route{upgrades, r}
}

// checkContext tells the check where the request is.
func checkContext(context map[string]string) *anypb.Any {
	return packed(&extauthz.ExtAuthzPerRoute{Override: &extauthz.ExtAuthzPerRoute_CheckSettings{
		CheckSettings: &extauthz.CheckSettings{ContextExtensions: context},
	}})
}
