package authz

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/policy"
)

// change makes a policy one that is only watched.
func change(of string, removes bool) func(*Policy) {
	return func(p *Policy) { p.Name, p.Change = of+policy.ShadowSuffix, &Change{of, removes} }
}

func elsewhere(p *Policy) { p.Spec.Targets[0].Paths = []string{"/elsewhere"} }
func failing(p *Policy)   { p.Spec.When = `request.segments[9] == "x"` }

func TestDifferences(t *testing.T) {
	differ := func(allowed bool, route string) []Difference { return []Difference{{"p", 0, allowed, route}} }
	for name, test := range map[string]struct {
		policies []Policy
		want     []Difference
	}{
		"nothing is watched":                 {[]Policy{permit()}, nil},
		"a permit in Shadow mode":            {[]Policy{permit(shadow)}, differ(true, "/search/**")},
		"beside another permit":              {[]Policy{permit(shadow), permit(func(p *Policy) { p.Name = "q" })}, nil},
		"under a forbid":                     {[]Policy{permit(shadow), permit(forbid)}, nil},
		"a forbid in Shadow mode":            {[]Policy{permit(), permit(forbid, shadow, func(p *Policy) { p.Name = "p2" })}, []Difference{{"p2", 0, false, "/search/**"}}},
		"the same again":                     {[]Policy{permit(), permit(change("p", false))}, nil},
		"a version that is about less":       {[]Policy{permit(), permit(change("p", false), elsewhere)}, differ(false, "/search/**")},
		"a version that is about more":       {[]Policy{permit(elsewhere), permit(change("p", false))}, differ(true, "/search/**")},
		"a removal":                          {[]Policy{permit(), permit(change("p", true))}, differ(false, "/search/**")},
		"a removal that leaves another":      {[]Policy{permit(), permit(change("p", true)), permit(func(p *Policy) { p.Name = "q" })}, nil},
		"a removal of a forbid":              {[]Policy{permit(func(p *Policy) { p.Name = "q" }), permit(forbid, func(p *Policy) { p.Name = "p" }), permit(change("p", true))}, differ(true, "/search/**")},
		"a removal of what is not here":      {[]Policy{permit(change("p", true))}, nil},
		"a permit that becomes a forbid":     {[]Policy{permit(), permit(forbid, change("p", false)), permit(func(p *Policy) { p.Name = "q" })}, differ(false, "/search/**")},
		"a forbid that becomes a permit":     {[]Policy{permit(forbid, func(p *Policy) { p.Name = "p" }), permit(change("p", false))}, differ(true, "/search/**")},
		"a new permit":                       {[]Policy{permit(change("p", false))}, differ(true, "/search/**")},
		"a new one about any path":           {[]Policy{permit(change("p", false), func(p *Policy) { p.Spec.Targets[0].Paths = nil })}, differ(true, "/**")},
		"a new forbid with an error":         {[]Policy{permit(func(p *Policy) { p.Name = "q" }), permit(forbid, failing, change("p", false))}, differ(false, "/search/**")},
		"a version whose condition is false": {[]Policy{permit(), permit(change("p", false), when("false"))}, differ(false, "/search/**")},
		"of a policy in Shadow mode":         {[]Policy{permit(shadow), permit(change("p", false))}, differ(true, "/search/**")},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Compile(test.policies)
			if err != nil {
				t.Fatal(err)
			}
			var got []Difference
			set.Differences(request(t), func(d Difference) { got = append(got, d) })
			if !slices.Equal(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// TestChangesDoNotDecide, also not when what is in Shadow mode lapses.
func TestChangesDoNotDecide(t *testing.T) {
	set, err := Compile([]Policy{permit(), permit(forbid, change("p", false))})
	if err != nil {
		t.Fatal(err)
	}
	for _, lapsed := range []bool{false, true} {
		r := request(t)
		r.Lapsed = lapsed
		if rule, allowed := set.Allowed(r); !allowed || rule != "p" || !set.Authorize(r).Allowed {
			t.Errorf("lapsed %v: %q decides, %v", lapsed, rule, allowed)
		}
	}
	if got := set.Watched(); len(got) != 1 || got["p"] != 0 {
		t.Errorf("%v are watched", got)
	}
	if len((*Set)(nil).Watched()) != 0 {
		t.Error("a set that is not there watches")
	}
}

// TestDifferencesAreWhatASetWouldSay compares with the set in which a change is in force.
func TestDifferencesAreWhatASetWouldSay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) Policy {
			p := permit(func(p *Policy) { p.Name = name })
			p.Spec.Effect = rapid.SampledFrom([]policy.Effect{policy.Permit, policy.Forbid}).Draw(rt, "effect")
			p.Spec.Targets[0].Paths = rapid.SampledFrom([][]string{nil, {"/search/*"}, {"/elsewhere"}}).Draw(rt, "paths")
			p.Spec.Tenants.Names = rapid.SampledFrom([][]string{nil, {"acme"}, {"globex"}}).Draw(rt, "names")
			return p
		}
		now := []Policy{draw("a"), draw("b"), draw("c")}[:rapid.IntRange(0, 3).Draw(rt, "policies")]
		next := draw("a")
		removes := rapid.Bool().Draw(rt, "removes")
		then := slices.DeleteFunc(slices.Clone(now), func(p Policy) bool { return p.Name == "a" })
		if !removes {
			then = append(then, next)
		}
		watched := next
		change("a", removes)(&watched)
		set, err := Compile(append(slices.Clone(now), watched))
		if err != nil {
			rt.Fatal(err)
		}
		other, err := Compile(then)
		if err != nil {
			rt.Fatal(err)
		}
		_, is := set.Allowed(request(t))
		_, would := other.Allowed(request(t))
		said, differences := is, 0
		set.Differences(request(t), func(d Difference) { said, differences = d.Allowed, differences+1 })
		if said != would || differences > 1 || (differences == 1) == (is == would) {
			rt.Fatalf("it is %v, would be %v, and %d differences say %v", is, would, differences, said)
		}
	})
}
