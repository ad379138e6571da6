package analysis

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Mesh is what is analysed.
type Mesh struct {
	Policies  []authz.Policy // with grants as authz.AsPolicy has them
	Tenants   []authz.Tenant // known ones, none of them the zero value
	Tiers     []string       // that exist; none: nobody knows
	Workloads []Workload
	Now       time.Time // answers are about this time and all later
}

// Workload is what an analysis has to know of a workload.
type Workload struct {
	Name        string
	Principals  []string // SPIFFE patterns: who it is
	BoundTenant string   // the tenant that it belongs to, "" for none
	DependsOn   []string
	Exposed     bool // gateways call it
}

// The values of a condition, and of a canary.
const (
	isTrue  = "true"
	isFalse = "false"
	isError = "error"
	isIn    = "in"
	isOut   = "out"
)

// dimension is one thing about requests.
type dimension struct {
	full *set
	text string // of a condition
	side string // of which it is, as in [space.world]; "" for all
}

// space is where the boxes of one analysis are.
type space struct {
	*algebra
	dimensions []dimension
	conditions map[string]int // by what tells them apart
	labels     []string       // that some policy selects by; sorted
	known      []authz.Tenant // as the last mesh that knows them has them; by name
	changed    *set           // those that conditions may see otherwise in another mesh
	bounds     []time.Time    // at which some grant ends; sorted, all after now
	now        time.Time
}

// newSpace is the space for all of the meshes. They have one Now.
func newSpace(meshes ...*Mesh) *space {
	s := &space{algebra: newAlgebra(), conditions: map[string]int{}, now: meshes[0].Now}
	labels, known, bounds := map[string]bool{}, map[string]authz.Tenant{}, map[time.Time]bool{}
	var changed []string
	for _, m := range meshes {
		for i := range m.Policies {
			p := &m.Policies[i]
			for label := range p.Spec.Tenants.Labels {
				labels[label] = true
			}
			if p.NotAfter.After(s.now) {
				bounds[p.NotAfter.UTC()] = true
			}
		}
		for _, t := range m.Tenants {
			name := t.ID.String()
			if was, ok := known[name]; ok && (was.Tier != t.Tier || was.Residency != t.Residency || !maps.Equal(was.Labels, t.Labels)) {
				changed = append(changed, name)
			}
			known[name] = t
		}
	}
	s.labels = slices.Sorted(maps.Keys(labels))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		s.known = append(s.known, known[name])
	}
	s.changed = s.oneOf(s.unit, changed...)
	s.bounds = slices.SortedFunc(maps.Keys(bounds), time.Time.Compare)
	word := s.anyWord(s.unit)
	s.dimensions = []dimension{
		ofPrincipal: {full: s.anyWord(s.anyWord(s.all))},
		ofTenant:    {full: s.tenants(&policy.TenantSelector{}, s.known)},
		ofWorkload:  {full: word},
		ofMethod:    {full: word},
		ofPath:      {full: s.all}, // the empty sequence is a path that does not begin with "/"
		ofTime:      {full: word},  // the number of bounds that are over, but for the last, which is any other word
	}
	return s
}

// condition is the dimension of one. A key is of one text and side.
func (s *space) condition(key, text, side string, values ...string) int {
	at, ok := s.conditions[key]
	if !ok {
		at = len(s.dimensions)
		s.conditions[key] = at
		s.dimensions = append(s.dimensions, dimension{s.oneOf(s.unit, values...), text, side})
	}
	return at
}

// pattern are the principals that a well-formed SPIFFE pattern matches.
func (s *space) pattern(text string) *set {
	words := strings.Split(strings.TrimPrefix(text, scheme), "/")
	return s.sequence(words, s.anyWord(s.all), s.anyWord)
}

const scheme = "spiffe://"

// path are the paths that a well-formed path pattern matches.
func (s *space) path(text string) *set {
	words := strings.Split(strings.TrimPrefix(text, "/"), "/")
	if words[0] == "**" {
		return s.anyWord(s.all)
	}
	return s.sequence(words, s.all, s.segment)
}

// segment are the paths of any one segment that is not empty and then rest.
func (s *space) segment(rest *set) *set {
	return s.node(false, rest, map[string]*set{"": s.none})
}

func (s *space) sequence(words []string, tail *set, star func(rest *set) *set) *set {
	set := s.unit
	for _, word := range slices.Backward(words) {
		switch word {
		case "**":
			set = tail
		case "*":
			set = star(set)
		default:
			set = s.oneOf(set, word)
		}
	}
	return set
}

// tenants are the tenants that a selector selects: the known ones, who are as said, by their names alone, each other one by
// name, tier and then labels, where no label is any other value of it. The empty sequence is no tenant.
func (s *space) tenants(selector *policy.TenantSelector, as []authz.Tenant) *set {
	unknown := s.unit
	for _, label := range slices.Backward(s.labels) {
		if value, ok := selector.Labels[label]; ok {
			unknown = s.oneOf(unknown, value)
		} else {
			unknown = s.anyWord(unknown)
		}
	}
	if len(selector.Tiers) > 0 {
		unknown = s.oneOf(unknown, selector.Tiers...)
	} else {
		unknown = s.anyWord(unknown)
	}
	other, next := unknown, map[string]*set{}
	know := func(t *authz.Tenant) {
		next[t.ID.String()] = s.none
		if authz.SelectsTenant(selector, t) {
			next[t.ID.String()] = s.unit
		}
	}
	if len(selector.Names) == 0 {
		for i := range as {
			know(&as[i])
		}
	} else { // there are more tenants than names
		other = s.none
		for _, name := range selector.Names {
			next[name] = unknown
			if i, ok := tenantNamed(as, name); ok {
				know(&as[i])
			}
		}
	}
	next[""] = s.none // no tenant is not one of that name
	return s.node(authz.SelectsTenant(selector, &authz.Tenant{}), other, next)
}

