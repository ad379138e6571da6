package translator

import (
	"slices"

	mutationrules "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

// cellListeners are those of every sidecar of a cell. They never change.
func cellListeners(cell string) []Resource {
	inbound, outbound := connectionManager(meshname.ListenerInbound), connectionManager(meshname.ListenerOutbound)
	for name, manager := range map[string]*hcm.HttpConnectionManager{meshname.RouteInbound: inbound, meshname.RouteOutbound: outbound} {
		manager.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads, RouteConfigName: name}}
	}
	// Only the mesh's configuration makes Envoy repeat a call.
	var more []*mutationrules.HeaderMutation
	for _, name := range propagation.RetryHeaders {
		more = append(more, remove(name))
	}
	outbound.HttpFilters = filters(meshname.ListenerOutbound, nil, more...)
	for _, name := range propagation.OverrideHeaders {
		more = append(more, remove(name))
	}
	// Which instance of the peer it is: one may have been shut out. And by what names, of which Envoy looks for one that it
	// knows, and the check is told the first.
	inbound.HttpFilters = filters(meshname.ListenerInbound, nil, append(more, remove(propagation.HeaderClass), remove(propagation.HeaderStream), set(propagation.HeaderPeer, "%DOWNSTREAM_PEER_FINGERPRINT_256% %DOWNSTREAM_PEER_URI_SAN%"))...)
	inbound.HttpFilters = slices.Insert(inbound.HttpFilters, len(inbound.HttpFilters)-1, accessFilter())
	hold(inbound)
	outbound.ForwardClientCertDetails, outbound.SetCurrentClientCertDetails = hcm.HttpConnectionManager_SANITIZE, nil
	audience := AudienceCell(cell)
	return []Resource{
		envoyResource(meshname.ListenerInbound, audience, httpListener(meshname.ListenerInbound, "0.0.0.0", meshname.PortInbound, inbound, mutualTLS())),
		envoyResource(meshname.ListenerOutbound, audience, httpListener(meshname.ListenerOutbound, "127.0.0.1", meshname.PortOutbound, outbound, nil)),
	}
}

func httpListener(name, address string, port uint32, manager *hcm.HttpConnectionManager, socket *core.TransportSocket) *listener.Listener {
	return &listener.Listener{
		Name:                          name,
		StatPrefix:                    name,
		TrafficDirection:              direction(name),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferBytes),
		Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
		}}},
		FilterChains: []*listener.FilterChain{{
			TransportSocket: socket,
			Filters: []*listener.Filter{{
				Name:       "envoy.filters.network.http_connection_manager",
				ConfigType: &listener.Filter_TypedConfig{TypedConfig: packed(manager)},
			}},
		}},
	}
}

// direction says which listeners a drain closes: those by which requests come from elsewhere.
func direction(name string) core.TrafficDirection {
	if name == meshname.ListenerGateway || name == meshname.ListenerInbound {
		return core.TrafficDirection_INBOUND
	}
	return core.TrafficDirection_OUTBOUND
}

// mutualTLS shows this mesh's SVID and lets only those in that the secret of peers names, by whole SPIFFE ID.
func mutualTLS() *core.TransportSocket {
	return transportSocket(&tls.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:                      &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_3},
			AlpnProtocols:                  []string{"h2", "http/1.1"},
			TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{{Name: meshname.SecretSVID, SdsConfig: ads}},
			ValidationContextType: &tls.CommonTlsContext_ValidationContextSdsSecretConfig{
				ValidationContextSdsSecretConfig: &tls.SdsSecretConfig{Name: meshname.SecretPeers, SdsConfig: ads},
			},
		},
	})
}

