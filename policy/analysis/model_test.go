package analysis

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func tenantID(name string) identity.TenantID {
	id, err := identity.ParseTenantID(name)
	if err != nil {
		panic(err)
	}
	return id
}

func principalOf(id string) identity.Principal {
	p, err := identity.ParsePrincipal(id)
	if err != nil {
		panic(err)
	}
	return p
}

// point is where a request is in a space. Of a tenant that was another one, was is the request as it was.
func (s *space) point(r, was *authz.Request) [][]string {
	path, tenant := []string(nil), []string(nil)
	if rest, ok := strings.CutPrefix(r.Path, "/"); ok {
		path = strings.Split(rest, "/")
	}
	if name := r.Tenant.ID.String(); name != "" {
		tenant = []string{name}
		if !slices.ContainsFunc(s.known, func(t authz.Tenant) bool { return t.ID == r.Tenant.ID }) {
			for _, trait := range s.traits {
				value, ok := map[bool]string{true: r.Tenant.Tier, false: r.Tenant.Residency}[trait == byTier], true
				if label, is := trait.label(); is {
					value, ok = r.Tenant.Labels[label]
				}
				if !ok {
					value = "no such label"
				}
				tenant = append(tenant, value)
			}
		}
	}
	at := slices.IndexFunc(s.bounds, func(bound time.Time) bool { return r.Now.Before(bound) })
	if at < 0 {
		at = len(s.bounds)
	}
	point := [][]string{
		ofPrincipal: strings.Split(strings.TrimPrefix(r.Principal.String(), scheme), "/"), ofTenant: tenant,
		ofWorkload: {r.Workload}, ofMethod: {r.Method}, ofPath: path, ofTime: {interval(at)},
	}
	for _, d := range s.dimensions[ofCondition:] {
		judged := r
		if d.side == "was" {
			judged = was
		}
		point = append(point, []string{s.value(strings.TrimSuffix(d.text, ", as the tenant "+d.side), judged)})
	}
	return point
}

// value asks the real evaluator what a condition is for a request.
func (s *space) value(text string, r *authz.Request) string {
	p := authz.Policy{Name: "p", Spec: policy.AccessPolicySpec{
		Effect: policy.Permit, Principals: []string{r.Principal.String()}, Targets: []policy.Target{{Workload: "*"}}, When: text,
	}}
	values := []string{isTrue, isFalse}
	if strings.HasPrefix(text, "for the principal's own") {
		p.Spec.When, p.Spec.Tenants.Own, values = "", true, []string{isIn, isOut}
	}
	if strings.HasPrefix(text, "in the rollout") {
		p.Spec.When, p.Canary, values = "", &canary, []string{isIn, isOut}
	}
	set, err := authz.Compile([]authz.Policy{p})
	if err != nil {
		panic(err)
	}
	d := set.Authorize(r)
	if strings.HasPrefix(d.Results[0].Why, "when: ") {
		return isError
	}
	if d.Allowed {
		return values[0]
	}
	return values[1]
}

func (s *space) hit(boxes []box, point [][]string) bool {
	return slices.ContainsFunc(boxes, func(b box) bool {
		return !slices.ContainsFunc(b, func(c constraint) bool { return !c.set.has(point[c.dimension]) })
	})
}

var canary = policy.Canary{Seed: "s", Percent: 50, Names: []string{"acme"}}

var (
	trustDomains = []string{"a.example", "b.example", "other.example"}
	segments     = []string{"cell", "us", "w", "other"}
	tenantNames  = []string{"", "acme", "globex", "initech", "other"}
	tiers        = []string{"gold", "bronze", "other"}
	residencies  = []string{"", "eu"}
	methods      = []string{"GET", "PUT", "POST", "OTHER"}
	workloads    = []string{"front", "back", "other"}
	samplePaths  = []string{"", "*", "/", "//", "/a", "/a/", "/a/b", "/a/other", "/other", "/other/b", "/other/b/c", "/a/b/c", "/a//b", "/b", "/other/"}
	times        = []time.Time{noon, noon.Add(time.Hour), noon.Add(90 * time.Minute), noon.Add(3 * time.Hour)}
	conditions   = []string{`tenant.tier == "gold"`, `tenant.labels["plan"] == "trial"`, `request.method == "GET"`}
)

func few[T any](of ...T) *rapid.Generator[[]T] { return rapid.SliceOfN(rapid.SampledFrom(of), 0, 2) }

