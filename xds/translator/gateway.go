package translator

import (
	"fmt"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtauthn "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlymutation "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

const filterCheck = "envoy.filters.http.ext_authz"

// maxClientID is how many bytes of the client's request ID are handed on.
const maxClientID = 256

func gateway(mesh *ir.Mesh) []Resource {
	resources := []Resource{
		envoyResource(meshname.ListenerGateway, AudienceGateway, gatewayListener()),
		envoyResource(meshname.ExtensionJWT, AudienceGateway, verifyTokens(mesh.Issuers)),
		envoyResource(meshname.ListenerEgress, AudienceGateway, egressListener()),
		envoyResource(meshname.RouteEgress, AudienceGateway, egressRoutes(mesh)),
	}
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		for _, instance := range w.Instances {
			if w.Reached() {
				resources = append(resources, upstream(w, instance, AudienceGateway)...)
			}
		}
	}
	for _, cell := range append([]string{meshname.CellNone, meshname.CellMove}, cellNames(mesh)...) {
		name := meshname.RouteGateway(cell)
		resources = append(resources,
			envoyResource(name, AudienceGateway, gatewayRoutes(mesh, cell)),
			envoyResource(name, AudienceGateway, &route.ScopedRouteConfiguration{
				Name: name, RouteConfigurationName: name,
				Key: &route.ScopedRouteConfiguration_Key{Fragments: []*route.ScopedRouteConfiguration_Key_Fragment{
					{Type: &route.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: cell}},
				}},
			}))
	}
	return resources
}

func cellNames(mesh *ir.Mesh) []string {
	names := make([]string, len(mesh.Cells))
	for i, c := range mesh.Cells {
		names[i] = c.Name
	}
	return names
}

func gatewayListener() *listener.Listener {
	manager := connectionManager(meshname.ListenerGateway)
	manager.UseRemoteAddress = wrapperspb.Bool(true)
	manager.ForwardClientCertDetails, manager.SetCurrentClientCertDetails = hcm.HttpConnectionManager_SANITIZE, nil
	// What a client may not say is taken out before anything reads it. The cell is overwritten, never just removed:
	// where no scope is found there is no route, and without a route the check is skipped.
	early := &earlymutation.HeaderMutation{}
	for _, name := range slices.Concat(propagation.ClientStripped, propagation.RetryHeaders, propagation.OverrideHeaders) {
		early.Mutations = append(early.Mutations, remove(name))
	}
	for _, prefix := range propagation.ClientStrippedPrefixes {
		early.Mutations = append(early.Mutations, removeAll(prefix))
	}
	// The client's own request ID is an attribute of the decision; the request gets another, made here.
	early.Mutations = append(early.Mutations, set(propagation.HeaderClientRequestID, fmt.Sprintf("%%REQ(%s):%d%%", propagation.HeaderRequestID, maxClientID)),
		remove(propagation.HeaderRequestID), set(propagation.HeaderCell, meshname.CellNone))
	manager.EarlyHeaderMutationExtensions = []*core.TypedExtensionConfig{{Name: "envoy.http.early_header_mutation.header_mutation", TypedConfig: packed(early)}}
	manager.HttpFilters = filters(meshname.ListenerGateway, &hcm.HttpFilter{Name: meshname.ExtensionJWT, ConfigType: &hcm.HttpFilter_ConfigDiscovery{ConfigDiscovery: &core.ExtensionConfigSource{
		ConfigSource: ads, TypeUrls: []string{"type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"},
	}}})
	hold(manager)
	manager.RouteSpecifier = &hcm.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcm.ScopedRoutes{
		Name: meshname.ListenerGateway,
		ScopeKeyBuilder: &hcm.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{HeaderValueExtractor: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
				Name:        propagation.HeaderCell,
				ExtractType: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
			}},
		}}},
		RdsConfigSource: ads,
		ConfigSpecifier: &hcm.ScopedRoutes_ScopedRds{ScopedRds: &hcm.ScopedRds{ScopedRdsConfigSource: ads}},
	}}
	return httpListener(meshname.ListenerGateway, "0.0.0.0", meshname.PortGateway, manager, nil)
}