// inboundRoutes lead to the service: what is of a class with a bulkhead, as the check says, by its own connections.
func inboundRoutes(w *ir.Workload) *route.RouteConfiguration {
	routes := []*route.Route{{Match: prefix(meshname.PathTenantData), Action: &route.Route_Route{Route: forward(meshname.ClusterMove)}}}
	for _, class := range w.Spec.Classes {
		if class.Bulkhead != nil {
			match := prefix("/")
			match.Headers = []*route.HeaderMatcher{exactly(propagation.HeaderClass, class.Name)}
			routes = append(routes, withStreams(&route.Route{
				Name: class.Name, Match: match, Action: &route.Route_Route{Route: forward(meshname.ClusterPool(class.Name))},
			}, w)...)
		}
	}
	return &route.RouteConfiguration{
		Name:                   meshname.RouteInbound,
		RequestHeadersToRemove: []string{propagation.HeaderCell, propagation.HeaderPeer, propagation.HeaderClass, propagation.HeaderStream},
		// A gateway repeats what a sidecar says it did not pass on; a service cannot say so.
		ResponseHeadersToRemove: []string{propagation.HeaderTxnToken, propagation.HeaderUntaken},
		VirtualHosts: []*route.VirtualHost{{
			Name: meshname.RouteInbound, Domains: []string{"*"},
			Routes:               append(routes, withStreams(&route.Route{Match: prefix("/"), Action: &route.Route_Route{Route: forward(meshname.ClusterLocalService)}}, w)...),
			TypedPerFilterConfig: map[string]*anypb.Any{filterCheck: checkContext(map[string]string{meshname.ExtensionListener: meshname.ListenerInbound})},
		}},
	}
}

// sidecar are the resources of one workload's sidecars in one cell.
func sidecar(mesh *ir.Mesh, w *ir.Workload, instance ir.Instance) []Resource {
	audience := AudienceWorkload(instance.Cell, w.Name)
	resources := []Resource{
		envoyResource(meshname.ClusterLocalService, audience, localService(w.Spec.Protocol)), envoyResource(meshname.RouteInbound, audience, inboundRoutes(w)),
	}
	for _, class := range w.Spec.Classes {
		if class.Bulkhead != nil {
			pool := bulkhead(w.Spec.Protocol, class.Name, class.Bulkhead.MaxConnections, class.Bulkhead.MaxPendingRequests, class.Bulkhead.MaxRequests)
			resources = append(resources, envoyResource(pool.Name, audience, pool))
		}
	}
	routes := &route.RouteConfiguration{Name: meshname.RouteOutbound, ResponseHeadersToRemove: []string{propagation.HeaderTxnToken}}
	called := capturedRoutes(mesh, w, instance)
	host := func(name string, action *route.RouteAction, target, domain string) {
		called.host(name, action, target, domain)
		routes.VirtualHosts = append(routes.VirtualHosts, &route.VirtualHost{
			Name: name, Domains: []string{domain},
			IncludeRequestAttemptCount: action.RetryPolicy != nil, // it is the mesh's own
			Routes:                     withUpgrades(&route.Route{Match: prefix("/"), Action: &route.Route_Route{Route: action}}),
			TypedPerFilterConfig: map[string]*anypb.Any{filterCheck: checkContext(map[string]string{
				meshname.ExtensionListener: meshname.ListenerOutbound, meshname.ExtensionTarget: target,
			})},
		})
	}
	for _, name := range w.Spec.DependsOn {
		if other := mesh.Workload(name); other != nil {
			if there, ok := other.In(instance.Cell); ok {
				resources = append(resources, upstream(other, there, audience)...)
				host(name, toWorkload(instance.Cell, name), "workload/"+name, name)
			}
		}
		for _, d := range mesh.Dependencies {
			if d.Name != name {
				continue
			}
			for _, domain := range d.Spec.Hosts {
				c := clusterDependency(name, domain)
				resources = append(resources, envoyResource(c, audience, external(d, domain)))
				if d.Spec.Streams() {
					called.stream(d, domain)
					continue // it is never called by HTTP
				}
				host(c, within(forward(c), d.Spec.AnswerTime()), "dependency/"+name, domain)
			}
		}
	}
	// What is not listed is refused by the check, by name; the route is there so that the check is asked.
	routes.VirtualHosts = append(routes.VirtualHosts, &route.VirtualHost{
		Name: "not listed", Domains: []string{"*"},
		Routes:               []*route.Route{{Match: prefix("/"), Action: directResponse(403)}},
		TypedPerFilterConfig: map[string]*anypb.Any{filterCheck: checkContext(map[string]string{meshname.ExtensionListener: meshname.ListenerOutbound})},
	})
	captured := called.routes
	captured.VirtualHosts = append(captured.VirtualHosts, routes.VirtualHosts[len(routes.VirtualHosts)-1])
	return append(resources, envoyResource(meshname.RouteOutbound, audience, routes), envoyResource(meshname.RouteCaptured, audience, captured),
		envoyResource(meshname.ListenerCaptured, audience, called.listener()))
}
