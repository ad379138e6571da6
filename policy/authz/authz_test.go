package authz

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func principal(t testing.TB, s string) identity.Principal {
	t.Helper()
	p, err := identity.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(t testing.TB) *Request {
	acme, _ := identity.ParseTenantID("acme")
	return &Request{
		Principal: principal(t, "spiffe://a.example/cell/us-1/workload/documents"),
		Tenant:    Tenant{ID: acme, Tier: "gold", Residency: "eu", Labels: map[string]string{"plan": "trial"}},
		Workload:  "search", Method: "GET", Path: "/search/x", Now: noon,
	}
}

func permit(change ...func(*Policy)) Policy {
	p := Policy{Name: "p", Spec: policy.AccessPolicySpec{
		Effect: policy.Permit, Principals: []string{"spiffe://a.example/cell/*/workload/documents"},
		Targets: []policy.Target{{Workload: "search", Methods: []string{"GET"}, Paths: []string{"/search/**"}}},
	}}
	for _, f := range change {
		f(&p)
	}
	return p
}

func when(text string) func(*Policy)       { return func(p *Policy) { p.Spec.When = text } }
func forbid(p *Policy)                     { p.Name, p.Spec.Effect = "f", policy.Forbid }
func canary(c policy.Canary) func(*Policy) { return func(p *Policy) { p.Canary = &c } }
func own(p *Policy)                        { p.Spec.Tenants.Own = true }
func shadow(p *Policy)                     { p.Spec.Mode = policy.Shadow }

func TestAuthorize(t *testing.T) {
	for name, test := range map[string]struct {
		policies []Policy
		rule     string
		allowed  bool
	}{
		"nothing denies":        {nil, "", false},
		"permit":                {[]Policy{permit()}, "p", true},
		"forbid wins":           {[]Policy{permit(), permit(forbid)}, "f", false},
		"shadow forbid":         {[]Policy{permit(), permit(forbid, shadow)}, "p", true},
		"shadow permit":         {[]Policy{permit(shadow)}, "", false},
		"other workload":        {[]Policy{permit(func(p *Policy) { p.Spec.Targets[0].Workload = "httpbin" })}, "", false},
		"any workload":          {[]Policy{permit(func(p *Policy) { p.Spec.Targets[0].Workload = "*" })}, "p", true},
		"other method":          {[]Policy{permit(func(p *Policy) { p.Spec.Targets[0].Methods = []string{"PUT"} })}, "", false},
		"other path":            {[]Policy{permit(func(p *Policy) { p.Spec.Targets[0].Paths = []string{"/search"} })}, "", false},
		"second target":         {[]Policy{permit(func(p *Policy) { p.Spec.Targets = append([]policy.Target{{Workload: "x"}}, p.Spec.Targets...) })}, "p", true},
		"tier":                  {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Tiers = []string{"gold"} })}, "p", true},
		"other tier":            {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Tiers = []string{"bronze"} })}, "", false},
		"other name":            {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Names = []string{"globex"} })}, "", false},
		"label":                 {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Labels = map[string]string{"plan": "trial"} })}, "p", true},
		"residency":             {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Residency = "eu" })}, "p", true},
		"other residency":       {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Residency = "mars" })}, "", false},
		"not its own":           {[]Policy{permit(own)}, "", false},
		"a forbid of its own":   {[]Policy{permit(), permit(forbid, own)}, "p", true},
		"in the canary":         {[]Policy{permit(canary(policy.Canary{Names: []string{"acme"}}))}, "p", true},
		"not in the canary":     {[]Policy{permit(canary(policy.Canary{Names: []string{"globex"}}))}, "", false},
		"other label":           {[]Policy{permit(func(p *Policy) { p.Spec.Tenants.Labels = map[string]string{"plan": ""} })}, "", false},
		"condition":             {[]Policy{permit(when(`tenant.tier == "gold" && request.segments[1] == "x" && request.time.getHours() == 12`))}, "p", true},
		"condition fails":       {[]Policy{permit(when(`tenant.name == "globex"`))}, "", false},
		"permit with an error":  {[]Policy{permit(when(`request.segments[9] == "x"`))}, "", false},
		"forbid with an error":  {[]Policy{permit(), permit(forbid, when(`tenant.labels["none"] == "x"`))}, "f", false},
		"lapsed":                {[]Policy{permit(func(p *Policy) { p.NotAfter = noon })}, "", false},
		"not yet lapsed":        {[]Policy{permit(func(p *Policy) { p.NotAfter = noon.Add(1) })}, "p", true},
		"condition costs a lot": {[]Policy{permit(when(`[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, [0,1,2,3,4,5,6,7,8,9].all(d, a+b+c+d >= 0 && tenant.name != "x"))))`))}, "", false},
	} {
		set, err := Compile(test.policies)
		if err != nil && name != "condition costs a lot" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r := request(t)
		d := set.Authorize(r)
		rule, allowed := set.Allowed(r)
		if d.Allowed != test.allowed || d.Rule != test.rule || allowed != test.allowed || rule != test.rule {
			t.Errorf("%s: Authorize %v by %q, Allowed %v by %q; want %v by %q: %+v", name, d.Allowed, d.Rule, allowed, rule, test.allowed, test.rule, d.Results)
		}
		if len(d.Results) != set.Len() {
			t.Errorf("%s: %d results for %d policies", name, len(d.Results), set.Len())
		}
	}
}

