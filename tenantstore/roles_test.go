package tenantstore_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const bindings = `---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: billing}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: RoleBinding
metadata: {name: search}
spec: {role: AppTeam, principals: ["spiffe://a.example/team/search/*"], workloads: [search]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: RoleBinding
metadata: {name: acme}
spec: {role: TenantAdmin, principals: ["spiffe://a.example/tenant/acme/*"], tenants: [acme]}
`

func authorOf(t testing.TB, path string) identity.Principal {
	t.Helper()
	p, err := identity.ParsePrincipal("spiffe://a.example/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func aboutPolicy(spec string) string {
	return `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: p}
spec: {effect: Permit, principals: ["spiffe://a.example/x"], ` + spec + "}\n"
}

// TestAuthors: a team writes about its workloads and a tenant's admin about its tenant, and neither takes what is another's, nor gives away
// what it has into another's hands.
func TestAuthors(t *testing.T) {
	team, admin, stranger := authorOf(t, "team/search/ann"), authorOf(t, "tenant/acme/bob"), authorOf(t, "team/billing/eve")
	grant := `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessGrant
metadata: {name: g}
spec: {principal: "spiffe://a.example/x", reason: r, approver: "spiffe://a.example/y", notAfter: 2030-01-01T00:00:00Z, `
	for name, test := range map[string]struct {
		author identity.Principal
		before string // that an operator wrote
		text   string
		want   string // in the error; "" for none
	}{
		"a team's":                   {team, "", aboutPolicy("targets: [{workload: search}]"), ""},
		"a team's, for some tenants": {team, "", aboutPolicy("targets: [{workload: search}], tenants: {tiers: [gold]}"), ""},
		"a team's grant":             {team, "", grant + "targets: [{workload: search}], tenants: {names: [acme]}}", ""},
		"any workload":               {team, "", aboutPolicy(`targets: [{workload: "*"}]`), `AccessPolicy/p: spec.targets[0].workload: must be a workload of your team: search; ask an operator for others (got "*")`},
		"another workload":           {team, "", aboutPolicy("targets: [{workload: search}, {workload: billing}]"), `spec.targets[1].workload: must be a workload of your team: search; ask an operator for others (got "billing")`},
		"no workload":                {team, "", aboutPolicy("targets: []"), "spec.targets: must name workloads of your team: search (got none)"},
		"a grant beyond":             {team, "", grant + "targets: [{workload: billing}], tenants: {names: [acme]}}", "AccessGrant/g: spec.targets[0].workload"},
		"an operator's":              {team, aboutPolicy("targets: [{workload: billing}]"), aboutPolicy("targets: [{workload: search}]"), `AccessPolicy/p: metadata.name: must be of an object of yours, or new; ask an operator about this one (got "p")`},
		"an operator's, the same":    {team, aboutPolicy("targets: [{workload: billing}]"), aboutPolicy("targets: [{workload: billing}]"), "metadata.name: must be of an object of yours"},
		"an operator's about it":     {team, aboutPolicy("targets: [{workload: search}], tenants: {names: [acme]}"), aboutPolicy("targets: [{workload: search}]"), ""},
		"widened":                    {team, aboutPolicy("targets: [{workload: search}]"), aboutPolicy(`targets: [{workload: "*"}]`), "spec.targets[0].workload"},
		"an admin's":                 {admin, "", aboutPolicy(`targets: [{workload: "*"}], tenants: {names: [acme]}`), ""},
		"an admin's, with less":      {admin, "", aboutPolicy(`targets: [{workload: search}], tenants: {names: [acme], tiers: [gold], own: true, residency: eu}`), ""},
		"another tenant":             {admin, "", aboutPolicy(`targets: [{workload: search}], tenants: {names: [acme, globex]}`), `spec.tenants.names[1]: must be a tenant of yours: acme; ask an operator for others (got "globex")`},
		"all tenants":                {admin, "", aboutPolicy(`targets: [{workload: search}]`), "spec.tenants.names: must name tenants of yours: acme (got all)"},
		"tenants by tier":            {admin, "", aboutPolicy(`targets: [{workload: search}], tenants: {tiers: [gold]}`), "spec.tenants.names: must name tenants of yours: acme (got none: tiers, residency, labels and own select tenants of others, too)"},
		"tenants by label":           {admin, "", aboutPolicy(`targets: [{workload: search}], tenants: {labels: {a: b}}`), "spec.tenants.names"},
		"tenants by residency":       {admin, "", aboutPolicy(`targets: [{workload: search}], tenants: {residency: eu}`), "spec.tenants.names"},
		"everyone's own":             {admin, "", aboutPolicy(`targets: [{workload: search}], tenants: {own: true}`), "spec.tenants.names"},
		"a team's, by an admin":      {admin, aboutPolicy("targets: [{workload: search}]"), aboutPolicy("targets: [{workload: search}], tenants: {names: [acme]}"), "metadata.name: must be of an object of yours"},
		"another kind":               {team, "", bindings, "kind: must be AccessPolicy or AccessGrant: ask an operator to write others"},
		"its own binding":            {team, "", strings.Replace(bindings, "[search]}", "[search, billing]}", 1), "RoleBinding/search: kind"},
		"its own tenant":             {admin, "", strings.Replace(mesh, "tier: gold", "tier: platinum", 1), "Tenant/acme: kind"},
		"a stranger's":               {stranger, "", aboutPolicy("targets: [{workload: billing}]"), "AccessPolicy/p: must be written by an operator, or by somebody whom a RoleBinding names"},
	} {
		writer, store := newWriter()
		if _, err := writer.Apply(t.Context(), "test", decode(t, mesh+bindings+"---"+test.before), tenantstore.ApplyOptions{}); err != nil {
			t.Fatal(name, err)
		}
		before, err := store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = writer.Apply(t.Context(), "test", decode(t, test.text), tenantstore.ApplyOptions{Author: test.author})
		var outside tenantstore.OutsideError
		if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &outside) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if after, err := store.Snapshot(t.Context()); err != nil || test.want != "" && after.Revision != before.Revision {
			t.Errorf("%s: something was written: %v", name, err)
		}
	}
}

