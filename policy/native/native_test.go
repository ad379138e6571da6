package native

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/internal/corpus"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Match reports whether the text matches, as Envoy does.
func (t Text) Match(text string) bool {
	switch {
	case t.Regex != "":
		return regexp.MustCompile(`^(?:` + t.Regex + `)$`).MatchString(text)
	case t.Prefix != "":
		return strings.HasPrefix(text, t.Prefix)
	default:
		return text == t.Exact
	}
}

// allow is Envoy's verdict on a request by its path as Envoy has it, without query.
func (rs *Rules) allow(principal, method, path string) bool {
	one := func(texts []Text, text string) bool {
		return len(texts) == 0 || slices.ContainsFunc(texts, func(t Text) bool { return t.Match(text) })
	}
	matches := func(r Rule) bool {
		return one(r.Principals, principal) && (len(r.Methods) == 0 || slices.Contains(r.Methods, method)) && one(r.Paths, path)
	}
	return WellFormed.Match(path) && !slices.ContainsFunc(rs.Forbids, matches) && slices.ContainsFunc(rs.Permits, matches)
}

func compile(workload string, policies []authz.Policy) Rules {
	about := ByWorkload(policies)
	return Compile(workload, about[workload], about["*"])
}

// TestCorpus: what a real Envoy says of the corpus is what is said here (xds/translator asks one).
func TestCorpus(t *testing.T) {
	for _, c := range corpus.Read(t, "../testdata/corpus") {
		rules := compile(corpus.Workload, c.Policies)
		for _, r := range c.Requests {
			if path, _ := authz.SplitPath(r.Seen); r.Seen != "" && rules.allow(r.Principal.String(), r.Method, path) != r.Envoy {
				t.Errorf("%s: %s: allowed is %v", c.Name, r.Line, !r.Envoy)
			}
		}
	}
}

// TestNeverNarrower: whatever the policies are, nothing is refused that the evaluator allows, and where they know neither tenants
// nor conditions, nothing is allowed that it refuses.
func TestNeverNarrower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.Bool().Draw(t, "plain")
		policies := corpus.DrawPolicies(t, plain)
		set, err := authz.Compile(policies)
		if err != nil {
			t.Fatal(err)
		}
		rules := compile("back", policies)
		for range 20 {
			r, path := corpus.DrawRequest(t)
			_, want := set.Allowed(&r)
			if got := rules.allow(r.Principal.String(), r.Method, path); got != want && (want || plain) {
				t.Fatalf("%s %s by %s: the evaluator says %v, the rules %v\n%+v", r.Method, path, r.Principal, want, got, rules)
			}
		}
	})
}

// TestOneRuleForMany: what differs in what Envoy does not see is one rule.
func TestOneRuleForMany(t *testing.T) {
	var policies []authz.Policy
	for i := range 10_000 {
		policies = append(policies, authz.Policy{Name: fmt.Sprint("p", i), Spec: policy.AccessPolicySpec{
			Effect: policy.Permit, Principals: []string{"spiffe://mesh.example/gateway/*", fmt.Sprintf("spiffe://mesh.example/w/%d", i%3)},
			Tenants: policy.TenantSelector{Names: []string{fmt.Sprint("tenant-", i)}}, Targets: []policy.Target{{Workload: "back", Methods: []string{"PUT", "GET"}, Paths: []string{fmt.Sprintf("/rows%d/**", i%10)}}},
		}})
	}
	rules := compile("back", policies)
	if len(rules.Permits) != 1 || len(rules.Permits[0].Principals) != 4 || len(rules.Permits[0].Paths) != 20 || rules.Detail != Whole {
		t.Errorf("%+v", rules)
	}
	if rules := compile("front", policies); len(rules.Permits)+len(rules.Forbids) != 0 {
		t.Errorf("another workload has %+v", rules)
	}
}

