package analysis

import (
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

func own(p *authz.Policy)      { p.Spec.Tenants.Own = true }
func resident(p *authz.Policy) { p.Spec.Tenants.Residency = "eu" }
func grpc(service string, methods ...string) change {
	return func(p *authz.Policy) {
		p.Spec.Targets = []policy.Target{{Workload: "front", GRPC: []policy.GRPC{{Service: service, Methods: methods}}}}
	}
}

// registered is a mesh with docs, of acme, reports, of globex, and front, of nobody.
func registered(policies ...authz.Policy) *Mesh {
	m := mesh(policies...)
	m.Workloads = []Workload{
		{Name: "docs", Principals: []string{"spiffe://m.example/cell/*/workload/docs"}, BoundTenant: "acme"},
		{Name: "front", Principals: []string{"spiffe://m.example/cell/*/workload/front"}},
		{Name: "reports", Principals: []string{"spiffe://m.example/reports"}, BoundTenant: "globex"},
	}
	return m
}

func TestAskAboutOwnResidentAndGRPC(t *testing.T) {
	everyone := who("spiffe://m.example/**")
	anything := func(p *authz.Policy) { p.Spec.Targets = []policy.Target{{Workload: "front"}} }
	eu, us := authz.Tenant{ID: acme.ID, Residency: "eu"}, authz.Tenant{ID: globex.ID}
	for name, test := range map[string]struct {
		mesh    *Mesh
		query   Query
		allowed []string
	}{
		"its own": {registered(permit("p", everyone, anything, own)), Query{}, []string{
			"p; who /cell/*/workload/docs; for acme; to front", "p; who /reports; for globex; to front"}},
		"its own, of a tenant":    {registered(permit("p", everyone, anything, own)), Query{Tenant: globex.ID}, []string{"p; who /reports; for globex; to front"}},
		"its own, of some":        {registered(permit("p", everyone, anything, own, tier("gold"))).knowing(acme, globex), Query{}, []string{"p; who /cell/*/workload/docs; for acme; to front"}},
		"its own, of no workload": {registered(permit("p", who("spiffe://m.example/gateway/*"), anything, own)), Query{}, nil},
		"its own, and nobody knows": {mesh(permit("p", everyone, anything, own)), Query{}, []string{
			"p; who /**; for any except no tenant; to front; when for the principal's own tenant"}},
		"its own, but a forbid": {registered(permit("p", everyone, anything, own), permit("f", forbid, everyone, anything, names("globex"))), Query{}, []string{"p; who /cell/*/workload/docs; for acme; to front"}},
		"but its own":           {registered(permit("p", who("spiffe://m.example/reports"), anything), permit("f", forbid, everyone, anything, own)), Query{}, []string{"p; who /reports; for any except globex; to front"}},
		"a residency":           {mesh(permit("p", anything, resident)), Query{}, []string{"p; who /cell/*/workload/docs; for residency eu; to front"}},
		"one that is known":     {mesh(permit("p", anything, resident)).knowing(eu, us), Query{Tenant: acme.ID}, []string{"p; who /cell/*/workload/docs; for acme; to front"}},
		"another residency":     {mesh(permit("p", anything, resident)).knowing(eu, us), Query{Tenant: globex.ID}, nil},
		"all but a residency":   {mesh(permit("p", anything), permit("f", forbid, anything, resident)), Query{}, []string{"p; who /cell/*/workload/docs; for any except residency eu; to front"}},
		"a gRPC method":         {mesh(permit("p", grpc("acme.Docs", "Get", "List"))), Query{}, []string{"p; who /cell/*/workload/docs; to front; by POST; at /acme.Docs/Get, /acme.Docs/List"}},
		"a gRPC service":        {mesh(permit("p", grpc("acme.Docs")), permit("f", forbid, grpc("acme.Docs", "Drop"))), Query{}, []string{"p; who /cell/*/workload/docs; to front; by POST; at /acme.Docs/* except /acme.Docs/Drop"}},
		"a gRPC method by hand": {mesh(permit("p", grpc("acme.Docs"))), Query{Method: "GET"}, nil},
	} {
		answer, err := Ask(test.mesh, &test.query)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantRows(t, name, rows(answer.Allowed), test.allowed)
	}
}

func TestDiffOfBindings(t *testing.T) {
	everyone := who("spiffe://m.example/**")
	of := func(tenant string) *Mesh {
		m := registered(permit("p", everyone, own))
		m.Workloads[0].BoundTenant = tenant
		return m
	}
	rest := "; to front; by GET; at /rows/**"
	for name, test := range map[string]struct {
		before, after *Mesh
		more, less    []string
	}{
		"the same":           {of("acme"), of("acme"), nil, nil},
		"bound to another":   {of("acme"), of("initech"), []string{"p; who /cell/*/workload/docs; for initech" + rest}, []string{"p; who /cell/*/workload/docs; for acme" + rest}},
		"bound no more":      {of("acme"), of(""), nil, []string{"p; who /cell/*/workload/docs; for acme" + rest}},
		"as the other knows": {of("acme"), mesh(permit("p", everyone, own)), nil, nil},
		"nobody knows":       {mesh(permit("p", everyone, own)), mesh(permit("q", everyone, own)), nil, nil},
		"a new one":          {mesh(), mesh(permit("p", own)), []string{"p; who /cell/*/workload/docs; for any except no tenant" + rest + "; when for the principal's own tenant"}, nil},
		"by hand":            {mesh(permit("p", grpc("a.B", "C"))), mesh(permit("p", by("POST"), paths("/a.B/C"))), nil, nil},
	} {
		got, err := Diff(test.before, test.after)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantRows(t, name+", allowed", rows(got.Allowed), test.more)
		wantRows(t, name+", refused", rows(got.Refused), test.less)
	}
}

// TestProveOwn: a policy for the principal's own tenant crosses none, and whom it lets in counts where only some may.
func TestProveOwn(t *testing.T) {
	everyone := who("spiffe://m.example/**")
	for name, test := range map[string]struct {
		mesh      *Mesh
		invariant spec
		outcome   Outcome
		request   string
	}{
		"no tenant is crossed":  {registered(permit("p", everyone, own)), spec{NoCrossTenant: true}, Holds, ""},
		"nor beside a grant":    {mesh(permit("p", everyone, own), grant(docs, "globex")), spec{NoCrossTenant: true}, Holds, ""},
		"one that is not bound": {registered(permit("p", everyone, own)), spec{OnlyFrom: []string{docs}, Tenant: "globex"}, Broken, "spiffe://m.example/reports for globex (tier other): GET /rows of front"},
		"only from those bound": {registered(permit("p", everyone, own)), spec{OnlyFrom: []string{"spiffe://m.example/reports"}, Tenant: "globex"}, Holds, ""},
		"whoever it is": {mesh(permit("p", everyone, own)), spec{OnlyFrom: []string{docs}, Tenant: "globex"}, Broken,
			"spiffe://m.example/cell (of globex) for globex (tier other): GET /rows of front"},
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
		if proof.Outcome != test.outcome || request != test.request {
			t.Errorf("%s: it %s, by %q; classes %v", name, proof.Outcome, request, rows(proof.Classes))
		}
	}
}

func TestLintAndTryOwn(t *testing.T) {
	nobody := permit("p", who("spiffe://m.example/cell/*/workload/front"), own)
	m := registered(nobody, permit("q", own))
	findings, err := Lint(m, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var never []string
	for _, f := range findings {
		if f.Check == Never {
			never = append(never, f.Rule+": "+f.Text)
		}
	}
	if len(never) != 1 || never[0] != "p: tenants.own: no workload of its principals is bound to a tenant" {
		t.Errorf("the findings are %q", never)
	}
	request := Request{Principal: docs, Tenant: "acme", Workload: "front", Method: "GET", Path: "/rows/1"}
	other, said := request, request
	other.Tenant, said.Own = "globex", "globex"
	for name, test := range map[string]struct {
		mesh    *Mesh
		request Request
		want    Verdict
	}{
		"its own": {m, request, Allow}, "another": {m, other, Refuse}, "what is registered counts": {m, said, Allow},
		"nobody knows": {mesh(permit("q", own)), request, Refuse}, "and it is said": {mesh(permit("q", own)), Request{docs, "acme", "", "", nil, "acme", "front", "GET", "/rows/1", time.Time{}}, Allow},
	} {
		failures, err := Try(test.mesh, []Case{{Request: test.request, Want: Want{Decision: test.want}}})
		if err != nil || len(failures) > 0 {
			t.Errorf("%s: %v %v", name, failures, err)
		}
	}
}