// verifyTokens lets a missing or a refused token through, with its status in metadata: the refusal is the Go
// process's, with a reason and an ID.
func verifyTokens(issuers []ir.Issuer) *core.TypedExtensionConfig {
	config := &jwtauthn.JwtAuthentication{Providers: map[string]*jwtauthn.JwtProvider{}}
	anyOf := &jwtauthn.JwtRequirementOrList{}
	for _, issuer := range issuers {
		config.Providers[issuer.Name] = &jwtauthn.JwtProvider{
			Issuer: issuer.Spec.Issuer, Audiences: issuer.Spec.Audiences, Forward: true, RequireExpiration: true,
			// Said, because else a token in the query would be read too, and logged by everyone on its way.
			FromHeaders:       []*jwtauthn.JwtHeader{{Name: "Authorization", ValuePrefix: "Bearer "}},
			PayloadInMetadata: meshname.MetadataJWTPayload(issuer.Name), FailedStatusInMetadata: meshname.MetadataJWTFail,
			JwksSourceSpecifier: &jwtauthn.JwtProvider_RemoteJwks{RemoteJwks: &jwtauthn.RemoteJwks{
				HttpUri: &core.HttpUri{
					Uri: "http://jwks/jwks/" + issuer.Name, HttpUpstreamType: &core.HttpUri_Cluster{Cluster: meshname.ClusterJWKS},
					Timeout: durationpb.New(2 * time.Second),
				},
				// Fetched aside, within 6 s of the last time: no request waits for a fetch, or fails with it. Until then the Go
				// process verifies what a key that is gone signed.
				CacheDuration: durationpb.New(6 * time.Second), AsyncFetch: &jwtauthn.JwksAsyncFetch{},
			}},
		}
		anyOf.Requirements = append(anyOf.Requirements, &jwtauthn.JwtRequirement{RequiresType: &jwtauthn.JwtRequirement_ProviderName{ProviderName: issuer.Name}})
	}
	anyOf.Requirements = append(anyOf.Requirements, &jwtauthn.JwtRequirement{RequiresType: &jwtauthn.JwtRequirement_AllowMissingOrFailed{AllowMissingOrFailed: &emptypb.Empty{}}})
	requirement := anyOf.Requirements[0]
	if len(issuers) > 0 {
		requirement = &jwtauthn.JwtRequirement{RequiresType: &jwtauthn.JwtRequirement_RequiresAny{RequiresAny: anyOf}}
	}
	config.Rules = []*jwtauthn.RequirementRule{{
		Match:           &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtauthn.RequirementRule_Requires{Requires: requirement},
	}}
	return &core.TypedExtensionConfig{Name: meshname.ExtensionJWT, TypedConfig: packed(config)}
}

// gatewayRoutes are a cell's routes. Those of no cell have the same matches and answer 421: they are what the
// request is judged by before its cell is known.
func gatewayRoutes(mesh *ir.Mesh, cell string) *route.RouteConfiguration {
	config := &route.RouteConfiguration{
		Name:                    meshname.RouteGateway(cell),
		RequestHeadersToRemove:  []string{propagation.HeaderCell, propagation.HeaderClientRequestID, propagation.HeaderStream},
		ResponseHeadersToRemove: []string{propagation.HeaderTxnToken, propagation.HeaderUntaken},
	}
	byHost := exposedByHost(mesh)
	for _, host := range sortedKeys(byHost) {
		virtualHost := &route.VirtualHost{
			Name: host, Domains: []string{host}, IncludeRequestAttemptCount: true,
			TypedPerFilterConfig: map[string]*anypb.Any{filterCheck: checkContext(map[string]string{meshname.ExtensionListener: meshname.ListenerGateway})},
		}
		for _, e := range byHost[host] {
			if r := e.route(cell); cell == meshname.CellNone || cell == meshname.CellMove { // which takes no upgrades
				virtualHost.Routes = append(virtualHost.Routes, r)
			} else {
				virtualHost.Routes = append(virtualHost.Routes, withStreams(r, e.workload)...)
			}
		}
		if cell == meshname.CellNone {
			virtualHost.Routes = append(virtualHost.Routes, &route.Route{Match: prefix("/"), Action: directResponse(421)})
		}
		config.VirtualHosts = append(config.VirtualHosts, virtualHost)
	}
	return config
}

// exposedByHost is what is exposed, by host ("*": any), the longest prefix first.
func exposedByHost(mesh *ir.Mesh) map[string][]exposed {
	byHost := map[string][]exposed{}
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		for _, e := range w.Spec.Expose {
			host := e.Host
			if host == "" {
				host = "*"
			}
			byHost[host] = append(byHost[host], exposed{e.PathPrefix, e.StripPrefix, w})
		}
	}
	if byHost["*"] == nil {
		byHost["*"] = []exposed{}
	}
	for host, list := range byHost {
		if host != "*" {
			byHost[host] = slices.Concat(list, byHost["*"])
		}
	}
	for host, list := range byHost {
		list = slices.Clone(list)
		slices.SortStableFunc(list, func(a, b exposed) int { return len(b.prefix) - len(a.prefix) })
		byHost[host] = list
	}
	return byHost
}