func TestAllowedDoesNotAllocate(t *testing.T) {
	set, err := Compile([]Policy{permit(), permit(forbid, func(p *Policy) { p.Spec.Tenants.Names = []string{"globex"} })})
	if err != nil {
		t.Fatal(err)
	}
	r := request(t)
	if n := testing.AllocsPerRun(100, func() { set.Allowed(r) }); n != 0 {
		t.Errorf("Allowed allocates %v times", n)
	}
}

func TestCheckSpec(t *testing.T) {
	problems := CheckSpec(policy.AccessPolicySpec{
		Effect: "Maybe", Mode: "Later", Principals: []string{"spiffe://*/x"},
		Targets: []policy.Target{{Methods: []string{"get"}, Paths: []string{"x", "/a/**/b", "/a/../b"}}}, When: `tenant.name.matches("a*")`,
	})
	var fields []string
	for _, p := range problems {
		fields = append(fields, p.Field)
	}
	want := []string{"effect", "mode", "principals[0]", "targets[0].workload", "targets[0].methods[0]", "targets[0].paths[0]", "targets[0].paths[1]", "targets[0].paths[2]", "when"}
	if !slices.Equal(fields, want) {
		t.Errorf("problems with %v, want %v:\n%v", fields, want, problems.Error())
	}
	for _, bad := range []string{`1`, `tenant.tier ==`, `nothing.here`, strings.Repeat("a", 5000)} {
		if _, err := compileCondition(bad); err == nil {
			t.Errorf("condition %.20q compiles", bad)
		}
	}
	empty := CheckSpec(policy.AccessPolicySpec{Effect: policy.Permit})
	if len(empty) != 2 {
		t.Errorf("a spec without principals and targets has %v", empty)
	}
	set, err := Compile([]Policy{{Name: "bad"}, permit()})
	if err == nil || !strings.Contains(err.Error(), "bad: effect") || set.Len() != 1 {
		t.Errorf("Compile with a bad one: %v, %d rules", err, set.Len())
	}
}

func TestPathPattern(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "/a", true}, {"/a", "/a/", false}, {"/a", "/ab", false}, {"/a/**", "/a", true}, {"/a/**", "/a/b/c", true},
		{"/a/**", "/ab", false}, {"/**", "/", true}, {"/**", "/x", true}, {"/*/b", "/a/b", true}, {"/*/b", "//b", false},
		{"/a/*", "/a", false}, {"/a", "a", false}, {"/a/b", "/a", false}, {"/", "/", true}, {"/", "/a", false},
	} {
		p, err := ParsePathPattern(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(test.path); got != test.want || p.String() != test.pattern {
			t.Errorf("%s matches %q: %v, want %v", p, test.path, got, test.want)
		}
	}
	exports, problems := NewClass("exports", []string{"POST"}, []string{"/export/**"})
	if problems != nil {
		t.Fatal(problems)
	}
	if got := Classify([]Class{exports}, "POST", "/export/1") + Classify([]Class{exports}, "GET", "/export/1"); got != "exports" {
		t.Errorf("classes are %q", got)
	}
}

