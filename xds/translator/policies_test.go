package translator_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

func audiencesOf(mesh *ir.Mesh) map[string][]string {
	audiences := map[string][]string{}
	for _, r := range translator.Translate(mesh) {
		if r.TypeURL == meshname.TypeAccessPolicy {
			audiences[r.Name] = append(audiences[r.Name], r.Audience)
		}
	}
	return audiences
}

// TestPoliciesGoWhereTheyAreAbout: to the workloads that they name and to nobody else, whatever they do.
func TestPoliciesGoWhereTheyAreAbout(t *testing.T) {
	in := policy.Canary{Seed: "s", Percent: 10}
	others := in
	others.Others = true
	targets := func(workloads ...string) (spec policy.AccessPolicySpec) {
		for _, w := range workloads {
			spec.Targets = append(spec.Targets, policy.Target{Workload: w})
		}
		return spec
	}
	shadow := targets("a")
	shadow.Mode, shadow.Effect = policy.Shadow, policy.Forbid
	got := audiencesOf(&ir.Mesh{Policies: []ir.Policy{
		{Name: "one", Spec: targets("a")},
		{Name: "two", Spec: targets("b", "a", "b")},
		{Name: "any", Spec: targets("a", "*")},
		{Name: "shadow", Spec: shadow},
		authz.AsPolicy("g", policy.AccessGrantSpec{Targets: targets("b").Targets}, 1),
		{Name: "moved", Spec: targets("a"), Canary: &others},
		{Name: "moved@canary", Spec: targets("b"), Canary: &in},
		{Name: "opened", Spec: targets("a"), Canary: &others},
		{Name: "opened@canary", Spec: targets("*"), Canary: &in},
		{Name: "new@canary", Spec: targets("c"), Canary: &in},
	}})
	want := map[string][]string{
		"one": {"workload/a"}, "two": {"workload/a", "workload/b"}, "any": {"all"}, "shadow": {"workload/a"}, "grant/g": {"workload/b"},
		"moved": {"workload/a", "workload/b"}, "opened": {"all"}, "new": {"workload/c"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the audiences are %v, want %v", got, want)
	}
}

// TestShareOfPolicies: a sidecar that has only its share of the policies judges every request as one that has them all.
func TestShareOfPolicies(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	caller, err := identity.WorkloadID("mesh.example", "us-1", "caller")
	if err != nil {
		t.Fatal(err)
	}
	acme, err := identity.ParseTenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	spec := func() policy.AccessPolicySpec {
		s := policy.AccessPolicySpec{
			Effect: policy.Effect(pick("Permit", "Forbid")), Mode: policy.Mode(pick("", "", "Shadow")), Principals: []string{"spiffe://mesh.example/**"}, When: pick("", "", `request.method == "GET"`),
		}
		for range 1 + random.IntN(3) {
			s.Targets = append(s.Targets, policy.Target{Workload: pick("a", "b", "c", "d", "*"), Methods: []string{pick("GET", "PUT")}, Paths: []string{pick("/x", "/**")}})
		}
		return s
	}
	allowed := 0
	for range 500 {
		mesh := &ir.Mesh{}
		for i := range 6 {
			p := ir.Policy{Name: fmt.Sprint("p", i), Spec: spec()}
			switch random.IntN(4) {
			case 0:
				in := policy.Canary{Seed: p.Name, Percent: 50}
				others := in
				others.Others = true
				p.Canary = &others
				mesh.Policies = append(mesh.Policies, ir.Policy{Name: p.Name + policy.CanarySuffix, Spec: spec(), Canary: &in})
			case 1:
				p = authz.AsPolicy(p.Name, policy.AccessGrantSpec{Principal: caller.String(), Targets: p.Spec.Targets, NotAfter: now.Add(time.Duration(random.IntN(3)-1) * time.Hour)}, 1)
			}
			mesh.Policies = append(mesh.Policies, p)
		}
		whole, err := authz.Compile(mesh.Policies)
		if err != nil {
			t.Fatal(err)
		}
		workload := pick("a", "b", "c")
		share := policiesOf(t, mesh, translator.Audiences("us-1", workload))
		for range 10 {
			r := &authz.Request{
				Principal: caller, Workload: workload, Method: pick("GET", "PUT"), Path: pick("/x", "/y"), Now: now, Lapsed: random.IntN(4) == 0,
				Tenant: authz.Tenant{ID: acme, UID: pick("1", "2", "3")},
			}
			wantRule, want := whole.Allowed(r)
			if rule, got := share.Allowed(r); got != want || rule != wantRule {
				t.Fatalf("%+v of %+v: %v by %q, want %v by %q", r, mesh.Policies, got, rule, want, wantRule)
			}
			if got, want := matched(share, r), matched(whole, r); !slices.Equal(got, want) {
				t.Fatalf("%+v: explained by %v, want %v", r, got, want)
			}
			if want {
				allowed++
			}
		}
	}
	if allowed < 500 || allowed > 4500 {
		t.Errorf("%d of 5000 requests are allowed: the cases prove little", allowed)
	}
}

func policiesOf(t *testing.T, mesh *ir.Mesh, audiences []string) *authz.Set {
	t.Helper()
	var changes []policyset.Change
	for _, r := range translator.Translate(mesh) {
		if r.TypeURL == meshname.TypeAccessPolicy && slices.Contains(audiences, r.Audience) {
			changes = append(changes, policyset.Change{TypeURL: r.TypeURL, Name: r.Name, Message: r.Message})
		}
	}
	set, err := (*policyset.Set)(nil).With(changes, 1)
	if err != nil {
		t.Fatal(err)
	}
	return set.Policies
}

func matched(set *authz.Set, r *authz.Request) []policy.RuleResult {
	return slices.DeleteFunc(set.Authorize(r).Results, func(result policy.RuleResult) bool { return !result.Matched })
}
