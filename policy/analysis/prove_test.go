package analysis

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

func grant(principal string, tenants ...string) authz.Policy {
	return authz.AsPolicy("g", policy.AccessGrantSpec{
		Principal: principal, Tenants: policy.TenantSelector{Names: tenants}, Targets: []policy.Target{{Workload: "front"}}, NotAfter: noon.Add(time.Hour),
	}, 1)
}

const docs = "spiffe://m.example/cell/us/workload/docs"

func tiered(m *Mesh) *Mesh {
	m.Tiers = []string{"bronze", "gold"}
	return m
}

type spec = policy.AccessInvariantSpec

func TestCheckInvariant(t *testing.T) {
	for want, v := range map[string]spec{
		"": {OnlyFrom: []string{docs}, Workload: "x", Tenant: "acme", Methods: []string{"GET"}, Paths: []string{"/"}},
		"onlyFrom: must be set where noCrossTenant is not, and nowhere else (got [])":       {},
		"noCrossTenant: must stand alone: it is about all requests":                         {NoCrossTenant: true, Paths: []string{"/"}},
		"tenant: tenant name must hold only lower-case letters, digits and '-' (got \"A\")": {NoCrossTenant: true, Tenant: "A"},
	} {
		got := CheckInvariant(&v).Error()
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("it is %q, want %q", got, want)
		}
	}
}

func TestProve(t *testing.T) {
	bound := func(m *Mesh) *Mesh {
		m.Workloads = []Workload{{Name: "docs", Principals: []string{"spiffe://m.example/cell/*/workload/docs"}, BoundTenant: "acme"}, {Name: "front", Principals: []string{"spiffe://m.example/front"}}}
		return m
	}
	apart, onlyDocs := spec{NoCrossTenant: true}, spec{OnlyFrom: []string{"spiffe://m.example/cell/*/workload/docs"}, Workload: "front"}
	for name, test := range map[string]struct {
		mesh      *Mesh
		invariant spec
		outcome   Outcome
		request   string // that breaks it
		rule      string
		grants    []string
	}{
		"its own tenant":                {bound(mesh(permit("p", names("acme")))), apart, Holds, "", "", nil},
		"any tenant":                    {bound(mesh(permit("p"))), apart, Broken, "spiffe://m.example/cell/other/workload/docs for other (tier other): GET /rows of front", "p", nil},
		"one that is known":             {bound(mesh(permit("p", tier("gold"))).knowing(acme, authz.Tenant{ID: globex.ID, Tier: "gold"})), apart, Broken, "spiffe://m.example/cell/other/workload/docs for globex: GET /rows of front", "p", nil},
		"but forbidden":                 {bound(mesh(permit("p"), permit("f", forbid))), apart, Holds, "", "", nil},
		"not bound":                     {mesh(permit("p")), apart, Holds, "", "", nil},
		"a grant":                       {bound(mesh(permit("p", names("acme")), grant(docs, "globex"))), apart, Holds, "", "", []string{"grant/g"}},
		"a grant of its own tenant":     {bound(mesh(grant(docs, "acme"))), apart, Holds, "", "", nil},
		"a policy within a grant":       {bound(mesh(permit("p", who(docs), names("globex"), until(noon.Add(time.Minute))), grant(docs, "globex"))), apart, Holds, "", "", []string{"grant/g"}},
		"a policy for longer":           {bound(mesh(permit("p", who(docs), names("globex")), grant(docs, "globex"))), apart, Broken, docs + " for globex (tier other): GET /rows of front", "p", []string{"grant/g"}},
		"a holder with a policy":        {mesh(permit("p", names("initech")), grant(docs, "globex")), apart, Broken, docs + " for initech (tier other): GET /rows of front", "p", []string{"grant/g"}},
		"a condition that never holds":  {bound(mesh(permit("p", when("false")))), apart, Conditional, "", "", nil},
		"a condition that can hold":     {bound(mesh(permit("p", when("1 < 2")))), apart, Broken, "spiffe://m.example/cell/other/workload/docs for other (tier other): GET /rows of front", "p", nil},
		"a condition about a tenant":    {bound(mesh(permit("p", when(`tenant.name == "globex"`))).knowing(acme, globex)), apart, Broken, "spiffe://m.example/cell/other/workload/docs for globex: GET /rows of front", "p", nil},
		"a condition about a tier":      {bound(tiered(mesh(permit("p", when(`tenant.tier == "gold"`))))), apart, Broken, "spiffe://m.example/cell/other/workload/docs for other (tier gold): GET /rows of front", "p", nil},
		"a condition about a method":    {mesh(permit("p", by("GET", "PUT"), when(`request.method == "PUT"`))), spec{OnlyFrom: []string{"spiffe://m.example/x"}}, Broken, "spiffe://m.example/cell/other/workload/docs for other (tier other): PUT /rows of front", "p", nil},
		"first what is certain":         {mesh(permit("a", when("1 < 2")), permit("p", by("PUT"))), spec{OnlyFrom: []string{"spiffe://m.example/x"}}, Broken, "spiffe://m.example/cell/other/workload/docs for other (tier other): PUT /rows of front", "p", nil},
		"only from docs":                {mesh(permit("p")), onlyDocs, Holds, "", "", nil},
		"from gateways, too":            {mesh(permit("p"), permit("q", who("spiffe://m.example/gateway/*"))), onlyDocs, Broken, "spiffe://m.example/gateway/other for other (tier other): GET /rows of front", "q", nil},
		"from gateways, something else": {mesh(permit("q", who("spiffe://m.example/gateway/*"))), spec{OnlyFrom: []string{docs}, Methods: []string{"PUT"}}, Holds, "", "", nil},
		"a tenant that cannot be":       {mesh(permit("p", names("A B"))), spec{OnlyFrom: []string{docs}}, Conditional, "", "", nil},
		"for one tenant, at one path":   {mesh(permit("p", names("globex"))), spec{OnlyFrom: []string{"spiffe://m.example/x"}, Tenant: "acme", Paths: []string{"/**"}}, Holds, "", "", nil},
	} {
		proof, err := Prove(test.mesh, &Invariant{AccessInvariantSpec: test.invariant})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		request := ""
		if proof.Request != nil {
			request = proof.Request.String()
		}
		if proof.Outcome != test.outcome || request != test.request || proof.Rule != test.rule || proof.Nobody != (name == "not bound") || !slices.Equal(proof.Grants, test.grants) || (len(proof.Classes) > 0) != (test.outcome != Holds) {
			t.Errorf("%s: it %s, %q by %q, grants %v, classes %v", name, proof.Outcome, request, proof.Rule, proof.Grants, rows(proof.Classes))
		}
	}
}

