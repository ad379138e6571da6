package translator

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	mutationrules "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	limitservice "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonlimit "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	originaldst "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netlimit "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ratelimit/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	earlymutation "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

// A captured service calls names at virtual addresses, which mean nothing to anybody else; the kernel sends the call to
// the listener "captured". What is HTTP goes to the cluster of its Host, never to the address that was called; and the
// address must be that Host's own, or the call is refused.

// names are the names that a workload may call in a cell: of workloads that are there, and hosts of Dependencies.
func names(mesh *ir.Mesh, w *ir.Workload, instance ir.Instance) (list []string) {
	for _, name := range w.Spec.DependsOn {
		if other := mesh.Workload(name); other != nil {
			if _, ok := other.In(instance.Cell); ok {
				list = append(list, name)
			}
		}
		for _, d := range mesh.Dependencies {
			if d.Name == name {
				for _, host := range d.Spec.Hosts {
					list = append(list, strings.ToLower(host))
				}
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// virtualAddresses gives each name that is no address an address of its own: of two that would have the same, the later in
// the order of names has another.
func virtualAddresses(mesh *ir.Mesh, w *ir.Workload, instance ir.Instance) map[string]string {
	addresses, taken := map[string]string{}, map[string]bool{}
	for _, name := range names(mesh, w, instance) {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		try := 0
		for taken[meshname.VirtualAddress(name, try)] {
			try++
		}
		addresses[name] = meshname.VirtualAddress(name, try)
		taken[addresses[name]] = true
	}
	return addresses
}

// captured are the routes of captured calls in the making.
type captured struct {
	routes    *route.RouteConfiguration
	addresses map[string]string
	streams   []*listener.FilterChain // of Dependencies that are called by TCP
	named     []uint32                // ports of those whose SNI is read
}

func capturedRoutes(mesh *ir.Mesh, w *ir.Workload, instance ir.Instance) *captured {
	return &captured{
		routes: &route.RouteConfiguration{
			Name: meshname.RouteCaptured, ResponseHeadersToRemove: []string{propagation.HeaderTxnToken}, RequestHeadersToRemove: []string{propagation.HeaderCalled},
		},
		addresses: virtualAddresses(mesh, w, instance),
	}
}

// host routes what is for a host, when it was sent to that host's address. Elsewhere the check, which is asked by another
// name for the target, refuses.
func (c *captured) host(name string, action *route.RouteAction, target, domain string) {
	address := c.address(domain)
	check := func(target string) map[string]*anypb.Any {
		return map[string]*anypb.Any{filterCheck: checkContext(map[string]string{meshname.ExtensionListener: meshname.ListenerOutbound, meshname.ExtensionTarget: target})}
	}
	match := prefix("/")
	match.Headers = []*route.HeaderMatcher{exactly(propagation.HeaderCalled, address)}
	routes := withUpgrades(&route.Route{Match: match, Action: &route.Route_Route{Route: proto.Clone(action).(*route.RouteAction)}, TypedPerFilterConfig: check(target)})
	c.routes.VirtualHosts = append(c.routes.VirtualHosts, &route.VirtualHost{
		Name: name, Domains: []string{domain}, IncludeRequestAttemptCount: action.RetryPolicy != nil,
		Routes: append(routes, &route.Route{Match: prefix("/"), Action: directResponse(403), TypedPerFilterConfig: check(meshname.TargetForeign + target)}),
	})
}

// address is a host's own.
func (c *captured) address(host string) string {
	if address := c.addresses[strings.ToLower(host)]; address != "" {
		return address
	}
	return host // an address itself
}

// How long a connection of a Dependency may be, as the check is asked only where it begins.
const (
	streamAge = time.Hour
	sniffTime = time.Second // for a TLS client to say whom it calls
)

// stream passes connections to a host of a Dependency on, when the check, which is told of the Dependency, permits. Of TLS
// the host must be named.
func (c *captured) stream(d ir.Dependency, host string) {
	name := clusterDependency(d.Name, host)
	chain := &listener.FilterChain{
		Name: name,
		FilterChainMatch: &listener.FilterChainMatch{
			PrefixRanges:    []*core.CidrRange{{AddressPrefix: c.address(host), PrefixLen: wrapperspb.UInt32(32)}},
			DestinationPort: wrapperspb.UInt32(uint32(d.Spec.Port)),
		},
		Filters: []*listener.Filter{
			// ext_authz would ask when the client has sent something, and let the server speak before.
			networkFilter("envoy.filters.network.ratelimit", &netlimit.RateLimit{
				StatPrefix: "tenantmesh", Domain: meshname.DomainConnections, Timeout: durationpb.New(checkTimeout), FailureModeDeny: true,
				Descriptors:      []*commonlimit.RateLimitDescriptor{{Entries: []*commonlimit.RateLimitDescriptor_Entry{{Key: meshname.ExtensionTarget, Value: "dependency/" + d.Name}}}},
				RateLimitService: &limitservice.RateLimitServiceConfig{GrpcService: withTimeout(checkTimeout), TransportApiVersion: core.ApiVersion_V3},
			}),
			networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
				StatPrefix: meshname.ListenerCaptured, ClusterSpecifier: &tcpproxy.TcpProxy_Cluster{Cluster: name},
				IdleTimeout: durationpb.New(idleTimeout), MaxDownstreamConnectionDuration: durationpb.New(streamAge),
			}),
		},
	}
	if d.Spec.Protocol == "tls" {
		chain.FilterChainMatch.TransportProtocol, chain.FilterChainMatch.ServerNames = "tls", []string{strings.ToLower(host)}
		c.named = append(c.named, uint32(d.Spec.Port))
	}
	c.streams = append(c.streams, chain)
}

func networkFilter(name string, config proto.Message) *listener.Filter {
	return &listener.Filter{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: packed(config)}}
}

// inspectTLS reads whom a TLS client calls, at the ports where that was asked for. At others nothing is waited for: the
// server may be the one that speaks first.
func inspectTLS(ports []uint32) *listener.ListenerFilter {
	var rules []*listener.ListenerFilterChainMatchPredicate
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		rules = append(rules, &listener.ListenerFilterChainMatchPredicate{Rule: &listener.ListenerFilterChainMatchPredicate_DestinationPortRange{
			DestinationPortRange: &typev3.Int32Range{Start: int32(port), End: int32(port) + 1},
		}})
	}
	any := rules[0]
	if len(rules) > 1 {
		any = &listener.ListenerFilterChainMatchPredicate{Rule: &listener.ListenerFilterChainMatchPredicate_OrMatch{OrMatch: &listener.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules}}}
	}
	return &listener.ListenerFilter{
		Name: "envoy.filters.listener.tls_inspector", ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: packed(&tlsinspector.TlsInspector{})},
		FilterDisabled: &listener.ListenerFilterChainMatchPredicate{Rule: &listener.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: any}},
	}
}

