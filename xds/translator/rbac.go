package translator

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacrules "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy/native"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

// accessFilter refuses once more what no access policy can allow, whatever the Go process said. It comes after the check, so
// that what the check refuses has its reason and its ID. Until its rules have come, nothing passes.
func accessFilter() *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: meshname.ExtensionAccess, ConfigType: &hcm.HttpFilter_ConfigDiscovery{ConfigDiscovery: &core.ExtensionConfigSource{
		ConfigSource: ads, TypeUrls: []string{"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"},
	}}}
}

// nativeRules are one resource a workload: what Envoy can tell of the access policies about it.
func nativeRules(mesh *ir.Mesh) (resources []Resource) {
	about := native.ByWorkload(mesh.Policies)
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		rules := native.Compile(w.Name, about[w.Name], about["*"])
		resources = append(resources, envoyResource(meshname.ExtensionAccess, AudienceWorkloads(w.Name), &core.TypedExtensionConfig{
			Name: meshname.ExtensionAccess, TypedConfig: packed(accessRules(&rules, hookRule(mesh, w))),
		}))
	}
	return resources
}

// hookRule are the requests that policies do not judge: those of gateways for the hooks of the workload's data. Nil: there are none.
func hookRule(mesh *ir.Mesh, w *ir.Workload) *rbacrules.Principal {
	paths := map[string]bool{}
	for _, d := range tenantData(w) {
		for _, path := range []string{d.Export, d.Import, d.Digest, d.Delete} {
			paths[path] = path != ""
		}
	}
	rule := native.Rule{Principals: wholly(mesh.Gateways)}
	for _, path := range sortedKeys(paths) {
		if paths[path] {
			rule.Paths = append(rule.Paths, native.HookPath(path))
		}
	}
	if len(rule.Paths) == 0 || len(rule.Principals) == 0 {
		return nil
	}
	return principal(&rule)
}

func wholly(ids []identity.Principal) (texts []native.Text) {
	for _, id := range ids {
		texts = append(texts, native.Text{Exact: id.String()})
	}
	return texts
}

// accessRules is one expression over what a request shows: a hook's, or spelled well, not forbidden, and permitted. Envoy's
// policies have no order and no Forbid beside a Permit; its principals have "and", "or" and "not".
func accessRules(rules *native.Rules, hook *rbacrules.Principal) *rbac.RBAC {
	config := &rbac.RBAC{RulesStatPrefix: "tenantmesh_", Rules: &rbacrules.RBAC{Action: rbacrules.RBAC_ALLOW, Policies: map[string]*rbacrules.Policy{}}}
	var allowed []*rbacrules.Principal
	if hook != nil {
		allowed = append(allowed, hook)
	}
	if permitted := eachOf(rules.Permits); len(permitted) > 0 {
		all := []*rbacrules.Principal{urlPath(native.WellFormed)}
		if forbidden := eachOf(rules.Forbids); len(forbidden) > 0 {
			all = append(all, &rbacrules.Principal{Identifier: &rbacrules.Principal_NotId{NotId: anyOf(forbidden)}})
		}
		allowed = append(allowed, allOf(append(all, anyOf(permitted))))
	}
	if len(allowed) > 0 { // an action ALLOW with no policy refuses all
		config.Rules.Policies[string(rules.Detail)] = &rbacrules.Policy{
			Permissions: []*rbacrules.Permission{{Rule: &rbacrules.Permission_Any{Any: true}}}, Principals: allowed,
		}
	}
	return config
}

func eachOf(rules []native.Rule) (list []*rbacrules.Principal) {
	for i := range rules {
		list = append(list, principal(&rules[i]))
	}
	return list
}

// principal is a rule in Envoy's words: a "principal" may ask for the method and the path, too.
func principal(rule *native.Rule) *rbacrules.Principal {
	var all []*rbacrules.Principal
	for _, part := range [][]*rbacrules.Principal{each(rule.Principals, peer), each(rule.Methods, method), each(rule.Paths, urlPath)} {
		if len(part) > 0 {
			all = append(all, anyOf(part))
		}
	}
	if len(all) == 0 {
		return &rbacrules.Principal{Identifier: &rbacrules.Principal_Any{Any: true}}
	}
	return allOf(all)
}

func each[T any](list []T, spell func(T) *rbacrules.Principal) (spelled []*rbacrules.Principal) {
	for _, x := range list {
		spelled = append(spelled, spell(x))
	}
	return spelled
}

// peer matches the URI of the peer's certificate, which the listener has verified. (Of a TLS session that is resumed Envoy's principal
// mtls_authenticated says that nothing was.)
func peer(id native.Text) *rbacrules.Principal {
	return &rbacrules.Principal{Identifier: &rbacrules.Principal_Authenticated_{Authenticated: &rbacrules.Principal_Authenticated{PrincipalName: stringMatcher(id)}}}
}

func method(name string) *rbacrules.Principal {
	return &rbacrules.Principal{Identifier: &rbacrules.Principal_Header{Header: &route.HeaderMatcher{
		Name: ":method", HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: stringMatcher(native.Text{Exact: name})},
	}}}
}

// urlPath matches the path without query.
func urlPath(path native.Text) *rbacrules.Principal {
	return &rbacrules.Principal{Identifier: &rbacrules.Principal_UrlPath{UrlPath: &matcher.PathMatcher{Rule: &matcher.PathMatcher_Path{Path: stringMatcher(path)}}}}
}

func stringMatcher(t native.Text) *matcher.StringMatcher {
	switch {
	case t.Regex != "":
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: t.Regex}}}
	case t.Prefix != "":
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: t.Prefix}}
	default:
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: t.Exact}}
	}
}

func anyOf(ids []*rbacrules.Principal) *rbacrules.Principal {
	if len(ids) == 1 {
		return ids[0]
	}
	return &rbacrules.Principal{Identifier: &rbacrules.Principal_OrIds{OrIds: &rbacrules.Principal_Set{Ids: ids}}}
}

func allOf(ids []*rbacrules.Principal) *rbacrules.Principal {
	if len(ids) == 1 {
		return ids[0]
	}
	return &rbacrules.Principal{Identifier: &rbacrules.Principal_AndIds{AndIds: &rbacrules.Principal_Set{Ids: ids}}}
}
