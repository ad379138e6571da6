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
	traits     []trait        // that some policy selects by, the tier in any case
	workloads  []Workload     // as the last mesh that knows any has them
	known      []authz.Tenant // as the last mesh that knows them has them; by name
	changed    *set           // those that conditions may see otherwise in another mesh
	bounds     []time.Time    // at which some grant ends; sorted, all after now
	now        time.Time
}

// newSpace is the space for all of the meshes. They have one Now.
func newSpace(meshes ...*Mesh) *space {
	s := &space{algebra: newAlgebra(), conditions: map[string]int{}, now: meshes[0].Now}
	traits, known, bounds := map[trait]bool{byTier: true}, map[string]authz.Tenant{}, map[time.Time]bool{}
	var changed []string
	for _, m := range meshes {
		for i := range m.Policies {
			p := &m.Policies[i]
			for label := range p.Spec.Tenants.Labels {
				traits[byLabel(label)] = true
			}
			if p.Spec.Tenants.Residency != "" {
				traits[byResidency] = true
			}
			if p.NotAfter.After(s.now) {
				bounds[p.NotAfter.UTC()] = true
			}
		}
		if len(m.Workloads) > 0 {
			s.workloads = m.Workloads
		}
		for _, t := range m.Tenants {
			name := t.ID.String()
			if was, ok := known[name]; ok && (was.Tier != t.Tier || was.Residency != t.Residency || !maps.Equal(was.Labels, t.Labels)) {
				changed = append(changed, name)
			}
			known[name] = t
		}
	}
	s.traits = slices.Sorted(maps.Keys(traits))
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

// tenants are the tenants that a selector selects, as somebody's own where it is for own ones: the known ones, who are as said, by
// their names alone, each other one by name and then traits, where no label is any other value of it. The empty sequence is no tenant.
func (s *space) tenants(selector *policy.TenantSelector, as []authz.Tenant) *set {
	unknown := s.unit
	for _, trait := range slices.Backward(s.traits) {
		if values := trait.of(selector); len(values) > 0 {
			unknown = s.oneOf(unknown, values...)
		} else {
			unknown = s.anyWord(unknown)
		}
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
