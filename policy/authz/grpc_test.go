package authz

import (
	"slices"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

func calls(service string, methods ...string) func(*Policy) {
	return func(p *Policy) {
		p.Spec.Targets = []policy.Target{{Workload: "search", GRPC: []policy.GRPC{{Service: service, Methods: methods}}}}
	}
}

func TestGRPC(t *testing.T) {
	for name, test := range map[string]struct {
		target       func(*Policy)
		method, path string
		why          string
	}{
		"the method":          {calls("acme.Search", "Find"), "POST", "/acme.Search/Find", ""},
		"any method":          {calls("acme.Search"), "POST", "/acme.Search/List", ""},
		"one of two":          {calls("acme.Search", "Find", "List"), "POST", "/acme.Search/List", ""},
		"another method":      {calls("acme.Search", "Find"), "POST", "/acme.Search/FindAll", "path"},
		"another service":     {calls("acme.Search"), "POST", "/acme.search/Find", "path"},
		"another package":     {calls("Search", "Find"), "POST", "/acme.Search/Find", "path"},
		"no method":           {calls("acme.Search"), "POST", "/acme.Search/", "path"},
		"more than a method":  {calls("acme.Search"), "POST", "/acme.Search/Find/x", "path"},
		"below the method":    {calls("acme.Search", "Find"), "POST", "/acme.Search/Find/", "path"},
		"not by gRPC":         {calls("acme.Search", "Find"), "GET", "/acme.Search/Find", "method"},
		"a path in its place": {calls("acme.Search", "Find"), "POST", "//acme.Search/Find", "path"},
	} {
		set, err := Compile([]Policy{permit(test.target)})
		if err != nil {
			t.Fatal(err)
		}
		r := request(t)
		r.Method, r.Path = test.method, test.path
		if d := set.Authorize(r); d.Allowed != (test.why == "") || d.Results[0].Why != test.why {
			t.Errorf("%s: allowed %v, because of %q, want %q", name, d.Allowed, d.Results[0].Why, test.why)
		}
	}
}

func TestGRPCProblems(t *testing.T) {
	for field, target := range map[string]policy.Target{
		"targets[0].grpc":               {GRPC: []policy.GRPC{{Service: "acme.Search"}}, Paths: []string{"/x"}},
		"targets[0].grpc[0].service":    {GRPC: []policy.GRPC{{Service: "acme..Search"}}},
		"targets[0].grpc[1].service":    {GRPC: []policy.GRPC{{Service: "acme.Search"}, {Service: "*"}}},
		"targets[0].grpc[0].methods[1]": {GRPC: []policy.GRPC{{Service: "acme.Search", Methods: []string{"Find", "a.b"}}}},
		"targets[0].grpc[0].methods[0]": {GRPC: []policy.GRPC{{Service: "acme.Search", Methods: []string{""}}}},
	} {
		target.Workload = "search"
		spec := permit().Spec
		spec.Targets = []policy.Target{target}
		var fields []string
		for _, p := range CheckSpec(spec) {
			fields = append(fields, p.Field)
		}
		if !slices.Equal(fields, []string{field}) {
			t.Errorf("problems with %q, want %q", fields, field)
		}
	}
}

// TestOwn: a policy for a principal's own tenant is for the one that it is bound to, and for who is bound to none for none.
func TestOwn(t *testing.T) {
	set, err := Compile([]Policy{permit(own)})
	if err != nil {
		t.Fatal(err)
	}
	acme, globex := request(t).Tenant.ID, identity.TenantID{}
	if err := globex.UnmarshalText([]byte("globex")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		bound, tenant identity.TenantID
		why           string
	}{
		{acme, acme, ""}, {globex, acme, "tenants.own"}, {identity.TenantID{}, acme, "tenants.own"},
		{acme, identity.TenantID{}, "tenants.own"}, {identity.TenantID{}, identity.TenantID{}, "tenants.own"},
	} {
		r := request(t)
		r.Own, r.Tenant.ID = test.bound, test.tenant
		d := set.Authorize(r)
		if _, allowed := set.Allowed(r); allowed != (test.why == "") || d.Allowed != allowed || d.Results[0].Why != test.why {
			t.Errorf("of %q for %q: Allowed %v, Authorize %v, because of %q; want %q", test.bound, test.tenant, allowed, d.Allowed, d.Results[0].Why, test.why)
		}
	}
}
