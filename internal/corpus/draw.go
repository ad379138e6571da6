package corpus

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// DrawPolicies draws policies whose parts are likely to meet; plain ones have neither tenants nor conditions, and nothing too long for Envoy.
func DrawPolicies(t *rapid.T, plain bool) (policies []authz.Policy) {
	for i := range rapid.IntRange(0, 6).Draw(t, "policies") {
		p := authz.Policy{Name: fmt.Sprint("p", i), Spec: policy.AccessPolicySpec{
			Effect:     rapid.SampledFrom([]policy.Effect{policy.Permit, policy.Permit, policy.Forbid}).Draw(t, "effect"),
			Mode:       rapid.SampledFrom([]policy.Mode{"", "", policy.Enforce, policy.Shadow}).Draw(t, "mode"),
			Principals: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a/*", "a/**", "*/b", "a.b", "**", "*/*/" + strings.Repeat("c", 90)}), 1, 2).Draw(t, "principals"),
		}}
		for j := range p.Spec.Principals {
			p.Spec.Principals[j] = "spiffe://mesh.example/" + p.Spec.Principals[j]
		}
		for range rapid.IntRange(1, 2).Draw(t, "targets") {
			p.Spec.Targets = append(p.Spec.Targets, policy.Target{
				Workload: rapid.SampledFrom([]string{"back", "back", "*", "front"}).Draw(t, "workload"),
				Methods:  rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"GET", "PUT"}), 0, 2, rapid.ID).Draw(t, "methods"),
				Paths:    rapid.SliceOfN(rapid.SampledFrom([]string{"/", "/a", "/a/**", "/*", "/*/b", "/a;b/*", "/**", "/é", "/a/", "/a/*/**", "/100"}), 0, 3).Draw(t, "paths"),
			})
		}
		if rapid.IntRange(0, 3).Draw(t, "grpc") == 0 {
			p.Spec.Targets = append(p.Spec.Targets, policy.Target{Workload: "back", GRPC: []policy.GRPC{{Service: "a", Methods: rapid.SampledFrom([][]string{nil, {"b"}}).Draw(t, "calls")}}})
		}
		if !plain {
			p.Spec.Tenants.Own, p.Spec.Tenants.Residency = rapid.IntRange(0, 3).Draw(t, "own") == 0, rapid.SampledFrom([]string{"", "", "eu"}).Draw(t, "residency")
			p.Spec.Tenants.Names = rapid.SampledFrom([][]string{nil, {"acme"}, {"globex"}}).Draw(t, "names")
			p.Spec.When = rapid.SampledFrom([]string{"", "", `request.method == "GET"`, `request.segments[1] == "b"`}).Draw(t, "when")
			p.Canary = rapid.SampledFrom([]*policy.Canary{nil, nil, {Names: []string{"acme"}}, {Names: []string{"acme"}, Others: true}}).Draw(t, "canary")
			if p.Spec.Effect == policy.Permit {
				p.NotAfter = rapid.SampledFrom([]time.Time{{}, Noon, Noon.Add(time.Second)}).Draw(t, "end")
			}
		} else if slices.ContainsFunc(p.Spec.Principals, func(text string) bool { return len(text) > 100 }) {
			continue // is cut
		}
		policies = append(policies, p)
	}
	return policies
}

// DrawRequest draws a request, and its path as Envoy shows it.
func DrawRequest(t *rapid.T) (r authz.Request, path string) {
	id := rapid.SampledFrom(callers).Draw(t, "principal")
	r = authz.Request{Workload: Workload, Now: Noon, Purpose: "asked", Method: rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method")}
	r.Principal = principal(id)
	r.Tenant.ID, _ = identity.ParseTenantID(rapid.SampledFrom([]string{"", "acme", "globex"}).Draw(t, "tenant"))
	r.Own, _ = identity.ParseTenantID(rapid.SampledFrom([]string{"", "acme", "globex"}).Draw(t, "own"))
	if !r.Tenant.ID.IsZero() {
		r.Tenant.Residency = rapid.SampledFrom([]string{"", "eu"}).Draw(t, "residency")
	}
	path = "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "a;b", "a%3Bb", "%C3%A9", "A", "100", "%20"}), 0, 3).Draw(t, "segments"), "/")
	if rapid.Bool().Draw(t, "slash") && path != "/" {
		path += "/"
	}
	r.Path, _ = authz.Canonical(path)
	return r, path
}

var callers = []string{"a", "b", "a/b", "a/b/c", "a.b", "axb", "c/b", "a/b/" + strings.Repeat("c", 90)}

// Principals are all that ask in drawn requests.
func Principals() (ids []identity.Principal) {
	for _, path := range callers {
		ids = append(ids, principal(path))
	}
	return ids
}

func principal(path string) identity.Principal {
	id, err := identity.ParsePrincipal("spiffe://" + TrustDomain + "/" + path)
	if err != nil {
		panic(err) // it is written above
	}
	return id
}
