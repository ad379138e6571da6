package policyset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

func tenant(name string, burst int64) Change {
	return Change{meshname.TypeTenantPolicy, name, &api.TenantPolicy{
		Tenant: name, Phase: "Active", Placement: &api.Placement{Cell: "us-1", Epoch: 1}, Limits: &api.Limits{RequestsPerSecond: 1, Burst: burst, Concurrency: 1, Classes: map[string]*api.ClassLimit{"exports": {Concurrency: 1}}},
	}}
}

func with(t *testing.T, s *Set, changes ...Change) *Set {
	t.Helper()
	next, err := s.With(changes, 1)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestASetNeverChanges(t *testing.T) {
	first := with(t, nil, tenant("acme", 1), tenant("globex", 1))
	second := with(t, first, tenant("acme", 2), Change{meshname.TypeTenantPolicy, "globex", nil})
	if a, _ := first.Tenant("acme"); a.Limits.Burst != 1 || first.Tenants() != 2 {
		t.Errorf("the first set changed: acme %+v of %d", a, first.Tenants())
	}
	if a, _ := second.Tenant("acme"); a.Limits.Burst != 2 || a.Limits.Classes["exports"].Concurrency != 1 || second.Tenants() != 1 {
		t.Errorf("the second set has acme %+v of %d", a, second.Tenants())
	}
	if _, ok := second.Tenant("globex"); ok {
		t.Error("globex was removed, and is there")
	}
	if _, ok := (*Set)(nil).Tenant("acme"); ok {
		t.Error("an empty set has a tenant")
	}
}

func TestLimitsThatDidNotArrive(t *testing.T) {
	s := with(t, nil, Change{meshname.TypeTenantPolicy, "acme", &api.TenantPolicy{Tenant: "acme"}})
	if a, _ := s.Tenant("acme"); a.Limits.RequestsPerSecond != 10 || a.Limits.Burst != 20 || a.Limits.Classes["exports"].Concurrency != 1 {
		t.Errorf("the safe limits are %+v", a.Limits)
	}
}

// TestBadResources: each is named, and nothing of its push is taken.
func TestBadResources(t *testing.T) {
	good := with(t, nil, tenant("acme", 1))
	bad := []Change{
		tenant("acme", 2),
		{meshname.TypeTenantPolicy, "Bad", &api.TenantPolicy{Tenant: "Bad"}},
		{meshname.TypeAccessPolicy, "p", &api.AccessPolicy{Name: "p", Effect: "Maybe"}},
		{meshname.TypeSignerKey, "k1", &api.SignerKey{Principal: "x"}},
		{meshname.TypeSignerKey, "k2", &api.SignerKey{Principal: "spiffe://a.example/x", PublicKey: []byte("short")}},
		{meshname.TypeSignerKey, "k3", &api.SignerKey{Principal: "spiffe://a.example/x", PublicKey: make([]byte, 32), Tenant: "Bad"}},
		{meshname.TypeProxyConfig, "self", &api.ProxyConfig{Classes: []*api.Class{{Name: "c", Paths: []string{"x"}}}}},
		{meshname.TypeProxyConfig, "self2", &api.ProxyConfig{BoundTenant: "Bad"}},
		{meshname.TypeProxyConfig, "self3", &api.ProxyConfig{Principal: "x"}},
		{"type.googleapis.com/other", "o", nil},
	}
	after, err := good.With(bad, 2)
	if err == nil || after != good {
		t.Fatalf("bad resources are taken: %v", err)
	}
	for _, c := range bad[1:] {
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", c.Name)) && c.Name != "p" {
			t.Errorf("the error does not name %s %s: %v", c.TypeURL, c.Name, err)
		}
	}
}