// egressListener is where the Go process of a gateway sends on what it held, with the cell and the context that it
// decided. Only that process can reach its socket.
func egressListener() *listener.Listener {
	manager := connectionManager(meshname.ListenerEgress)
	manager.ForwardClientCertDetails, manager.SetCurrentClientCertDetails = hcm.HttpConnectionManager_SANITIZE, nil
	manager.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads, RouteConfigName: meshname.RouteEgress}}
	manager.HttpFilters = []*hcm.HttpFilter{httpFilter(filter{"envoy.filters.http.router", &router.Router{}})}
	manager.AccessLog = nil // the gateway's listener logged the request
	l := httpListener(meshname.ListenerEgress, "", 0, manager, nil)
	l.Address = &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: meshname.SocketEgress, Mode: 0o600}}}
	return l
}

// egressRoutes lead to each cell by the header that names it.
func egressRoutes(mesh *ir.Mesh) *route.RouteConfiguration {
	config := &route.RouteConfiguration{Name: meshname.RouteEgress, RequestHeadersToRemove: []string{propagation.HeaderCell, propagation.HeaderTarget}}
	byHost := exposedByHost(mesh)
	for _, host := range sortedKeys(byHost) {
		virtualHost := &route.VirtualHost{Name: host, Domains: []string{host}, IncludeRequestAttemptCount: true}
		if host == "*" {
			virtualHost.Routes = hookRoutes(mesh)
		}
		for _, e := range byHost[host] {
			for _, cell := range cellNames(mesh) {
				r := e.route(cell)
				r.Name, r.TypedPerFilterConfig = cell+"/"+r.Name, nil
				r.Match.Headers = []*route.HeaderMatcher{exactly(propagation.HeaderCell, cell)}
				virtualHost.Routes = append(virtualHost.Routes, r)
			}
		}
		config.VirtualHosts = append(config.VirtualHosts, virtualHost)
	}
	return config
}

// hookRoutes lead to the hooks of the workloads that keep tenants' data, by the header that names one.
func hookRoutes(mesh *ir.Mesh) (routes []*route.Route) {
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		if w.Spec.TenantData == nil {
			continue
		}
		for _, cell := range cellNames(mesh) {
			match := prefix("/")
			match.Headers = []*route.HeaderMatcher{exactly(propagation.HeaderHook, w.Name), exactly(propagation.HeaderCell, cell)}
			routes = append(routes, &route.Route{
				Name: cell + "/" + w.Name + "/tenantData", Match: match, Action: &route.Route_Route{Route: forward(meshname.ClusterWorkload(cell, w.Name))},
				RequestHeadersToRemove: []string{propagation.HeaderHook},
			})
		}
	}
	return routes
}

func exactly(header, value string) *route.HeaderMatcher {
	return &route.HeaderMatcher{Name: header, HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{
		StringMatch: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: value}},
	}}
}

// exposed is a workload under a path.
type exposed struct {
	prefix   string
	strip    bool
	workload *ir.Workload
}

func (e exposed) route(cell string) *route.Route {
	context := map[string]string{meshname.ExtensionListener: meshname.ListenerGateway, meshname.ExtensionTarget: "workload/" + e.workload.Name}
	if e.workload.Spec.ForwardAuthorization {
		context[meshname.ExtensionForwardAuthorization] = "true"
	}
	r := &route.Route{
		Name:                 e.workload.Name,
		Match:                prefix(e.prefix),
		Action:               directResponse(421),
		TypedPerFilterConfig: map[string]*anypb.Any{filterCheck: checkContext(context)},
	}
	if cell == meshname.CellNone {
		return r
	}
	if cell == meshname.CellMove {
		r.Action = &route.Route_Route{Route: within(forward(meshname.ClusterMove), meshname.ResponseTime+meshname.HoldTime)}
		return r
	}
	action := toWorkload(cell, e.workload.Name)
	if e.strip && e.prefix != "/" {
		action.RegexRewrite = stripPrefix(e.prefix)
	}
	r.Action = &route.Route_Route{Route: action}
	return r
}