func TestInvariantInWords(t *testing.T) {
	for want, invariant := range map[string]Invariant{
		"x":                      {"x", spec{NoCrossTenant: true}},
		"no cross-tenant":        {"", spec{NoCrossTenant: true}},
		"only from a, b to back": {"", spec{OnlyFrom: []string{"a", "b"}, Workload: "back"}},
	} {
		if got := invariant.String(); got != want {
			t.Errorf("it is %q, want %q", got, want)
		}
	}
}

// TestProveAgrees: what holds is broken by no request, and what is broken is so by the request that is shown.
func TestProveAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := meshes.Draw(rt, "mesh")
		only := patterns.Draw(rt, "only")
		proof, err := Prove(m, &Invariant{"", spec{OnlyFrom: []string{only}}})
		if err != nil {
			rt.Fatal(err)
		}
		set, err := authz.Compile(m.Policies)
		if err != nil {
			rt.Fatal(err)
		}
		if proof.Outcome == Broken {
			checkExample(rt, m, set, *proof.Request, true)
			return
		}
		s := newSpace(m)
		for _, r := range rapid.SliceOfN(requests(m.Tenants), 20, 20).Draw(rt, "requests") {
			outside := !s.pattern(only).has(strings.Split(strings.TrimPrefix(r.Principal.String(), scheme), "/"))
			if proof.Outcome == Holds && outside && set.Authorize(r).Allowed {
				rt.Fatalf("it holds, and %+v is allowed", r)
			}
		}
	})
}