func TestEveryType(t *testing.T) {
	for _, typeURL := range Types() {
		if New(typeURL) == nil {
			t.Errorf("%s has no message", typeURL)
		}
	}
	if New("other") != nil {
		t.Error("an unknown type has a message")
	}
	s := with(t, nil,
		Change{meshname.TypeProxyConfig, "self", &api.ProxyConfig{Principal: "spiffe://a.example/x", BoundTenant: "acme", DependsOn: []*api.Dependency{{Kind: "workload", Name: "w", Tenancy: "untenanted"}}}},
		Change{meshname.TypeAccessPolicy, "p", &api.AccessPolicy{Name: "p", Effect: "Permit", Principals: []string{"spiffe://a.example/x"}, Targets: []*api.Target{{Workload: "*"}}}},
		Change{meshname.TypeSignerKey, "k", &api.SignerKey{Kid: "k", Principal: "spiffe://a.example/x", PublicKey: make([]byte, 32), Tenant: "acme", Cell: "us-1"}},
		Change{meshname.TypeTokenIssuer, "i", &api.TokenIssuer{Name: "i", Tenants: []string{"acme"}}})
	acme, _ := identity.ParseTenantID("acme")
	globex, _ := identity.ParseTenantID("globex")
	if s.Self.BoundTenant != acme || s.Self.Dependencies["workload/w"] != "untenanted" || s.Policies.Len() != 1 || s.Keys.Len() != 1 || !s.Issuers["i"].Speaks(acme) || s.Issuers["i"].Speaks(globex) {
		t.Errorf("the set is %+v", s)
	}
	s = with(t, s, Change{meshname.TypeProxyConfig, "self", nil}, Change{meshname.TypeAccessPolicy, "p", nil}, Change{meshname.TypeSignerKey, "k", nil}, Change{meshname.TypeTokenIssuer, "i", nil})
	if s.Self != nil || s.Policies.Len() != 0 || s.Keys.Len() != 0 || len(s.Issuers) != 0 {
		t.Errorf("after everything was removed the set is %+v", s)
	}
}

// TestPolicyInRollout: who is in the canary has what the policy will be, others what it was, and nobody has either when
// one of the two is wrong.
func TestPolicyInRollout(t *testing.T) {
	acme, _ := identity.ParseTenantID("acme")
	globex, _ := identity.ParseTenantID("globex")
	x, _ := identity.ParsePrincipal("spiffe://a.example/x")
	policyFor := func(effect string) *api.AccessPolicy {
		return &api.AccessPolicy{Name: "p", Effect: effect, Principals: []string{"spiffe://a.example/x"}, Targets: []*api.Target{{Workload: "*"}}}
	}
	change := func(before, after *api.AccessPolicy) Change {
		return Change{meshname.TypeAccessPolicy, "p", &api.AccessPolicy{Name: "p", Canary: &api.Canary{Names: []string{"acme"}, Before: before, After: after}}}
	}
	for name, test := range map[string]struct {
		before, after *api.AccessPolicy
		acme, globex  bool
	}{
		"new":     {nil, policyFor("Permit"), true, false},
		"changed": {policyFor("Permit"), policyFor("Forbid"), false, true},
	} {
		s := with(t, nil, change(test.before, test.after))
		for tenant, want := range map[identity.TenantID]bool{acme: test.acme, globex: test.globex, {}: test.globex} {
			if _, allowed := s.Policies.Allowed(&authz.Request{Principal: x, Tenant: authz.Tenant{ID: tenant}, Workload: "w"}); allowed != want {
				t.Errorf("%s: %q is allowed: %v", name, tenant, allowed)
			}
		}
	}
	for _, wrong := range []Change{change(policyFor("Permit"), policyFor("Maybe")), change(policyFor("Maybe"), policyFor("Permit")), change(policyFor("Permit"), nil), change(nil, nil)} {
		if _, err := (*Set)(nil).With([]Change{wrong}, 1); err == nil {
			t.Errorf("%v is taken", wrong.Message)
		}
	}
}

func TestHolder(t *testing.T) {
	var h Holder
	now := time.Now()
	if h.Load() != nil || h.Age(now) != 0 {
		t.Error("a new holder holds something")
	}
	h.Heard(now)
	if age := h.Age(now.Add(time.Minute)); age != time.Minute {
		t.Errorf("the age is %v", age)
	}
}

// BenchmarkChangeOneTenant costs the same among few and among many.
func BenchmarkChangeOneTenant(b *testing.B) {
	for _, n := range []int{100, 12000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var changes []Change
			for i := range n {
				changes = append(changes, tenant(fmt.Sprint("t-", i), 1))
			}
			s, err := (*Set)(nil).With(changes, 1)
			if err != nil {
				b.Fatal(err)
			}
			one := []Change{tenant("t-7", 2)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.With(one, 2); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