// TestAgainstModel compares the compiled set with rules as one would tell them to a person.
func TestAgainstModel(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", "*"})
	rapid.Check(t, func(rt *rapid.T) {
		r := request(t)
		globex, _ := identity.ParseTenantID("globex")
		r.Own = rapid.SampledFrom([]identity.TenantID{{}, r.Tenant.ID, globex}).Draw(rt, "own")
		r.Tenant.Residency = rapid.SampledFrom([]string{"", "eu"}).Draw(rt, "residency")
		if rapid.IntRange(0, 3).Draw(rt, "no tenant") == 0 {
			r.Tenant = Tenant{}
		}
		r.Workload, r.Method = rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "workload"), rapid.SampledFrom([]string{"GET", "POST"}).Draw(rt, "method")
		r.Path = rapid.SampledFrom([]string{"/search/x", "/search/x/", "/search", "/search/y"}).Draw(rt, "path")
		var policies []Policy
		permitted, forbidden := false, false
		for i := range rapid.IntRange(0, 6).Draw(rt, "n") {
			p := permit(func(p *Policy) {
				p.Spec.Targets = []policy.Target{{Workload: word.Draw(rt, "target"), Methods: rapid.SampledFrom([][]string{nil, {"GET"}, {"PUT"}}).Draw(rt, "methods")}}
				if rapid.Bool().Draw(rt, "grpc") {
					p.Spec.Targets[0].Methods = nil
					p.Spec.Targets[0].GRPC = []policy.GRPC{{Service: "search", Methods: rapid.SampledFrom([][]string{nil, {"x"}}).Draw(rt, "calls")}}
				}
				p.Spec.Tenants.Own, p.Spec.Tenants.Residency = rapid.Bool().Draw(rt, "of its own"), rapid.SampledFrom([]string{"", "eu"}).Draw(rt, "of residency")
				p.Spec.Tenants.Names = rapid.SampledFrom([][]string{nil, {"acme"}, {"globex"}}).Draw(rt, "names")
				p.Spec.Effect = rapid.SampledFrom([]policy.Effect{policy.Permit, policy.Forbid}).Draw(rt, "effect")
				p.Spec.Mode = rapid.SampledFrom([]policy.Mode{"", policy.Enforce, policy.Shadow}).Draw(rt, "mode")
				p.Name = string(rune('a' + i))
			})
			policies = append(policies, p)
			target := p.Spec.Targets[0]
			hit := (target.Workload == "*" || target.Workload == r.Workload) && (target.Methods == nil || target.Methods[0] == r.Method) &&
				(p.Spec.Tenants.Names == nil || p.Spec.Tenants.Names[0] == r.Tenant.ID.String()) && p.Spec.Mode != policy.Shadow &&
				(p.Spec.Tenants.Residency == "" || r.Tenant.Residency == "eu") && (!p.Spec.Tenants.Own || r.Own.String() == "acme" && r.Tenant.ID == r.Own)
			if target.GRPC != nil {
				hit = hit && r.Method == "POST" && (r.Path == "/search/x" || r.Path == "/search/y" && target.GRPC[0].Methods == nil)
			}
			permitted = permitted || hit && p.Spec.Effect == policy.Permit
			forbidden = forbidden || hit && p.Spec.Effect == policy.Forbid
		}
		set, err := Compile(policies)
		if err != nil {
			rt.Fatal(err)
		}
		if _, allowed := set.Allowed(r); allowed != (permitted && !forbidden) {
			rt.Fatalf("allowed %v, want %v for %+v under %+v", allowed, permitted && !forbidden, r, policies)
		}
	})
}

// TestLapsed: when policies are too old, an exception denies: a grant, and a Forbid that only looked on. A Permit that only
// looked on permits nothing all the same.
func TestLapsed(t *testing.T) {
	for name, test := range map[string]struct {
		policies []Policy
		rule     string
		allowed  bool
	}{
		"a permit":        {[]Policy{permit()}, "p", true},
		"a shadow forbid": {[]Policy{permit(), permit(forbid, shadow, func(p *Policy) { p.Name = "f" })}, "f", false},
		"a shadow permit": {[]Policy{permit(shadow)}, "", false},
		"a grant":         {[]Policy{permit(func(p *Policy) { p.NotAfter = time.Now().Add(time.Hour) })}, "", false},
	} {
		set, err := Compile(test.policies)
		if err != nil {
			t.Fatal(err)
		}
		r := request(t)
		r.Lapsed = true
		if rule, allowed := set.Allowed(r); rule != test.rule || allowed != test.allowed {
			t.Errorf("%s: %v by %q", name, allowed, rule)
		}
		if d := set.Authorize(r); d.Rule != test.rule || d.Allowed != test.allowed {
			t.Errorf("%s: %v by %q, explained", name, d.Allowed, d.Rule)
		}
	}
}