// TestBound: rules that would be too large say less, and refuse no more.
func TestBound(t *testing.T) {
	for _, test := range []struct {
		what       string
		principals func(i int) string
		want       Detail
		stranger   bool // of the trust domain
	}{
		{"many paths", func(int) string { return "gateway/*" }, ByPrincipal, false},
		{"many principals", func(i int) string { return fmt.Sprintf("workload/%d/with/a/name/of/some/length/*/and/more", i) }, TrustDomains, true},
	} {
		t.Run(test.what, func(t *testing.T) {
			policies := []authz.Policy{{Name: "f", Spec: policy.AccessPolicySpec{Effect: policy.Forbid, Principals: []string{"spiffe://mesh.example/**"}, Targets: []policy.Target{{Workload: "back", Paths: []string{"/secret"}}}}}}
			for i := range 3000 {
				policies = append(policies, authz.Policy{Name: fmt.Sprint("p", i), Spec: policy.AccessPolicySpec{
					Effect: policy.Permit, Principals: []string{"spiffe://mesh.example/" + test.principals(i)}, Targets: []policy.Target{{Workload: "back", Paths: []string{fmt.Sprintf("/rows%d/of/*/that/are/many", i)}}},
				}})
			}
			rules := compile("back", policies)
			if rules.Detail != test.want || rules.size() > MaxSize {
				t.Fatalf("%q of %d bytes", rules.Detail, rules.size())
			}
			own := strings.ReplaceAll("spiffe://mesh.example/"+test.principals(7), "*", "x")
			for principal, want := range map[string]bool{own: true, "spiffe://mesh.example/stranger": test.stranger, "spiffe://mesh.example.org/gateway/x": false} {
				if got := rules.allow(principal, "GET", "/rows7/of/x/that/are/many"); got != want {
					t.Errorf("%s: %v", principal, got)
				}
			}
			if rules.allow(own, "GET", "/secret") {
				t.Error("many Permits took a Forbid away")
			}
		})
	}
}

// TestBoundOfForbids: Forbids that are too large themselves are the check's alone, and the Permits are as they were.
func TestBoundOfForbids(t *testing.T) {
	policies := []authz.Policy{{Name: "p", Spec: policy.AccessPolicySpec{Effect: policy.Permit, Principals: []string{"spiffe://mesh.example/a"}, Targets: []policy.Target{{Workload: "back", Paths: []string{"/rows"}}}}}}
	for i := range 3000 {
		policies = append(policies, authz.Policy{Name: fmt.Sprint("f", i), Spec: policy.AccessPolicySpec{
			Effect: policy.Forbid, Principals: []string{"spiffe://mesh.example/**"}, Targets: []policy.Target{{Workload: "back", Paths: []string{fmt.Sprintf("/secret%d/that/are/many", i)}}},
		}})
	}
	rules := compile("back", policies)
	if rules.Detail != Whole || len(rules.Forbids) != 0 || rules.size() > MaxSize || !rules.allow("spiffe://mesh.example/a", "GET", "/rows") || rules.allow("spiffe://mesh.example/a", "GET", "/other") {
		t.Errorf("%q of %d bytes, %d Forbids", rules.Detail, rules.size(), len(rules.Forbids))
	}
}

// TestUnknownParts: a part of a policy that is not known here may narrow it: a Forbid with one does not count.
func TestUnknownParts(t *testing.T) {
	forbid := authz.Policy{Name: "f", Spec: policy.AccessPolicySpec{Effect: policy.Forbid, Principals: []string{"spiffe://mesh.example/**"}, Targets: []policy.Target{{Workload: "back"}}}}
	if rules := compile("back", []authz.Policy{forbid}); len(rules.Forbids) != 1 {
		t.Errorf("%+v", rules)
	}
	for name, change := range map[string]func(p *authz.Policy){
		"tenants":  func(p *authz.Policy) { p.Spec.Tenants.Tiers = []string{"gold"} },
		"when":     func(p *authz.Policy) { p.Spec.When = "true" },
		"canary":   func(p *authz.Policy) { p.Canary = &policy.Canary{} },
		"shadow":   func(p *authz.Policy) { p.Spec.Mode = policy.Shadow },
		"notAfter": func(p *authz.Policy) { p.NotAfter = corpus.Noon },
		"workload": func(p *authz.Policy) { p.Spec.Targets[0].Workload = "front" },
	} {
		p := forbid
		p.Spec.Targets = slices.Clone(p.Spec.Targets)
		if change(&p); len(compile("back", []authz.Policy{p}).Forbids) != 0 {
			t.Errorf("%s: it counts", name)
		}
	}
}