// tenantNamed finds a tenant among those that are sorted by name.
func tenantNamed(tenants []authz.Tenant, name string) (int, bool) {
	return slices.BinarySearchFunc(tenants, name, func(t authz.Tenant, name string) int { return strings.Compare(t.ID.String(), name) })
}

// named is the tenant of that name.
func (s *space) named(name string) *set {
	return s.tenants(&policy.TenantSelector{Names: []string{name}}, s.known)
}

// until are the times before a grant's end.
func (s *space) until(end time.Time) *set {
	var words []string
	for i, bound := range s.bounds {
		if !bound.After(end) {
			words = append(words, interval(i))
		}
	}
	return s.oneOf(s.unit, words...)
}

// interval is the word for the time before the bound of that number, and not before the one before.
func interval(i int) string { return fmt.Sprintf("%06d", i) }

// rule is a policy that decides, as boxes.
type rule struct {
	name  string
	boxes []box
}

// world is a mesh in a space.
type world struct {
	permits, forbids []rule // each as in the mesh
	set              *authz.Set
	mesh             *Mesh
}

// world compiles a mesh. A tenant that only others know is for it as they have it. The side says in words, where there are two
// meshes, which it is.
func (s *space) world(m *Mesh, side string) (*world, error) {
	compiled, err := authz.Compile(m.Policies)
	if err != nil {
		return nil, err
	}
	tenants := slices.Clone(s.known)
	for _, t := range m.Tenants {
		i, _ := tenantNamed(tenants, t.ID.String())
		tenants[i] = t
	}
	selected := map[string]*set{} // by selector
	selects := func(selector *policy.TenantSelector) *set {
		key := fmt.Sprintf("%q", *selector)
		if selected[key] == nil {
			selected[key] = s.tenants(selector, tenants)
		}
		return selected[key]
	}
	w := &world{set: compiled, mesh: m}
	for i := range m.Policies {
		p := &m.Policies[i]
		r := rule{p.Name, s.boxes(p, side, selects)}
		switch {
		case p.Spec.Mode == policy.Shadow || len(r.boxes) == 0:
		case p.Spec.Effect == policy.Permit:
			w.permits = append(w.permits, r)
		default:
			w.forbids = append(w.forbids, r)
		}
	}
	return w, nil
}

// boxes are the requests that a policy matches, from now on.
func (s *space) boxes(p *authz.Policy, side string, selects func(*policy.TenantSelector) *set) (boxes []box) {
	if !p.NotAfter.IsZero() && !p.NotAfter.After(s.now) {
		return nil
	}
	selected := selects(&p.Spec.Tenants)
	if selected == s.none {
		return nil
	}
	common := s.with(nil, ofPrincipal, s.principals(p.Spec.Principals))
	common = s.with(common, ofTenant, selected)
	if !p.NotAfter.IsZero() {
		common = s.with(common, ofTime, s.until(p.NotAfter))
	}
	if c := p.Canary; c != nil {
		value := isIn
		if c.Others {
			value = isOut
		}
		key := fmt.Sprintf("canary %q %v %q", c.Seed, c.Percent, c.Names)
		text := fmt.Sprintf("in the rollout to %v %%", c.Percent)
		common = s.with(common, s.condition(key, text, "", isIn, isOut), s.oneOf(s.unit, value))
	}
	for _, b := range s.conditional(common, p, side) {
		for i := range p.Spec.Targets {
			boxes = append(boxes, s.target(b, &p.Spec.Targets[i]))
		}
	}
	return s.merge(boxes)
}

// conditional is b, where the policy's condition holds. Of a tenant that is another one on another side the condition is of this side.
func (s *space) conditional(b box, p *authz.Policy, side string) (boxes []box) {
	if p.Spec.When == "" {
		return []box{b}
	}
	matching := []string{isTrue}
	if p.Spec.Effect == policy.Forbid { // an error counts against the caller
		matching = append(matching, isError)
	}
	for _, part := range []struct {
		op         operation
		side, text string
	}{{minus, "", p.Spec.When}, {and, side, p.Spec.When + ", as the tenant " + side}} {
		if tenants := s.combine(part.op, s.of(b, ofTenant), s.changed); tenants != s.none {
			at := s.condition("when "+part.text, part.text, part.side, isTrue, isFalse, isError)
			boxes = append(boxes, s.with(s.with(b, ofTenant, tenants), at, s.oneOf(s.unit, matching...)))
		}
	}
	return boxes
}

// target is b, for one target alone.
func (s *space) target(b box, t *policy.Target) box {
	if t.Workload != "*" {
		b = s.with(b, ofWorkload, s.oneOf(s.unit, t.Workload))
	}
	if len(t.Methods) > 0 {
		b = s.with(b, ofMethod, s.oneOf(s.unit, t.Methods...))
	}
	if len(t.Paths) > 0 {
		paths := s.none
		for _, path := range t.Paths {
			paths = s.combine(or, paths, s.path(path))
		}
		b = s.with(b, ofPath, paths)
	}
	return b
}

// principals are those that one of the patterns matches.
func (s *space) principals(patterns []string) *set {
	set := s.none
	for _, pattern := range patterns {
		set = s.combine(or, set, s.pattern(pattern))
	}
	return set
}

// all are the boxes of rules.
func all(rules []rule) (boxes []box) {
	for _, r := range rules {
		boxes = append(boxes, r.boxes...)
	}
	return boxes
}
