package authz

import (
	"fmt"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

func peer(t testing.TB, path string) identity.Principal {
	t.Helper()
	p, err := identity.ParsePrincipal("spiffe://mesh.example/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestIndexIsBounded asks for more principals than are kept.
func TestIndexIsBounded(t *testing.T) {
	set, err := Compile([]Policy{{Name: "p", Spec: policy.AccessPolicySpec{Effect: policy.Permit, Principals: []string{"spiffe://mesh.example/w/**"}, Targets: []policy.Target{{Workload: "front"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxAskers + 10 {
		for workload, want := range map[string]bool{"front": true, "back": false} {
			if _, allowed := set.Allowed(&Request{Principal: peer(t, fmt.Sprint("w/", i)), Workload: workload}); allowed != want {
				t.Fatalf("principal %d to %s: %v", i, workload, allowed)
			}
		}
		if n := len(*set.asked.Load()); n > maxAskers {
			t.Fatalf("%d indexes are kept, at most %d may be", n, maxAskers)
		}
	}
}

// BenchmarkAllowed judges by many policies: a tenth for the principal at hand, of which all but ten are each for one
// tenant. The cost is to be flat in their number.
func BenchmarkAllowed(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var policies []Policy
			for i := range n {
				p := Policy{Name: fmt.Sprintf("p%05d", i), Spec: policy.AccessPolicySpec{
					Effect: policy.Permit, Principals: []string{fmt.Sprintf("spiffe://mesh.example/w%d/*", i%10)}, Targets: []policy.Target{{Workload: "front", Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/rows%d/**", i)}}},
				}}
				if i >= 100 {
					p.Spec.Tenants.Names = []string{fmt.Sprint("tenant-", i)}
				}
				policies = append(policies, p)
			}
			set, err := Compile(policies)
			if err != nil {
				b.Fatal(err)
			}
			tenant, err := identity.ParseTenantID("tenant-" + fmt.Sprint(n-9))
			if err != nil {
				b.Fatal(err)
			}
			r := &Request{Principal: peer(b, "w1/a"), Workload: "front", Tenant: Tenant{ID: tenant}, Method: "GET", Path: "/rows91/7"}
			if _, allowed := set.Allowed(r); !allowed {
				b.Fatal("it is to be allowed")
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Allowed(r)
			}
		})
	}
}

// TestNearest: what is told of first is what could have decided, and all of it agrees with the whole story.
func TestNearest(t *testing.T) {
	spec := func(effect policy.Effect, principals string, names ...string) policy.AccessPolicySpec {
		return policy.AccessPolicySpec{
			Effect: effect, Principals: []string{"spiffe://mesh.example/" + principals}, Targets: []policy.Target{{Workload: "front"}}, Tenants: policy.TenantSelector{Names: names},
		}
	}
	set, err := Compile([]Policy{
		{Name: "a", Spec: spec(policy.Forbid, "other/*")}, {Name: "b", Spec: spec(policy.Forbid, "w/*", "acme")}, {Name: "c", Spec: spec(policy.Permit, "w/*")},
		{Name: "d", Spec: spec(policy.Permit, "w/*", "globex")}, {Name: "e", Spec: spec(policy.Permit, "else/*")},
	})
	if err != nil {
		t.Fatal(err)
	}
	acme, err := identity.ParseTenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{Principal: peer(t, "w/1"), Workload: "front", Tenant: Tenant{ID: acme}}
	whole := map[string]policy.RuleResult{}
	for _, result := range set.Authorize(r).Results {
		whole[result.Rule] = result
	}
	for most, want := range []string{"", "b", "bc", "bca", "bcad", "bcade", "bcade"} {
		got := ""
		for _, result := range set.Nearest(r, most) {
			got += result.Rule
			if result != whole[result.Rule] {
				t.Errorf("nearest is %+v, of all %+v", result, whole[result.Rule])
			}
		}
		if got != want {
			t.Errorf("the %d nearest are %q, want %q", most, got, want)
		}
	}
}