// TestAuthorsDelete: what is another's is not deleted, nor what goes with it.
func TestAuthorsDelete(t *testing.T) {
	team := authorOf(t, "team/search/ann")
	writer, _ := newWriter()
	apply := func(text string) {
		t.Helper()
		if _, err := writer.Apply(t.Context(), "test", decode(t, text), tenantstore.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) error {
		_, err := writer.Delete(t.Context(), "test", []tenantstore.Key{{Kind: tenantstore.KindAccessPolicy, Name: name}}, tenantstore.ApplyOptions{Author: team})
		return err
	}
	apply(mesh + bindings + "---" + aboutPolicy("targets: [{workload: search}, {workload: billing}]"))
	var outside tenantstore.OutsideError
	if err := remove("p"); !errors.As(err, &outside) {
		t.Errorf("half its own: %v", err)
	}
	apply(aboutPolicy("targets: [{workload: search}]"))
	wider := decode(t, aboutPolicy("targets: [{workload: search}, {workload: billing}]"))[0]
	if _, err := writer.StartRollout(t.Context(), "test", tenantstore.RolloutRequest{Object: wider}, false); err != nil {
		t.Fatal(err)
	}
	if err := remove("p"); !errors.As(err, &outside) {
		t.Errorf("with a rollout of an operator: %v", err)
	}
	if _, err := writer.AbortRollout(t.Context(), "test", "accesspolicy-p"); err != nil {
		t.Fatal(err)
	}
	if err := remove("p"); err != nil {
		t.Error(err)
	}
	if err := remove("p"); !errors.Is(err, tenantstore.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	apply(aboutPolicy("targets: [{workload: billing}]"))
	key := tenantstore.Key{Kind: tenantstore.KindAccessPolicy, Name: "p"}
	asked := false
	_, err := writer.Apply(t.Context(), "test", decode(t, aboutPolicy("targets: [{workload: search}]")), tenantstore.ApplyOptions{
		Author: team, If: map[tenantstore.Key]func(int64) bool{key: func(int64) bool { asked = true; return false }},
	})
	if !errors.As(err, &outside) || asked {
		t.Errorf("its revision is told: %v", err)
	}
	// Who is bound no more writes no more.
	if _, err := writer.Delete(t.Context(), "test", []tenantstore.Key{{Kind: tenantstore.KindRoleBinding, Name: "search"}}, tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Apply(t.Context(), "test", decode(t, strings.Replace(aboutPolicy("targets: [{workload: search}]"), "name: p", "name: q", 1)), tenantstore.ApplyOptions{Author: team}); !errors.As(err, &outside) {
		t.Errorf("bound no more: %v", err)
	}
}

// TestAuthorsHaveABound: nobody but an operator fills the mesh with policies.
func TestAuthorsHaveABound(t *testing.T) {
	writer, _ := newWriter()
	if _, err := writer.Apply(t.Context(), "test", decode(t, mesh+bindings), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	many := make([]*tenantstore.Object, tenantstore.MaxOwn)
	for i := range many {
		many[i] = decode(t, aboutPolicy("targets: [{workload: search}]"))[0]
		many[i].Metadata.Name = fmt.Sprint("p", i)
	}
	team := tenantstore.ApplyOptions{Author: authorOf(t, "team/search/ann")}
	var outside tenantstore.OutsideError
	if _, err := writer.Apply(t.Context(), "test", many, team); !errors.As(err, &outside) { // gateway-search is about its workload, too
		t.Errorf("too many: %v", err)
	}
	for _, objects := range [][]*tenantstore.Object{many[1:], many[1:2]} {
		if _, err := writer.Apply(t.Context(), "test", objects, team); err != nil {
			t.Error(err)
		}
	}
	if _, err := writer.Apply(t.Context(), "test", many[:1], team); !errors.As(err, &outside) || !strings.Contains(err.Error(), "must leave at most 1000") {
		t.Errorf("one too many: %v", err)
	}
}

// TestAuthorsConditions: what a tenant's admin has others' requests wait for has a bound.
func TestAuthorsConditions(t *testing.T) {
	writer, _ := newWriter()
	if _, err := writer.Apply(t.Context(), "test", decode(t, mesh+bindings), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	apply := func(name, when string) error {
		o := decode(t, aboutPolicy("targets: [{workload: search}], tenants: {names: [acme]}"))[0]
		o.Metadata.Name, o.AccessPolicy.When = name, when
		_, err := writer.Apply(t.Context(), "test", []*tenantstore.Object{o}, tenantstore.ApplyOptions{Author: authorOf(t, "tenant/acme/bob")})
		return err
	}
	for name, when := range map[string]string{"a": `request.method == "GET"`, "b": `request.segments[0] == "x" && request.time.getHours() < 8`} {
		if err := apply(name, when); err != nil {
			t.Error(err)
		}
	}
	var outside tenantstore.OutsideError
	if err := apply("c", `request.path.contains("x")`); !errors.As(err, &outside) || !strings.Contains(err.Error(), "spec.when: must cost at most 10000 in the worst case") {
		t.Errorf("one of any cost: %v", err)
	}
	if err := apply("a", `request.segments.exists(s, s == "x")`); !errors.As(err, &outside) {
		t.Errorf("one that came to be of any cost: %v", err)
	}
	if err := apply("c", `1 +`); errors.As(err, &outside) || err == nil || !strings.Contains(err.Error(), "AccessPolicy/c: spec.when: must be a CEL condition") {
		t.Errorf("one that is none: %v", err)
	}
}

func TestRoleBindingProblems(t *testing.T) {
	for want, spec := range map[string]string{
		"spec.role: must be one of AppTeam, TenantAdmin":                    `{role: Root, principals: ["spiffe://a.example/x"]}`,
		"spec.principals: must name at least one SPIFFE pattern (got none)": `{role: AppTeam, workloads: [search]}`,
		"spec.principals[0]: ":                                           `{role: AppTeam, principals: ["spiffe://*/x"], workloads: [search]}`,
		"spec.workloads: must name at least one (got none)":              `{role: AppTeam, principals: ["spiffe://a.example/x"]}`,
		"spec.tenants: must be given with role TenantAdmin alone":        `{role: AppTeam, principals: ["spiffe://a.example/x"], workloads: [search], tenants: [acme]}`,
		"spec.tenants: must name at least one":                           `{role: TenantAdmin, principals: ["spiffe://a.example/x"]}`,
		`spec.workloads[0]: must name a Workload that exists (got "*")`:  `{role: AppTeam, principals: ["spiffe://a.example/x"], workloads: ["*"]}`,
		`spec.tenants[0]: must name a Tenant that exists (got "nobody")`: `{role: TenantAdmin, principals: ["spiffe://a.example/x"], tenants: [nobody]}`,
	} {
		writer, _ := newWriter()
		text := mesh + "---\napiVersion: tenantmesh.dev/v1alpha1\nkind: RoleBinding\nmetadata: {name: r}\nspec: " + spec + "\n"
		if _, err := writer.Apply(t.Context(), "test", decode(t, text), tenantstore.ApplyOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// What a binding names stays: somebody else by its name would be the team's, too.
	writer, _ := newWriter()
	if _, err := writer.Apply(t.Context(), "test", decode(t, mesh+bindings), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Delete(t.Context(), "test", []tenantstore.Key{{Kind: tenantstore.KindTenant, Name: "acme"}}, tenantstore.ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "spec.tenants[0]") {
		t.Errorf("the tenant is deleted: %v", err)
	}
}

// TestScopeAgainstRequests: what a scope may write matches no request of others, whatever it is; and no less may be written than that.
func TestScopeAgainstRequests(t *testing.T) {
	names := []string{"a", "b", "c"}
	subset := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 2, rapid.ID)
	rapid.Check(t, func(rt *rapid.T) {
		scope := tenantstore.Scope{Workloads: map[string]bool{}, Tenants: map[string]bool{}}
		for _, name := range subset.Draw(rt, "workloads") {
			scope.Workloads[name] = true
		}
		for _, name := range subset.Draw(rt, "tenants") {
			scope.Tenants[name] = true
		}
		spec := policy.AccessPolicySpec{Effect: policy.Permit, Principals: []string{"spiffe://a.example/**"}, Tenants: policy.TenantSelector{
			Names: subset.Draw(rt, "names"), Own: rapid.Bool().Draw(rt, "own"), Residency: rapid.SampledFrom([]string{"", "eu"}).Draw(rt, "residency"),
		}}
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(append([]string{"*"}, names...)), 1, 2).Draw(rt, "targets") {
			spec.Targets = append(spec.Targets, policy.Target{Workload: name})
		}
		object := &tenantstore.Object{Kind: tenantstore.KindAccessPolicy, Metadata: tenantstore.Metadata{Name: "p"}, AccessPolicy: &spec}
		set, err := authz.Compile([]authz.Policy{{Name: "p", Spec: spec}})
		if err != nil {
			rt.Fatal(err)
		}
		otherWorkload, otherTenant := false, false
		for _, workload := range append([]string{"z"}, names...) {
			for _, tenant := range append([]string{"", "z"}, names...) {
				r := &authz.Request{Principal: authorOf(t, "x"), Workload: workload, Method: "GET", Path: "/", Tenant: authz.Tenant{Residency: "eu"}}
				_ = r.Tenant.ID.UnmarshalText([]byte(tenant))
				r.Own = r.Tenant.ID
				if _, allowed := set.Allowed(r); allowed {
					otherWorkload, otherTenant = otherWorkload || !scope.Workloads[workload], otherTenant || !scope.Tenants[tenant]
				}
			}
		}
		if may := len(scope.Outside(object)) == 0; may != (!otherWorkload || !otherTenant) {
			rt.Fatalf("it may be written: %v; it matches others' workloads: %v, others' tenants: %v; %+v of %+v", may, otherWorkload, otherTenant, spec, scope)
		}
	})
}

// TestNothingIsFetched: what who is no operator may write holds these texts and no others: none is a host, a file or a URL that the control
// plane or a sidecar would go to. Who adds one looks at that.
func TestNothingIsFetched(t *testing.T) {
	var texts []string
	var walk func(at string, of reflect.Type)
	walk = func(at string, of reflect.Type) {
		switch of.Kind() {
		case reflect.String:
			texts = append(texts, at)
		case reflect.Slice, reflect.Map, reflect.Pointer:
			walk(at, of.Elem())
		case reflect.Struct:
			for i := range of.NumField() {
				if f := of.Field(i); f.IsExported() {
					name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
					walk(at+"."+name, f.Type)
				}
			}
		default:
		}
	}
	walk("AccessPolicy", reflect.TypeFor[policy.AccessPolicySpec]())
	walk("AccessGrant", reflect.TypeFor[policy.AccessGrantSpec]())
	selects := func(kind string) []string {
		return []string{
			kind + ".tenants.names", kind + ".tenants.tiers", kind + ".tenants.residency", kind + ".tenants.labels",
			kind + ".targets.workload", kind + ".targets.methods", kind + ".targets.paths", kind + ".targets.grpc.service", kind + ".targets.grpc.methods",
		}
	}
	want := slices.Concat([]string{"AccessPolicy.effect", "AccessPolicy.mode", "AccessPolicy.principals"}, selects("AccessPolicy"), []string{"AccessPolicy.when", "AccessPolicy.audit", "AccessGrant.principal"}, selects("AccessGrant"),
		[]string{"AccessGrant.reason", "AccessGrant.approver"})
	if !slices.Equal(texts, want) {
		t.Errorf("the texts are\n%s\nwant\n%s", fmt.Sprint(texts), fmt.Sprint(want))
	}
}