// listener takes what the kernel sends it, on the loopback addresses. Whatever is not declared otherwise must be HTTP:
// nothing is guessed from what is sent.
func (c *captured) listener() *listener.Listener {
	manager := connectionManager(meshname.ListenerOutbound)
	manager.StatPrefix = meshname.ListenerCaptured
	manager.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads, RouteConfigName: meshname.RouteCaptured}}
	var more []*mutationrules.HeaderMutation
	for _, name := range propagation.RetryHeaders {
		more = append(more, remove(name))
	}
	manager.HttpFilters = filters(meshname.ListenerOutbound, nil, more...)
	manager.ForwardClientCertDetails, manager.SetCurrentClientCertDetails = hcm.HttpConnectionManager_SANITIZE, nil
	// Before the route is chosen, which is by it.
	manager.EarlyHeaderMutationExtensions = []*core.TypedExtensionConfig{{
		Name: "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: packed(&earlymutation.HeaderMutation{Mutations: []*mutationrules.HeaderMutation{
			set(propagation.HeaderCalled, "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"),
		}}),
	}}
	l := httpListener(meshname.ListenerCaptured, "127.0.0.1", meshname.PortCaptured, manager, nil)
	l.DefaultFilterChain, l.FilterChains = l.FilterChains[0], c.streams
	l.ListenerFilters = []*listener.ListenerFilter{{
		Name: "envoy.filters.listener.original_dst", ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: packed(&originaldst.OriginalDst{})},
	}}
	if len(c.named) > 0 {
		l.ListenerFilters = append(l.ListenerFilters, inspectTLS(c.named))
		l.ListenerFiltersTimeout, l.ContinueOnListenerFiltersTimeout = durationpb.New(sniffTime), true // as a call that names nobody
	}
	return l
}