var patterns = rapid.Custom(func(t *rapid.T) string {
	words := []string{rapid.SampledFrom(trustDomains[:2]).Draw(t, "trust domain")}
	words = append(words, rapid.SliceOfN(rapid.SampledFrom([]string{"cell", "us", "w", "*"}), 1, 3).Draw(t, "segments")...)
	if rapid.Bool().Draw(t, "open") {
		words = append(words, "**")
	}
	return scheme + strings.Join(words, "/")
})

var pathPatterns = rapid.SampledFrom([]string{"/a", "/a/**", "/*/b", "/**", "/", "/a/*", "/a/b", "/*", "/*/*/**", "/b/**", "/a/"})

var policies = rapid.Custom(func(t *rapid.T) authz.Policy {
	p := authz.Policy{Spec: policy.AccessPolicySpec{
		Effect:     rapid.SampledFrom([]policy.Effect{policy.Permit, policy.Permit, policy.Forbid}).Draw(t, "effect"),
		Mode:       rapid.SampledFrom([]policy.Mode{"", "", "", policy.Shadow}).Draw(t, "mode"),
		Principals: rapid.SliceOfN(patterns, 1, 2).Draw(t, "principals"),
		Tenants:    policy.TenantSelector{Names: few("acme", "globex", "initech", "").Draw(t, "names"), Tiers: few("gold", "bronze", "").Draw(t, "tiers")},
		When:       rapid.SampledFrom(append([]string{"", "", ""}, conditions...)).Draw(t, "when"),
	}}
	if rapid.IntRange(0, 3).Draw(t, "labelled") == 0 {
		p.Spec.Tenants.Labels = map[string]string{rapid.SampledFrom([]string{"plan", "team"}).Draw(t, "label"): rapid.SampledFrom([]string{"trial", ""}).Draw(t, "value")}
	}
	if rapid.IntRange(0, 3).Draw(t, "resident") == 0 {
		p.Spec.Tenants.Residency = "eu"
	}
	p.Spec.Tenants.Own = rapid.IntRange(0, 3).Draw(t, "own") == 0
	for range rapid.IntRange(1, 2).Draw(t, "targets") {
		if rapid.IntRange(0, 3).Draw(t, "grpc") == 0 {
			p.Spec.Targets = append(p.Spec.Targets, policy.Target{Workload: "front", GRPC: []policy.GRPC{{Service: rapid.SampledFrom([]string{"a", "other"}).Draw(t, "service"), Methods: few("b", "other").Draw(t, "calls")}}})
			continue
		}
		p.Spec.Targets = append(p.Spec.Targets, policy.Target{
			Workload: rapid.SampledFrom([]string{"*", "front", "back"}).Draw(t, "workload"),
			Methods:  few("GET", "PUT").Draw(t, "methods"), Paths: rapid.SliceOfN(pathPatterns, 0, 2).Draw(t, "paths"),
		})
	}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		if p.Spec.Effect == policy.Permit {
			p.NotAfter = rapid.SampledFrom(times[:3]).Draw(t, "notAfter")
		}
	case 1:
		c := canary
		c.Others = rapid.Bool().Draw(t, "others")
		p.Canary = &c
	}
	return p
})

var meshes = rapid.Custom(func(t *rapid.T) *Mesh {
	m := &Mesh{Policies: rapid.SliceOfN(policies, 0, 5).Draw(t, "policies"), Now: noon}
	for i := range m.Policies {
		m.Policies[i].Name = fmt.Sprint("p", i)
	}
	for i := range rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "workloads") {
		m.Workloads = append(m.Workloads, Workload{
			Name: fmt.Sprint("w", i), Principals: rapid.SliceOfN(patterns, 1, 2).Draw(t, "of"), BoundTenant: rapid.SampledFrom(tenantNames).Draw(t, "bound"),
		})
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"acme", "globex"}), 0, 2, rapid.ID).Draw(t, "known") {
		m.Tenants = append(m.Tenants, authz.Tenant{ID: tenantID(name), UID: name, Tier: rapid.SampledFrom(tiers).Draw(t, "tier"), Residency: rapid.SampledFrom(residencies).Draw(t, "residency"), Labels: labels.Draw(t, "labels")})
	}
	return m
})

var labels = rapid.Custom(func(t *rapid.T) map[string]string {
	m := map[string]string{}
	for _, label := range []string{"plan", "team"} {
		if value := rapid.SampledFrom([]string{"trial", "", "other", "none"}).Draw(t, label); value != "none" {
			m[label] = value
		}
	}
	return m
})

