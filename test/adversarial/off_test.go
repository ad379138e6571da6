package adversarial

import (
	"crypto/ecdsa"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	mutationrules "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headermutation "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlymutation "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// switches turn a defence off, in what is pushed to every sidecar.
type switches struct {
	mu       sync.Mutex
	name     string // of the defence that is off, "" for none
	stranger *ecdsa.PrivateKey
	key      tenanttoken.SigningKey // an attacker's own
}

func (s *switches) forged(t testing.TB) tenanttoken.SigningKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key.KID == "" {
		key, err := tenanttoken.NewSigningKey(time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		s.key = key
	}
	return s.key
}

// defence is one that can be turned off.
type defence struct {
	what string
	off  func(s *switches, message proto.Message, audience string)
}

var defences = map[string]defence{
	"underscores": {"names with an underscore are refused", onManager(func(_ string, m *hcm.HttpConnectionManager) {
		m.CommonHttpProtocolOptions.HeadersWithUnderscoresAction = core.HttpProtocolOptions_ALLOW
	})},
	"slashes": {"slashes are merged before anything reads a path", onManager(func(_ string, m *hcm.HttpConnectionManager) { m.MergeSlashes = false })},
	"normalization": {"a path is normalized before anything reads it", onManager(func(_ string, m *hcm.HttpConnectionManager) {
		m.NormalizePath = wrapperspb.Bool(false)
	})},
	"escaped-slashes": {"a path with an escaped slash is refused", onManager(func(_ string, m *hcm.HttpConnectionManager) {
		m.PathWithEscapedSlashesAction = hcm.HttpConnectionManager_KEEP_UNCHANGED
	})},
	"chunked-length": {"a length and chunks at once are refused", onManager(func(_ string, m *hcm.HttpConnectionManager) {
		m.HttpProtocolOptions = &core.Http1ProtocolOptions{AllowChunkedLength: true}
	})},
	"stripping": {"what a client may not say is taken out before anything reads it", onManager(func(name string, m *hcm.HttpConnectionManager) {
		if name != meshname.ListenerGateway {
			return
		}
		early := &earlymutation.HeaderMutation{}
		unpack(m.EarlyHeaderMutationExtensions[0].TypedConfig, early)
		early.Mutations = onlySets(early.Mutations)
		m.EarlyHeaderMutationExtensions[0].TypedConfig = packed(early)
	})},
	"peer-stripping": {"what a peer may not say is taken out before anything reads it", onManager(func(name string, m *hcm.HttpConnectionManager) {
		if name == meshname.ListenerInbound {
			for _, f := range m.HttpFilters {
				if f.Name == "envoy.filters.http.header_mutation" {
					mutation := &headermutation.HeaderMutation{}
					unpack(f.GetTypedConfig(), mutation)
					mutation.Mutations.RequestMutations = onlySets(mutation.Mutations.RequestMutations)
					f.ConfigType = &hcm.HttpFilter_TypedConfig{TypedConfig: packed(mutation)}
				}
			}
		}
	})},
	"check":          {"a sidecar's check", onManager(unchecked(meshname.ListenerInbound, plain|upgrades))},
	"outbound-check": {"a sidecar's check of its service's calls", onManager(unchecked(meshname.ListenerOutbound, plain|upgrades))},
	"gateway-check":  {"the checks, which ask for a tenant", open(plain)},
	"upgrade-check":  {"the checks of upgrades, which ask for a tenant", open(upgrades)},
	"both-layers": {"Envoy's own RBAC, while a sidecar's check is gone", func(s *switches, message proto.Message, audience string) {
		onManager(unchecked(meshname.ListenerInbound, plain|upgrades))(s, message, audience)
		withoutRBAC(s, message, audience)
	}},
	"revocations": {"contexts of transactions that were revoked are refused", func(*switches, proto.Message, string) {}}, // see change
	"sanitized-xfcc": {"a peer's word on who it is does not count", onManager(func(name string, m *hcm.HttpConnectionManager) {
		m.ForwardClientCertDetails = hcm.HttpConnectionManager_ALWAYS_FORWARD_ONLY
	})},
	"hosts": {"a route is for its own host", func(_ *switches, message proto.Message, _ string) {
		if routes, ok := message.(*route.RouteConfiguration); ok {
			if i := slices.IndexFunc(routes.VirtualHosts, func(h *route.VirtualHost) bool { return h.Name == "docs.example" }); i >= 0 {
				routes.VirtualHosts = routes.VirtualHosts[i : i+1]
				routes.VirtualHosts[0].Domains = []string{"*"}
			}
		}
	}},
	"policies": {"policies, in the check and in Envoy's own RBAC", func(s *switches, message proto.Message, audience string) {
		withoutRBAC(s, message, audience)
		if p, ok := message.(*api.AccessPolicy); ok && p.Effect == "Forbid" {
			p.Mode = "Shadow"
		}
	}},
	"peers": {"only those who are named may connect", func(s *switches, message proto.Message, audience string) {
		withoutRBAC(s, message, audience)
		const node = "spiffe://mesh.example/cell/us-1/workload/node"
		switch m := message.(type) {
		case *api.ProxyConfig:
			m.Peers = append(m.Peers, node)
		case *api.AccessPolicy:
			m.Principals = append(m.Principals, node)
		}
	}},
	"issuers": {"only an issuer's own keys verify", func(s *switches, message proto.Message, _ string) {
		if issuer, ok := message.(*api.TokenIssuer); ok && s.stranger != nil {
			text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &s.stranger.PublicKey, KeyID: "test", Algorithm: "ES256", Use: "sig"}}})
			if err != nil {
				panic(err)
			}
			issuer.Jwks = string(text)
		}
	}},
	"keys": {"only keys that a gateway published sign contexts", func(s *switches, message proto.Message, _ string) {
		// The gateway's own resource becomes the attacker's.
		if key, ok := message.(*api.SignerKey); ok && s.key.KID != "" {
			key.Kid, key.PublicKey, key.NotAfter = s.key.KID, s.key.Public(), timestamppb.New(s.key.NotAfter)
		}
	}},
	"limits": {"limits", func(_ *switches, message proto.Message, _ string) {
		if t, ok := message.(*api.TenantPolicy); ok {
			t.Limits = &api.Limits{RequestsPerSecond: 10_000, Burst: 10_000, Concurrency: 1000}
		}
	}},
}

