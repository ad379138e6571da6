package analysis

import (
	"cmp"
	"slices"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Query says which requests are asked about. A zero field is all of its sort.
type Query struct {
	Principal identity.Principal
	Tenant    identity.TenantID
	Workload  string
	Method    string
	Path      string // a path, or a path pattern
}

// Answer is what the policies have to say about all requests of a query.
type Answer struct {
	Allowed []Class `json:"allowed"` // by rule: what a permit permits and nothing forbids
	Cut     []Class `json:"cut"`     // by forbid: what permits would permit, and it forbids
}

// Ask answers a query, completely: a request that it is about, and that is in no class of Allowed, is refused.
func Ask(m *Mesh, q *Query) (Answer, error) {
	s := newSpace(m)
	about, err := s.query(q)
	if err != nil {
		return Answer{}, err
	}
	w, err := s.world(m, "")
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Allowed: []Class{}, Cut: []Class{}}
	forbids := all(w.forbids)
	asked := make([][]box, len(w.permits))
	for i, permit := range w.permits {
		asked[i] = s.meetAll(permit.boxes, []box{about})
		for _, b := range s.merge(s.withoutAll(asked[i], forbids)) {
			c := s.class(b)
			c.Rules = []string{permit.name}
			answer.Allowed = append(answer.Allowed, c)
		}
	}
	for _, forbid := range w.forbids {
		var found []verdict
		for i, permit := range w.permits {
			for _, b := range s.meetAll(asked[i], forbid.boxes) {
				found = append(found, verdict{b, []string{permit.name}, []string{forbid.name}})
			}
		}
		answer.Cut = append(answer.Cut, s.classes(found)...)
	}
	return answer, nil
}

// query are the requests that q is about.
func (s *space) query(q *Query) (box, error) {
	t := policy.Target{Workload: cmp.Or(q.Workload, "*")}
	if q.Method != "" {
		t.Methods = []string{q.Method}
	}
	if q.Path != "" {
		t.Paths = []string{q.Path}
	}
	if _, problems := authz.NewClass("", t.Methods, t.Paths); len(problems) > 0 {
		return nil, problems
	}
	var b box
	if !q.Principal.IsZero() {
		b = s.with(b, ofPrincipal, s.pattern(q.Principal.String()))
	}
	if !q.Tenant.IsZero() {
		b = s.with(b, ofTenant, s.named(q.Tenant.String()))
	}
	return s.target(b, &t), nil
}

// verdict is a box, with the rules that have a say about it.
type verdict struct {
	box
	rules, forbids []string
}

// classes spell verdicts, as few as can be: where the boxes are the same, the rules come together, and what is within another
// for the same forbids goes.
func (s *space) classes(found []verdict) (list []Class) {
	for range 2 { // the second time for what the first brought together
		found = s.joined(found)
	}
	for i, v := range found {
		if slices.ContainsFunc(found[i+1:], v.within(s)) || slices.ContainsFunc(found[:i], v.within(s)) {
			continue
		}
		c := s.class(v.box)
		c.Rules, c.Forbids = v.rules, v.forbids
		list = append(list, c)
	}
	return list
}

// within tells whether another verdict says all that v does. Two that are joined are never the same.
func (v *verdict) within(s *space) func(verdict) bool {
	return func(other verdict) bool {
		return slices.Equal(v.forbids, other.forbids) && s.inside(v.box, other.box)
	}
}

// joined merges the boxes of the same rules, and the rules of the same boxes.
func (s *space) joined(found []verdict) (list []verdict) {
	type group struct {
		verdict
		boxes []box
	}
	var groups []*group
	at := map[string]*group{}
	for _, v := range found {
		key := keyOf(v.rules) + " but " + keyOf(v.forbids)
		if at[key] == nil {
			at[key] = &group{verdict: v}
			groups = append(groups, at[key])
		}
		at[key].boxes = append(at[key].boxes, v.box)
	}
	same := map[string]int{}
	for _, g := range groups {
		for _, b := range s.merge(g.boxes) {
			key := b.key(-1) + keyOf(g.forbids)
			if i, ok := same[key]; ok {
				list[i].rules = slices.Compact(slices.Sorted(slices.Values(slices.Concat(list[i].rules, g.rules))))
				continue
			}
			same[key] = len(list)
			list = append(list, verdict{b, g.rules, g.forbids})
		}
	}
	return list
}