// requests are such as policies may tell apart, of the tenants that a mesh has.
func requests(tenants []authz.Tenant) *rapid.Generator[*authz.Request] {
	return rapid.Custom(func(t *rapid.T) *authz.Request {
		id := scheme + rapid.SampledFrom(trustDomains).Draw(t, "trust domain") + "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(segments), 1, 4).Draw(t, "id"), "/")
		r := &authz.Request{
			Principal: principalOf(id), Workload: rapid.SampledFrom(workloads).Draw(t, "workload"), Method: rapid.SampledFrom(methods).Draw(t, "method"),
			Path: rapid.SampledFrom(samplePaths).Draw(t, "path"), Now: rapid.SampledFrom(times).Draw(t, "time"),
		}
		_ = r.Own.UnmarshalText([]byte(rapid.SampledFrom(tenantNames).Draw(t, "own"))) // where nobody knows better
		name := rapid.SampledFrom(tenantNames).Draw(t, "tenant")
		if i := slices.IndexFunc(tenants, func(t authz.Tenant) bool { return t.ID.String() == name }); i >= 0 {
			r.Tenant = tenants[i]
		} else if name != "" {
			r.Tenant = authz.Tenant{ID: tenantID(name), UID: name, Tier: rapid.SampledFrom(tiers).Draw(t, "tier"), Residency: rapid.SampledFrom(residencies).Draw(t, "residency"), Labels: labels.Draw(t, "labels")}
		}
		return r
	})
}

// TestBoxesAgree: what a mesh allows as boxes is what the evaluator allows, request by request; and the answer to a question about
// everything is all of it.
func TestBoxesAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := meshes.Draw(rt, "mesh")
		s := newSpace(m)
		w, err := s.world(m, "")
		if err != nil {
			rt.Fatal(err)
		}
		allowed := s.withoutAll(all(w.permits), all(w.forbids))
		merged := s.merge(allowed)
		for _, r := range rapid.SliceOfN(requests(m.Tenants), 20, 20).Draw(rt, "requests") {
			r.Own = s.ownOf(m, r)
			d, point := w.set.Authorize(r), s.point(r, r)
			if got := s.hit(allowed, point); got != d.Allowed || s.hit(merged, point) != got {
				rt.Fatalf("boxes say %v, merged %v, Authorize %v for %+v: %+v", got, s.hit(merged, point), d.Allowed, r, d.Results)
			}
		}
		for _, b := range merged { // certain ones
			if b.conditions() == 0 {
				checkExample(rt, m, w.set, s.class(b).Example, true)
			}
		}
	})
}

func checkExample(t *rapid.T, m *Mesh, set *authz.Set, example Request, want bool) {
	r, err := example.authz(m)
	if err != nil {
		t.Fatal(err)
	}
	if d := set.Authorize(r); d.Allowed != want {
		t.Fatalf("the example %v is allowed %v, want %v: %+v", example, d.Allowed, want, d.Results)
	}
}

// changed is a mesh after some change.
func changed(t *rapid.T, m *Mesh) *Mesh {
	if rapid.IntRange(0, 3).Draw(t, "change") == 0 {
		return meshes.Draw(t, "another")
	}
	after := *m
	after.Policies = slices.Clone(m.Policies)
	if n := len(after.Policies); n > 0 {
		i := rapid.IntRange(0, n-1).Draw(t, "at")
		switch rapid.IntRange(0, 3).Draw(t, "edit") {
		case 0:
			after.Policies = slices.Delete(after.Policies, i, i+1)
		case 1:
			after.Policies[i] = policies.Draw(t, "new")
		case 2:
			after.Policies[i].Spec.Targets = append(slices.Clone(after.Policies[i].Spec.Targets), policy.Target{Workload: "back"})
		}
	}
	return &after
}

// TestDiffAgrees: a request that only one of two meshes allows is in the difference, and nothing else is.
func TestDiffAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		before := meshes.Draw(rt, "before")
		after := changed(rt, before)
		s := newSpace(before, after)
		a, err := s.world(before, "was")
		if err != nil {
			rt.Fatal(err)
		}
		b, err := s.world(after, "is")
		if err != nil {
			rt.Fatal(err)
		}
		more, less := s.moreBoxes(b, a), s.moreBoxes(a, b)
		for _, r := range rapid.SliceOfN(requests(s.known), 20, 20).Draw(rt, "requests") {
			then, now := *r, *r
			then.Tenant, now.Tenant = as(r.Tenant, before.Tenants), as(r.Tenant, after.Tenants)
			then.Own, now.Own = s.ownOf(before, r), s.ownOf(after, r)
			point := s.point(&now, &then)
			was, is := a.set.Authorize(&then).Allowed, b.set.Authorize(&now).Allowed
			if s.hit(more, point) != (is && !was) || s.hit(less, point) != (was && !is) {
				rt.Fatalf("was %v, is %v; the diff says %v and %v: %+v", was, is, s.hit(more, point), s.hit(less, point), r)
			}
		}
	})
}