// withoutRBAC takes the second layer away.
var withoutRBAC = onManager(func(_ string, m *hcm.HttpConnectionManager) {
	m.HttpFilters = without(m.HttpFilters, meshname.ExtensionAccess)
})

// change is what is pushed, without the defence that is off.
func (s *switches) change(r translator.Resource) translator.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name == "" {
		return r
	}
	if s.name == "revocations" && r.TypeURL == meshname.TypeRevocation {
		r.Name = "of nothing" // it is known by its name
		return r
	}
	if s.name == "audiences" { // everyone gets what is another cell's
		if r.TypeURL == meshname.TypeTenantPolicy {
			r.Audience = translator.AudienceAll
		}
		return r
	}
	r.Message = proto.Clone(r.Message)
	defences[s.name].off(s, r.Message, r.Audience)
	if key, ok := r.Message.(*api.SignerKey); ok {
		r.Name = key.Kid
	}
	return r
}

// onManager changes the HTTP connection manager of every listener.
func onManager(change func(listener string, m *hcm.HttpConnectionManager)) func(*switches, proto.Message, string) {
	return func(_ *switches, message proto.Message, _ string) {
		l, ok := message.(*listener.Listener)
		if !ok {
			return
		}
		chains := l.FilterChains
		if l.DefaultFilterChain != nil {
			chains = append(slices.Clone(chains), l.DefaultFilterChain)
		}
		for _, chain := range chains {
			for _, filter := range chain.Filters {
				manager := &hcm.HttpConnectionManager{}
				if !filter.GetTypedConfig().MessageIs(manager) {
					continue
				}
				unpack(filter.GetTypedConfig(), manager)
				change(l.Name, manager)
				filter.ConfigType = &listener.Filter_TypedConfig{TypedConfig: packed(manager)}
			}
		}
	}
}

func unpack(from *anypb.Any, into proto.Message) {
	if err := from.UnmarshalTo(into); err != nil {
		panic(err)
	}
}

func packed(message proto.Message) *anypb.Any {
	wrapped, err := anypb.New(message)
	if err != nil {
		panic(err)
	}
	return wrapped
}

// onlySets are those that set a header: what is taken out stays.
func onlySets(list []*mutationrules.HeaderMutation) []*mutationrules.HeaderMutation {
	return slices.DeleteFunc(list, func(m *mutationrules.HeaderMutation) bool { return m.GetAppend() == nil })
}

func without(filters []*hcm.HttpFilter, name string) []*hcm.HttpFilter {
	return slices.DeleteFunc(slices.Clone(filters), func(f *hcm.HttpFilter) bool { return f.Name == name })
}

// checks are a filter chain's checks: of upgrades, or of all else.
type checks uint8

const (
	plain checks = 1 << iota
	upgrades
)

func unchecked(where string, which checks) func(string, *hcm.HttpConnectionManager) {
	return func(name string, m *hcm.HttpConnectionManager) {
		if name != where {
			return
		}
		whole := m.HttpFilters
		if which&plain != 0 {
			m.HttpFilters = without(m.HttpFilters, "envoy.filters.http.ext_authz")
		}
		if which&upgrades == 0 {
			return
		}
		for _, upgrade := range m.UpgradeConfigs {
			if len(upgrade.Filters) == 0 {
				upgrade.Filters = whole
			}
			upgrade.Filters = without(without(upgrade.Filters, "envoy.filters.http.ext_authz"), "envoy.filters.http.ext_proc")
		}
	}
}

// open leads what no check has placed to cell us-1, as a gateway without a check would, and takes every sidecar's check
// away too: nothing asks for a tenant any more.
func open(which checks) func(*switches, proto.Message, string) {
	return func(s *switches, message proto.Message, audience string) {
		onManager(unchecked(meshname.ListenerGateway, which))(s, message, audience)
		onManager(unchecked(meshname.ListenerInbound, which))(s, message, audience)
		if scope, ok := message.(*route.ScopedRouteConfiguration); ok && scope.Name == meshname.RouteGateway(meshname.CellNone) {
			scope.RouteConfigurationName = meshname.RouteGateway("us-1")
		}
	}
}
