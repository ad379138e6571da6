package analysis

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// row is a class on one line, without what is any or always so.
func row(c *Class) string {
	parts := []string{strings.Join(slices.Concat(c.Rules, c.Forbids), " but ")}
	for _, part := range []struct {
		name  string
		words Words
	}{{"who", c.Principals}, {"for", c.Tenants}, {"to", c.Workloads}, {"by", c.Methods}, {"at", c.Paths}} {
		if !part.words.IsAny() {
			parts = append(parts, part.name+" "+strings.ReplaceAll(part.words.String(), "spiffe://m.example", ""))
		}
	}
	if c.Times != "" {
		parts = append(parts, c.Times)
	}
	for _, when := range c.When {
		parts = append(parts, "when "+when)
	}
	return strings.Join(parts, "; ")
}

func rows(classes []Class) (list []string) {
	for i := range classes {
		list = append(list, row(&classes[i]))
	}
	return list
}

func wantRows(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

type change func(*authz.Policy)

// permit is a permit of GETs below /rows of front for all that is in cells, changed.
func permit(name string, changes ...change) authz.Policy {
	p := authz.Policy{Name: name, Spec: policy.AccessPolicySpec{
		Effect: policy.Permit, Principals: []string{"spiffe://m.example/cell/*/workload/docs"},
		Targets: []policy.Target{{Workload: "front", Methods: []string{"GET"}, Paths: []string{"/rows/**"}}},
	}}
	for _, f := range changes {
		f(&p)
	}
	return p
}

func forbid(p *authz.Policy)        { p.Spec.Effect = policy.Forbid }
func shadow(p *authz.Policy)        { p.Spec.Mode = policy.Shadow }
func everything(p *authz.Policy)    { p.Spec.Targets = []policy.Target{{Workload: "*"}} }
func who(patterns ...string) change { return func(p *authz.Policy) { p.Spec.Principals = patterns } }
func names(list ...string) change   { return func(p *authz.Policy) { p.Spec.Tenants.Names = list } }
func tier(name string) change       { return func(p *authz.Policy) { p.Spec.Tenants.Tiers = []string{name} } }
func paths(list ...string) change   { return func(p *authz.Policy) { p.Spec.Targets[0].Paths = list } }
func to(workload string) change {
	return func(p *authz.Policy) { p.Spec.Targets[0].Workload = workload }
}
func by(methods ...string) change {
	return func(p *authz.Policy) { p.Spec.Targets[0].Methods = methods }
}
func when(text string) change    { return func(p *authz.Policy) { p.Spec.When = text } }
func until(end time.Time) change { return func(p *authz.Policy) { p.NotAfter = end } }
func in(c policy.Canary) change  { return func(p *authz.Policy) { p.Canary = &c } }
func label(name, value string) change {
	return func(p *authz.Policy) { p.Spec.Tenants.Labels = map[string]string{name: value} }
}
func mesh(policies ...authz.Policy) *Mesh { return &Mesh{Policies: policies, Now: noon} }

func (m *Mesh) knowing(tenants ...authz.Tenant) *Mesh {
	m.Tenants = tenants
	return m
}

var acme, globex = authz.Tenant{ID: tenantID("acme"), Tier: "gold"}, authz.Tenant{ID: tenantID("globex"), Tier: "bronze"}

func TestAsk(t *testing.T) {
	hour := noon.Add(time.Hour)
	for name, test := range map[string]struct {
		mesh         *Mesh
		query        Query
		allowed, cut []string
	}{
		"nothing":  {mesh(), Query{}, nil, nil},
		"a permit": {mesh(permit("p")), Query{}, []string{"p; who /cell/*/workload/docs; to front; by GET; at /rows/**"}, nil},
		"asked narrowly": {mesh(permit("p")), Query{principalOf("spiffe://m.example/cell/us/workload/docs"), tenantID("acme"), "front", "GET", "/rows/1"},
			[]string{"p; who /cell/us/workload/docs; for acme; to front; by GET; at /rows/1"}, nil},
		"asked for another": {mesh(permit("p")), Query{Workload: "back"}, nil, nil},
		"a forbid cuts": {mesh(permit("p"), permit("f", forbid, everything, names("acme"))), Query{},
			[]string{"p; who /cell/*/workload/docs; for any except acme; to front; by GET; at /rows/**"},
			[]string{"p but f; who /cell/*/workload/docs; for acme; to front; by GET; at /rows/**"}},
		"a forbid of the middle": {mesh(permit("p", everything), permit("f", forbid, who("spiffe://m.example/cell/us/**"), everything, paths("/secret/**"))), Query{},
			[]string{"p; who /cell/*/workload/docs except /cell/us/workload/docs", "p; who /cell/us/workload/docs; at any except /secret/**"},
			[]string{"p but f; who /cell/us/workload/docs; at /secret/**"}},
		"a forbid with a condition": {mesh(permit("p"), permit("f", forbid, when(`tenant.tier == "x"`))), Query{},
			[]string{`p; who /cell/*/workload/docs; to front; by GET; at /rows/**; when not (tenant.tier == "x")`},
			[]string{`p but f; who /cell/*/workload/docs; to front; by GET; at /rows/**; when (tenant.tier == "x"), or it fails`}},
		"a shadow":     {mesh(permit("p", shadow)), Query{}, nil, nil},
		"a grant":      {mesh(permit("p", until(hour))), Query{}, []string{"p; who /cell/*/workload/docs; to front; by GET; at /rows/**; until 2026-01-02T13:00:00Z"}, nil},
		"an ended one": {mesh(permit("p", until(noon))), Query{}, nil, nil},
		"a tier, of tenants that are known": {mesh(permit("p", tier("gold"))).knowing(acme, globex), Query{Tenant: acme.ID},
			[]string{"p; who /cell/*/workload/docs; for acme; to front; by GET; at /rows/**"}, nil},
		"a tier, of others": {mesh(permit("p", tier("gold"))).knowing(globex), Query{Tenant: globex.ID}, nil, nil},
		"a tier, of a tenant that nobody knows": {mesh(permit("p", tier("gold"))), Query{Tenant: acme.ID},
			[]string{"p; who /cell/*/workload/docs; for acme tier gold; to front; by GET; at /rows/**"}, nil},
		"targets come together": {mesh(permit("p", everything, func(p *authz.Policy) {
			p.Spec.Targets = []policy.Target{{Workload: "a"}, {Workload: "b"}, {Workload: "a", Methods: []string{"GET"}}}
		})), Query{}, []string{"p; who /cell/*/workload/docs; to a, b"}, nil},
	} {
		answer, err := Ask(test.mesh, &test.query)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantRows(t, name+", allowed", rows(answer.Allowed), test.allowed)
		wantRows(t, name+", cut", rows(answer.Cut), test.cut)
	}
}

func TestDiff(t *testing.T) {
	hour, two := noon.Add(time.Hour), noon.Add(2*time.Hour)
	docs := "who /cell/*/workload/docs; "
	rest := "to front; by GET; at /rows/**"
	half, other := policy.Canary{Percent: 50}, policy.Canary{Percent: 50, Others: true}
	for name, test := range map[string]struct {
		before, after *Mesh
		more, less    []string
	}{
		"the same":                      {mesh(permit("p", when("true"))), mesh(permit("q", when("true"))), nil, nil},
		"a new permit":                  {mesh(), mesh(permit("p")), []string{"p; " + docs + rest}, nil},
		"a permit less":                 {mesh(permit("p")), mesh(), nil, []string{"p; " + docs + rest}},
		"one more method":               {mesh(permit("p")), mesh(permit("p", by("GET", "PUT"))), []string{"p; " + docs + "to front; by PUT; at /rows/**"}, nil},
		"a narrower path":               {mesh(permit("p")), mesh(permit("p", paths("/rows/*"))), nil, []string{"p; " + docs + "to front; by GET; at /rows/** except /rows/*"}},
		"a deeper path":                 {mesh(), mesh(permit("p", paths("/rows/*/**"))), []string{"p; " + docs + "to front; by GET; at /rows/*/**"}, nil},
		"a new forbid":                  {mesh(permit("p")), mesh(permit("p"), permit("f", forbid, tier("gold"))), nil, []string{"p but f; " + docs + "for tier gold; " + rest}},
		"a forbid less":                 {mesh(permit("p"), permit("f", forbid, tier("gold"))), mesh(permit("p")), []string{"p but f; " + docs + "for tier gold; " + rest}, nil},
		"another forbid stays":          {mesh(permit("p"), permit("f", forbid, tier("gold")), permit("g", forbid)), mesh(permit("p"), permit("g", forbid)), nil, nil},
		"a forbid of what none permits": {mesh(permit("p")), mesh(permit("p"), permit("f", forbid, to("back"))), nil, nil},
		"a condition less":              {mesh(permit("p", when("1 < 2"))), mesh(permit("p")), []string{"p; " + docs + rest + "; when not (1 < 2), or it fails"}, nil},
		"another condition":             {mesh(permit("p", when("1 < 2"))), mesh(permit("p", when("2 < 3"))), []string{"p; " + docs + rest + "; when not (1 < 2), or it fails; when 2 < 3"}, []string{"p; " + docs + rest + "; when 1 < 2; when not (2 < 3), or it fails"}},
		"a condition that fails":        {mesh(permit("p"), permit("f", forbid, when("1 < 2"))), mesh(permit("p"), permit("q", forbid, when("1 < 2"))), nil, nil},
		"a grant goes on":               {mesh(permit("g", until(hour))), mesh(permit("g", until(two))), []string{"g; " + docs + rest + "; from 2026-01-02T13:00:00Z until 2026-01-02T14:00:00Z"}, nil},
		"a grant for ever":              {mesh(permit("g", until(hour))), mesh(permit("g")), []string{"g; " + docs + rest + "; from 2026-01-02T13:00:00Z"}, nil},
		"a shadow is enforced":          {mesh(permit("p"), permit("f", forbid, shadow)), mesh(permit("p"), permit("f", forbid)), nil, []string{"p but f; " + docs + rest}},
		"a tenant's tier":               {mesh(permit("p", tier("gold"))).knowing(acme), mesh(permit("p", tier("gold"))).knowing(authz.Tenant{ID: acme.ID, Tier: "bronze"}), nil, []string{"p; " + docs + "for acme; " + rest}},
		"a tenant that a condition sees": {
			mesh(permit("p", when("1 < 2"))).knowing(acme, globex), mesh(permit("p", when("1 < 2"))).knowing(authz.Tenant{ID: acme.ID, Tier: "bronze"}, globex),
			[]string{"p; " + docs + "for acme; " + rest + "; when not (1 < 2, as the tenant was), or it fails; when 1 < 2, as the tenant is"},
			[]string{"p; " + docs + "for acme; " + rest + "; when 1 < 2, as the tenant was; when not (1 < 2, as the tenant is), or it fails"},
		},
		"a tenant more":     {mesh(permit("p", tier("gold"))), mesh(permit("p", tier("gold"))).knowing(acme), nil, nil},
		"two rules at once": {mesh(), mesh(permit("p"), permit("q"), permit("r", by("GET"), paths("/rows/1"))), []string{"p but q; " + docs + rest}, nil},
		"a label":           {mesh(permit("p")), mesh(permit("p", label("plan", "trial"))), nil, []string{"p; " + docs + "for any except plan=trial; " + rest}},
		"a rollout begins":  {mesh(permit("p")), mesh(permit("p", in(other)), permit("p@canary", by("GET", "PUT"), in(half))), []string{"p@canary; " + docs + "to front; by PUT; at /rows/**; when in the rollout to 50 %"}, nil},
		"a rollout to none": {mesh(permit("p")), mesh(permit("p", in(other))), nil, []string{"p; " + docs + rest + "; when in the rollout to 50 %"}},
		"a rollout alone":   {mesh(permit("p")), mesh(permit("p", in(half))), nil, []string{"p; " + docs + rest + "; when not in the rollout to 50 %"}},
	} {
		got, err := Diff(test.before, test.after)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantRows(t, name+", allowed", rows(got.Allowed), test.more)
		wantRows(t, name+", refused", rows(got.Refused), test.less)
		if got.Empty() != (len(test.more)+len(test.less) == 0) {
			t.Errorf("%s: Empty is %v", name, got.Empty())
		}
	}
}

func TestWords(t *testing.T) {
	m := mesh(permit("p", names("initech"), tier("gold"), label("plan", "trial"))).knowing(acme, globex)
	s := newSpace(m)
	path := func(patterns ...string) *set {
		set := s.none
		for _, p := range patterns {
			set = s.combine(or, set, s.path(p))
		}
		return set
	}
	but := func(a, b *set) *set { return s.combine(minus, a, b) }
	gold, anyone := s.tenants(&policy.TenantSelector{Tiers: []string{"gold"}}, s.known), s.dimensions[ofTenant].full
	for _, test := range []struct {
		dimension int
		set       *set
		want      string
	}{
		{ofPath, s.all, "any"},
		{ofPath, s.unit, "what does not begin with /"},
		{ofPath, s.combine(or, s.unit, path("/a")), "what does not begin with /, /a"},
		{ofPath, path("/**"), "/**"},
		{ofPath, path("/a", "/a/*", "/a/**"), "/a/**"},
		{ofPath, path("/*/b", "/a/*"), "/*/b, /a/*"},
		{ofPath, but(path("/a/**"), path("/a/b")), "/a/** except /a/b"},
		{ofPath, but(s.all, path("/a/**")), "any except /a/**"},
		{ofPath, but(s.all, but(path("/a/**"), path("/a/b"))), "any except (/a/** except /a/b)"},
		{ofPath, path("/", "/a/"), "/, /a/"},
		{ofPrincipal, s.pattern("spiffe://a.example/x/**"), "spiffe://a.example/x/**"},
		{ofPrincipal, s.principals([]string{"spiffe://a.example/x", "spiffe://a.example/x/**", "spiffe://b.example/*"}), "spiffe://a.example/x, spiffe://a.example/x/**, spiffe://b.example/*"},
		{ofPrincipal, but(s.pattern("spiffe://a.example/*"), s.pattern("spiffe://a.example/x")), "spiffe://a.example/* except spiffe://a.example/x"},
		{ofWorkload, but(s.dimensions[ofWorkload].full, s.oneOf(s.unit, "a", "b")), "any except a, b"},
		{ofTenant, anyone, "any"},
		{ofTenant, s.unit, "no tenant"},
		{ofTenant, but(anyone, s.unit), "any except no tenant"},
		{ofTenant, gold, "tier gold"},
		{ofTenant, but(gold, s.named("acme")), "tier gold except acme"},
		{ofTenant, s.combine(or, gold, s.named("globex")), "tier gold, globex"},
		{ofTenant, s.combine(or, s.named("globex"), s.named("acme")), "acme, globex"},
		{ofTenant, s.combine(and, gold, s.named("initech")), "initech tier gold"},
		{ofTenant, but(anyone, gold), "any except tier gold"},
		{ofTenant, s.tenants(&policy.TenantSelector{Tiers: []string{"gold"}, Labels: map[string]string{"plan": "trial"}}, s.known), "tier gold plan=trial"},
	} {
		if got := s.spelled(s.with(nil, test.dimension, test.set), test.dimension).String(); got != test.want {
			t.Errorf("it is %q, want %q", got, test.want)
		}
	}
}

func TestPhrase(t *testing.T) {
	for want, values := range map[string][]string{
		"c": {isTrue}, "not (c)": {isFalse}, "(c) fails": {isError}, "(c) does not fail": {isFalse, isTrue},
		"(c), or it fails": {isError, isTrue}, "not (c), or it fails": {isError, isFalse}, "not c": {isOut},
	} {
		if got := phrase("c", values); got != want {
			t.Errorf("%v is %q, want %q", values, got, want)
		}
	}
}

// TestTimes: what ends and begins again has two times.
func TestTimes(t *testing.T) {
	m := mesh(permit("a", until(noon.Add(time.Hour))), permit("b", until(noon.Add(2*time.Hour))))
	s := newSpace(m)
	gap := s.combine(minus, s.until(noon.Add(2*time.Hour)), s.until(noon.Add(time.Hour)))
	outside := s.combine(minus, s.dimensions[ofTime].full, gap)
	if got, want := s.times(outside), "until 2026-01-02T13:00:00Z, from 2026-01-02T14:00:00Z"; got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
	if got := s.example(box{{ofTime, gap}}).Time; !got.Equal(noon.Add(time.Hour)) {
		t.Errorf("the example is of %v", got)
	}
}

func TestExamples(t *testing.T) {
	m := mesh(permit("p", names("acme"), label("plan", "trial")))
	s := newSpace(m)
	for text, b := range map[string]box{
		"spiffe://other.example/other for other (tier other): GET /other of other":   nil,
		"spiffe://other.example/other for no tenant: GET /other of other":            {{ofTenant, s.unit}},
		"spiffe://other.example/other for other (tier other): POST /other of other":  {{ofMethod, s.combine(minus, s.dimensions[ofMethod].full, s.oneOf(s.unit, "GET"))}},
		"spiffe://other.example/other for other (tier other): other /other of other": {{ofMethod, s.combine(minus, s.dimensions[ofMethod].full, s.oneOf(s.unit, "GET", "POST", "PUT", "DELETE"))}},
		"spiffe://other.example/other for other (tier other): GET / of other":        {{ofPath, s.path("/")}},
		"spiffe://other.example/other for other (tier other): GET  of other":         {{ofPath, s.unit}},
		"spiffe://other.example/other for other (tier other): GET /other of other-2": {{ofWorkload, s.combine(minus, s.dimensions[ofWorkload].full, s.oneOf(s.unit, "other"))}},
	} {
		if got := s.example(b).String(); got != text {
			t.Errorf("the example is %q, want %q", got, text)
		}
	}
}

// TestBadInput: each question says what is wrong with it.
func TestBadInput(t *testing.T) {
	bad := mesh(permit("p", paths("x")))
	good := mesh(permit("p"))
	errs := map[string]error{}
	_, errs["paths[0]: must begin with /"] = Ask(good, &Query{Path: "x"})
	_, errs["p: targets[0].paths[0]"] = Ask(bad, &Query{})
	_, errs["p: targets[0].paths[0]: before"] = Diff(bad, good)
	_, errs["p: targets[0].paths[0]: after"] = Diff(good, bad)
	_, errs["p: targets[0].paths[0]: prove"] = Prove(bad, &Invariant{"", spec{NoCrossTenant: true}})
	_, errs["p: targets[0].paths[0]: lint"] = Lint(bad, 0)
	_, errs["p: targets[0].paths[0]: try"] = Try(bad, nil)
	_, errs["invariant x: onlyFrom: must be set"] = Prove(good, &Invariant{Name: "x"})
	_, errs["onlyFrom[0]: SPIFFE pattern's trust domain must be exact"] = Prove(good, &Invariant{"", spec{OnlyFrom: []string{"spiffe://*/x"}}})
	_, errs["methods[0]: must be an upper-case HTTP method"] = Prove(good, &Invariant{"", spec{OnlyFrom: []string{"spiffe://x/x"}, Methods: []string{"get"}}})
	ok := Want{Decision: Allow}
	_, errs["case 1: want.decision must be allow or refuse"] = Try(good, []Case{{}})
	_, errs["case 1: request: SPIFFE ID"] = Try(good, []Case{{Want: ok}})
	_, errs["case 1: request: path must be well encoded"] = Try(good, []Case{{Want: ok, Request: Request{Principal: "spiffe://m.example/x", Path: "/%zz"}}})
	_, errs["case 1: request: tenant name"] = Try(good, []Case{{Want: ok, Request: Request{Principal: "spiffe://m.example/x", Path: "/", Tenant: "A"}}})
	for want, err := range errs {
		want = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(want, ": before"), ": after"), ": prove"), ": lint"), ": try")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it is %v, want %q", err, want)
		}
	}
}