func as(t authz.Tenant, tenants []authz.Tenant) authz.Tenant {
	if i := slices.IndexFunc(tenants, func(other authz.Tenant) bool { return other.ID == t.ID }); i >= 0 {
		return tenants[i]
	}
	return t
}

// ownOf is the tenant that a request's principal is bound to in a mesh, and in one that knows no workloads by those of the space.
func (s *space) ownOf(m *Mesh, r *authz.Request) identity.TenantID {
	switch {
	case len(m.Workloads) > 0:
		return m.owned(r.Principal)
	case len(s.workloads) > 0:
		return (&Mesh{Workloads: s.workloads}).owned(r.Principal)
	default:
		return r.Own
	}
}

func (s *space) moreBoxes(w, other *world) (boxes []box) {
	for _, v := range s.joined(s.more(w, other)) {
		boxes = append(boxes, v.box)
	}
	return boxes
}

// TestEquivalent: a mesh and itself in another order, with each policy's principals and targets apart, do not differ.
func TestEquivalent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := meshes.Draw(rt, "mesh")
		apart := *m
		apart.Policies = nil
		for _, p := range slices.Backward(m.Policies) {
			for _, who := range p.Spec.Principals {
				for _, target := range p.Spec.Targets {
					one := p
					one.Name = fmt.Sprint(p.Name, "-", len(apart.Policies))
					one.Spec.Principals, one.Spec.Targets = []string{who}, []policy.Target{target}
					apart.Policies = append(apart.Policies, one)
				}
			}
		}
		change, err := Diff(m, &apart)
		if err != nil {
			rt.Fatal(err)
		}
		if !change.Empty() {
			rt.Fatalf("they differ: %+v", change)
		}
	})
}

// TestWordsAreExact: what is spelled is what is meant, for paths, principals and tenants.
func TestWordsAreExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := meshes.Draw(rt, "mesh")
		s := newSpace(m)
		for range 3 {
			who, path, tenants := s.pattern(patterns.Draw(rt, "who")), s.path(pathPatterns.Draw(rt, "path")), s.none
			for range 3 {
				op := rapid.SampledFrom([]operation{or, minus}).Draw(rt, "op")
				who = s.combine(op, who, s.pattern(patterns.Draw(rt, "who")))
				path = s.combine(op, path, s.path(pathPatterns.Draw(rt, "path")))
				if len(m.Policies) > 0 {
					selector := rapid.SampledFrom(m.Policies).Draw(rt, "policy").Spec.Tenants
					tenants = s.combine(or, s.combine(op, s.dimensions[ofTenant].full, tenants), s.tenants(&selector, s.known))
				}
			}
			for dimension, meant := range map[int]*set{ofPrincipal: who, ofPath: path, ofTenant: tenants} {
				if meant == s.none {
					continue
				}
				words := s.spelled(s.with(nil, dimension, meant), dimension)
				if got := s.meaning(words, dimension); got != meant {
					rt.Fatalf("%v is spelled for another set", words)
				}
			}
		}
	})
}

// meaning reads words back.
func (s *space) meaning(w Words, dimension int) *set {
	meant := s.none
	for _, text := range w.Of {
		one := s.unit
		switch {
		case text == Any:
			one = s.dimensions[dimension].full
		case text == NoTenant || text == NoSlash:
		case dimension == ofPrincipal:
			one = s.pattern(text)
		case dimension == ofPath:
			one = s.path(text)
		default:
			one = s.tenants(readSelector(text), s.known)
		}
		meant = s.combine(or, meant, one)
	}
	if w.Except != nil {
		meant = s.combine(minus, meant, s.meaning(*w.Except, dimension))
	}
	return meant
}

func readSelector(text string) *policy.TenantSelector {
	selector := &policy.TenantSelector{Labels: map[string]string{}}
	words := strings.Split(text, " ")
	for i := 0; i < len(words); i++ {
		name, value, ok := strings.Cut(words[i], "=")
		switch {
		case ok:
			selector.Labels[name] = value
		case words[i] == "tier":
			i++
			selector.Tiers = []string{words[i]}
		case words[i] == "residency":
			i++
			selector.Residency = words[i]
		default:
			selector.Names = []string{words[i]}
		}
	}
	return selector
}