func TestLint(t *testing.T) {
	registered := func(m *Mesh) *Mesh {
		m.Workloads = []Workload{
			{Name: "docs", Principals: []string{"spiffe://m.example/cell/*/workload/docs"}, DependsOn: []string{"front"}},
			{Name: "front", Principals: []string{"spiffe://m.example/cell/*/workload/front"}, Exposed: true},
		}
		m.Tiers = []string{"gold", "bronze"}
		return m.knowing(acme, globex)
	}
	gateways := who("spiffe://m.example/gateway/*")
	for name, test := range map[string]struct {
		mesh *Mesh
		want []string
	}{
		"nothing":                  {mesh(), nil},
		"all is well":              {registered(mesh(permit("p"), permit("q", gateways))), nil},
		"nobody knows":             {mesh(permit("p", to("x"), tier("y"), names("z"))), nil},
		"said twice":               {mesh(permit("p"), permit("q", paths("/rows/1"))), []string{"shadowed q: all that it permits is permitted by p"}},
		"said by two":              {mesh(permit("p", by("GET", "PUT")), permit("a", by("GET")), permit("b", by("PUT")), permit("c", to("back"))), []string{"shadowed a: all that it permits is permitted by p", "shadowed b: all that it permits is permitted by p", "shadowed p: all that it permits is permitted by a, b"}},
		"a condition does not say": {mesh(permit("p", when("1 < 2")), permit("q")), []string{"shadowed p: all that it permits is permitted by q"}},
		"forbidden":                {mesh(permit("p"), permit("f", forbid, everything), permit("g", forbid, to("back"))), []string{"shadowed g: all that it forbids is forbidden by f", "shadowed p: all that it permits is forbidden by f"}},
		"no such things": {registered(mesh(permit("p", to("x"), tier("y"), names("z"), who("spiffe://m.example/cell/us/workload/w")))), []string{
			`never p: targets[0].workload: there is no workload "x"`, `never p: principals[0]: no workload's ID, nor one of a gateway or the control plane, is of "spiffe://m.example/cell/us/workload/w"`,
			`never p: tenants.tiers[0]: there is no tier "y"`, `never p: tenants.names[0]: there is no tenant "z"`,
		}},
		"no such tenant": {registered(mesh(permit("p", tier("gold"), names("globex")))), []string{"never p: tenants: there is no tenant that it selects"}},
		"wider": {registered(mesh(permit("p", everything, who("spiffe://m.example/**")))), []string{
			"wider p: it permits calls that no workload depends on: gateways to docs, which is not exposed; front to docs",
		}},
		"grants are governed": {registered(mesh(permit("p", until(noon.Add(2*time.Hour))), func() authz.Policy {
			g := grant("spiffe://m.example/cell/us/workload/front", "acme")
			g.NotAfter = noon.Add(2 * time.Hour)
			return g
		}())), nil},
		"grants end": {mesh(permit("a", until(noon)), permit("b", until(noon.Add(30*time.Minute))), permit("c", until(noon.Add(2*time.Hour)), to("back"))), []string{
			"ending a: it ended at 2026-01-02T12:00:00Z: delete it", "ending b: it ends at 2026-01-02T12:30:00Z, in 30m0s",
		}},
	} {
		findings, err := Lint(test.mesh, time.Hour)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, f := range findings {
			got = append(got, fmt.Sprintf("%s %s: %s", f.Check, f.Rule, f.Text))
		}
		wantRows(t, name, got, test.want)
	}
}

// TestLintShadowedAgrees: without a rule that is shadowed nothing changes.
func TestLintShadowedAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := meshes.Draw(rt, "mesh")
		findings, err := Lint(m, 0)
		if err != nil {
			rt.Fatal(err)
		}
		for _, f := range findings {
			if f.Check != Shadowed {
				continue
			}
			less := *m
			less.Policies = slices.DeleteFunc(slices.Clone(m.Policies), func(p authz.Policy) bool { return p.Name == f.Rule })
			if change, err := Diff(m, &less); err != nil || !change.Empty() {
				rt.Fatalf("%+v, and without it: %v %v %v", f, rows(change.Allowed), rows(change.Refused), err)
			}
		}
	})
}

func TestTry(t *testing.T) {
	m := mesh(permit("p", tier("gold"), until(noon.Add(time.Hour))), permit("f", forbid, paths("/rows/secret"))).knowing(acme)
	request := func(change func(*Request)) Request {
		r := Request{Principal: docs, Tenant: "acme", Workload: "front", Method: "GET", Path: "/rows/1"}
		change(&r)
		return r
	}
	same := func(*Request) {}
	cases := []Case{
		{"", request(same), Want{Decision: Allow}},
		{"by rule", request(same), Want{Decision: Allow, Rule: "p"}},
		{"none permits", request(func(r *Request) { r.Path = "/" }), Want{Decision: Refuse, Reason: policy.DeniedByPolicy}},
		{"forbidden", request(func(r *Request) { r.Path = "/rows/%73ecret" }), Want{Decision: Refuse, Rule: "f"}},
		{"no tenant", request(func(r *Request) { r.Tenant = "" }), Want{Decision: Refuse}},
		{"one that is not known", request(func(r *Request) { r.Tenant, r.Tier = "globex", "gold" }), Want{Decision: Allow}},
		{"later", request(func(r *Request) { r.Time = noon.Add(time.Hour) }), Want{Decision: Refuse}},
	}
	if failures, err := Try(m, cases); err != nil || len(failures) > 0 {
		t.Errorf("%v, failures %+v", err, failures)
	}
	wrong := []Case{
		{"decision", request(same), Want{Decision: Refuse}},
		{"rule", request(same), Want{Decision: Allow, Rule: "q"}},
		{"reason", request(func(r *Request) { r.Path = "/" }), Want{Decision: Refuse, Reason: policy.Residency}},
	}
	failures, err := Try(m, wrong)
	if err != nil || len(failures) != 3 || failures[0].Got.Rule != "p" || len(failures[0].Why) != 2 {
		t.Errorf("%v, failures %+v", err, failures)
	}
}

func TestWordsInOneLine(t *testing.T) {
	w := Words{Of: []string{"a", "b"}, Except: &Words{Of: []string{"c"}, Except: &Words{Of: []string{"d"}}}}
	if got, want := w.String(), "a, b except (c except d)"; got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
}