func TestCanonical(t *testing.T) {
	for path, want := range map[string]string{
		"/a": "/a", "/%61dmin": "/admin", "/things%3Aexport": "/things:export", "/a%20b": "/a b", "/%2561": "/%61", "/a%2Fb": "/a%2Fb", "/a%2fb": "/a%2fb",
		"/caf%C3%A9": "/café", "": "",
	} {
		if got, ok := Canonical(path); !ok || got != want {
			t.Errorf("Canonical(%q) = %q, %v, want %q", path, got, ok, want)
		}
	}
	for _, path := range []string{"/%", "/%4", "/%zz", "/%+1", "/%-1", "/%C0%AF", "/\xff", "/%E9"} {
		if got, ok := Canonical(path); ok {
			t.Errorf("Canonical(%q) = %q", path, got)
		}
	}
}

// FuzzCanonical compares with net/url, which decodes all there is.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"/%61dmin", "/a%2Fb", "/%zz", "/%C0%AF", "/things%3Aexport", "/%2561", "/%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := Canonical(path)
		want, err := url.PathUnescape(strings.NewReplacer("%2f", "%252f", "%2F", "%252F").Replace(path))
		if ok != (err == nil && utf8.ValidString(want)) || ok && got != want {
			t.Errorf("Canonical(%q) = %q, %v, want %q, %v", path, got, ok, want, err)
		}
	})
}

// TestRolloutAgainstModel compares a policy in a rollout, as two that share the tenants, with the one of them that a
// tenant should have. A request without a tenant has the old one.
func TestRolloutAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := request(t)
		r.Tenant = Tenant{}
		name, uid := rapid.SampledFrom([]string{"", "acme", "globex"}).Draw(rt, "tenant"), rapid.StringN(1, 8, -1).Draw(rt, "uid")
		if name != "" {
			id, err := identity.ParseTenantID(name)
			if err != nil {
				rt.Fatal(err)
			}
			r.Tenant = Tenant{ID: id, UID: uid}
		}
		draw := func(label string) Policy {
			return permit(func(p *Policy) {
				p.Name = label
				p.Spec.Effect = rapid.SampledFrom([]policy.Effect{policy.Permit, policy.Forbid}).Draw(rt, label+" effect")
				p.Spec.Targets[0].Workload = rapid.SampledFrom([]string{"search", "documents"}).Draw(rt, label+" workload")
			})
		}
		before, after, beside := draw("before"), draw("after"), draw("beside")
		in := policy.Canary{Seed: "s", Percent: rapid.Float64Range(0, 100).Draw(rt, "percent"), Names: rapid.SampledFrom([][]string{nil, {"acme"}}).Draw(rt, "names")}
		others := in
		others.Others = true
		want := before
		if name != "" && (name == "acme" && in.Names != nil || (&policy.Canary{Seed: "s", Percent: in.Percent}).Selects("x", uid)) {
			want = after
		}
		model, err := Compile([]Policy{want, beside})
		if err != nil {
			rt.Fatal(err)
		}
		before.Canary, after.Canary = &others, &in
		set, err := Compile([]Policy{before, after, beside})
		if err != nil {
			rt.Fatal(err)
		}
		rule, allowed := set.Allowed(r)
		d := set.Authorize(r)
		if wantRule, wantAllowed := model.Allowed(r); rule != wantRule || allowed != wantAllowed || d.Rule != wantRule || d.Allowed != wantAllowed {
			rt.Fatalf("%v by %q and %v by %q, want %v by %q", allowed, rule, d.Allowed, d.Rule, wantAllowed, wantRule)
		}
	})
}

func FuzzSplitPath(f *testing.F) {
	for _, seed := range []string{"/a?b", "//admin", "/a#b?c", "?", "*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, query := SplitPath(target)
		if strings.ContainsAny(path, "?#") || !strings.HasPrefix(target, path) || !strings.HasSuffix(target, query) {
			t.Errorf("SplitPath(%q) = %q, %q", target, path, query)
		}
	})
}
