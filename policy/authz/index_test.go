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

// BenchmarkAllowedByPath judges by policies that are all about the principal and the workload at hand, for all tenants or for the
// one at hand, each with paths of its own.
func BenchmarkAllowedByPath(b *testing.B) {
	tenant, err := identity.ParseTenantID("acme")
	if err != nil {
		b.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		named []string
	}{{"general", nil}, {"named", []string{"acme"}}} {
		b.Run(test.name, func(b *testing.B) {
			set := manyPaths(b, test.named)
			r := &Request{Principal: peer(b, "w/a"), Workload: "front", Tenant: Tenant{ID: tenant}, Method: "GET", Path: "/v2/rows9123/7"}
			looked := 0
			for c := set.candidates(r); c.next() != nil; looked++ {
			}
			if rule, _ := set.Allowed(r); rule != "p09123" || looked != 1 {
				b.Fatalf("%q decides, of %d", rule, looked)
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Allowed(r)
			}
		})
	}
}

// manyPaths are 10,000 policies about the same principals and workload, and tenants.
func manyPaths(t testing.TB, tenants []string) *Set {
	t.Helper()
	var policies []Policy
	for i := range 10_000 {
		policies = append(policies, Policy{Name: fmt.Sprintf("p%05d", i), Spec: policy.AccessPolicySpec{
			Effect: policy.Permit, Principals: []string{"spiffe://mesh.example/w/*"}, Tenants: policy.TenantSelector{Names: tenants},
			Targets: []policy.Target{{Workload: "front", Paths: []string{fmt.Sprintf("/v1/rows%d/*", i), fmt.Sprintf("/v2/rows%d/**", i)}}},
		}})
	}
	set, err := Compile(policies)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestIndexByPath: of many rules those are found that a scan of all finds, in the same order.
func TestIndexByPath(t *testing.T) {
	segments := []string{"a", "b", "*", "c"}
	var policies []Policy
	for i := range 4 * few {
		path := ""
		for depth, n := 0, i; depth < 2+i%5; depth, n = depth+1, n/4 {
			path += "/" + segments[n%4]
		}
		if i%3 == 0 {
			path += "/**"
		}
		p := Policy{Name: fmt.Sprintf("p%03d", i), Spec: policy.AccessPolicySpec{
			Effect: []policy.Effect{policy.Permit, policy.Permit, policy.Forbid}[i%3], Principals: []string{"spiffe://mesh.example/w/*"},
			Targets: []policy.Target{{Workload: "front", Paths: []string{path, "/a/" + segments[i%4]}}, {Workload: "*", Methods: []string{"PUT"}, Paths: []string{"/**"}[:i%2]}},
		}}
		if i%2 == 0 {
			p.Spec.Tenants.Names = []string{"acme"}
		}
		policies = append(policies, p)
	}
	set, err := Compile(policies)
	if err != nil {
		t.Fatal(err)
	}
	acme, err := identity.ParseTenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "a", "/", "/a", "/a/", "/a/b", "/b/a/c", "/a/b/c/a/b/c", "/c/c/c/c", "/x/y/z", "/a/x/a/a", "/a//a"} {
		for _, method := range []string{"GET", "PUT"} {
			for _, tenant := range []identity.TenantID{{}, acme} {
				r := &Request{Principal: peer(t, "w/1"), Workload: "front", Tenant: Tenant{ID: tenant}, Method: method, Path: path}
				whole := set.Authorize(r)
				if rule, allowed := set.Allowed(r); rule != whole.Rule || allowed != whole.Allowed {
					t.Errorf("%s %q: %q decides, and of all %q", method, path, rule, whole.Rule)
				}
				found, last := map[string]bool{}, -1
				for c := set.candidates(r); ; {
					rule := c.next()
					if rule == nil {
						break
					}
					if rule.place <= last {
						t.Errorf("%s %q: rule %d comes after %d", method, path, rule.place, last)
					}
					found[rule.name], last = true, rule.place
				}
				for _, result := range whole.Results {
					if result.Matched && !found[result.Rule] {
						t.Errorf("%s %q: %s matches, and is not found", method, path, result.Rule)
					}
				}
			}
		}
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
