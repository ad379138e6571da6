package analysis

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Invariant is something that is to hold for every request. Without a name it is known by what it says.
type Invariant struct {
	Name string
	policy.AccessInvariantSpec
}

// String is the invariant in words.
func (v *Invariant) String() string {
	if v.Name != "" {
		return v.Name
	}
	if v.NoCrossTenant {
		return "no cross-tenant"
	}
	text := "only from " + strings.Join(v.OnlyFrom, ", ")
	if v.Workload != "" {
		text += " to " + v.Workload
	}
	return text
}

// Outcome says whether an invariant holds.
type Outcome string

// The outcomes.
const (
	Holds       Outcome = "holds"       // for every request
	Broken      Outcome = "broken"      // Request is allowed, and must not be
	Conditional Outcome = "conditional" // it holds unless a condition in CEL lets a request of Classes pass; none was found that it does
)

// Proof is what came of an invariant.
type Proof struct {
	Invariant string              `json:"invariant"`
	Outcome   Outcome             `json:"outcome"`
	Classes   []Class             `json:"classes,omitempty"` // all that breaks it, or may
	Request   *Request            `json:"request,omitempty"` // that breaks it
	Rule      string              `json:"rule,omitempty"`    // that allows Request, by authz.Authorize
	Results   []policy.RuleResult `json:"results,omitempty"` // of Request, as explain shows them
	Grants    []string            `json:"grants,omitempty"`  // by which tenants are crossed all the same, as they may
	Nobody    bool                `json:"nobody,omitempty"`  // belongs to a tenant, and so NoCrossTenant holds without saying much
}

// Prove proves an invariant, for all requests, or finds one that breaks it.
func Prove(m *Mesh, v *Invariant) (Proof, error) {
	if problems := CheckInvariant(&v.AccessInvariantSpec); len(problems) > 0 {
		return Proof{}, fmt.Errorf("invariant %s: %w", v, problems)
	}
	s := newSpace(m)
	w, err := s.world(m, "")
	if err != nil {
		return Proof{}, err
	}
	proof := Proof{Invariant: v.String(), Outcome: Holds}
	var wrong []box // what must not be allowed
	var grants []rule
	if v.NoCrossTenant {
		wrong, grants = s.foreign(w)
		proof.Nobody = len(wrong) == 0
	} else {
		wrong = s.others(v)
	}
	forbids, granted := all(w.forbids), all(grants)
	var found []verdict
	for _, permit := range w.permits {
		left := s.withoutAll(s.meetAll(permit.boxes, wrong), forbids)
		if isGrant(&permit) && v.NoCrossTenant {
			if len(left) > 0 {
				proof.Grants = append(proof.Grants, permit.name)
			}
			continue
		}
		for _, b := range s.withoutAll(left, granted) {
			found = append(found, verdict{b, []string{permit.name}, nil})
		}
	}
	if proof.Classes = s.classes(found); len(proof.Classes) > 0 {
		proof.Outcome = Conditional
		s.search(w, found, &proof)
	}
	return proof, nil
}

// search looks for a request of the boxes that is allowed. Any one of a box that has no condition is.
func (s *space) search(w *world, found []verdict, proof *Proof) {
	slices.SortStableFunc(found, func(a, b verdict) int { return a.conditions() - b.conditions() })
	for _, v := range found {
		for _, b := range s.variants(w.mesh, v.box) {
			example := s.example(b)
			request, err := example.authz(w.mesh)
			if err != nil {
				continue // a policy names what cannot be
			}
			if _, allowed := w.set.Allowed(request); allowed {
				d := w.set.Authorize(request)
				proof.Outcome, proof.Request, proof.Rule, proof.Results = Broken, &example, d.Rule, d.Results
				return
			}
		}
	}
}

// conditions is the number of conditions of the box.
func (b box) conditions() (n int) {
	for _, c := range b {
		if c.dimension >= ofCondition {
			n++
		}
	}
	return n
}

// mostTenants bounds for how many tenants a condition is tried.
const mostTenants = 100

// variants are parts of a box, of one tenant, tier or method each, of which some may meet a condition where others do not. The box is
// the first.
func (s *space) variants(m *Mesh, b box) []box {
	list := []box{b}
	if b.conditions() == 0 {
		return list
	}
	var parts []box
	for i := range min(len(m.Tenants), mostTenants) {
		parts = append(parts, s.with(nil, ofTenant, s.named(m.Tenants[i].ID.String())))
	}
	for _, tier := range m.Tiers {
		parts = append(parts, s.with(nil, ofTenant, s.tenants(&policy.TenantSelector{Tiers: []string{tier}}, nil)))
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		parts = append(parts, s.with(nil, ofMethod, s.oneOf(s.unit, method)))
	}
	return append(list, s.meetAll(list, parts)...)
}

// isGrant reports whether a rule is an AccessGrant; no AccessPolicy has a "/" in its name.
func isGrant(r *rule) bool { return strings.HasPrefix(r.name, "grant/") }

// CheckInvariant returns all that is wrong with an invariant.
func CheckInvariant(v *policy.AccessInvariantSpec) authz.FieldProblems {
	_, problems := authz.NewClass("", v.Methods, v.Paths)
	add := func(field, format string, args ...any) {
		problems = append(problems, authz.FieldProblem{Field: field, Text: fmt.Sprintf(format, args...)})
	}
	if v.NoCrossTenant == (len(v.OnlyFrom) > 0) {
		add("onlyFrom", "must be set where noCrossTenant is not, and nowhere else (got %q)", v.OnlyFrom)
	}
	if selects := v.Workload + v.Tenant; v.NoCrossTenant && selects+strings.Join(v.Methods, "")+strings.Join(v.Paths, "") != "" {
		add("noCrossTenant", "must stand alone: it is about all requests")
	}
	for i, text := range v.OnlyFrom {
		if _, err := identity.ParsePattern(text); err != nil {
			add(fmt.Sprintf("onlyFrom[%d]", i), "%v", err)
		}
	}
	if _, err := identity.ParseTenantID(v.Tenant); err != nil && v.Tenant != "" {
		add("tenant", "%v", err)
	}
	return problems
}

// others are the requests that an invariant keeps for some principals, of all others.
func (s *space) others(v *Invariant) []box {
	var about box
	if v.Tenant != "" {
		about = s.with(about, ofTenant, s.named(v.Tenant))
	}
	about = s.target(about, &policy.Target{Workload: cmp.Or(v.Workload, "*"), Methods: v.Methods, Paths: v.Paths})
	return s.without(about, s.with(nil, ofPrincipal, s.principals(v.OnlyFrom)))
}

// foreign are the requests of who belongs to a tenant for another one, and the grants in force.
func (s *space) foreign(w *world) (requests []box, grants []rule) {
	bound := s.none // all who are bound to some tenant
	add := func(who, own *set) {
		if who == s.none {
			return
		}
		requests = append(requests, s.without(s.with(nil, ofPrincipal, who), s.with(nil, ofTenant, own))...)
	}
	for i := range w.mesh.Workloads {
		workload := &w.mesh.Workloads[i]
		if workload.BoundTenant == "" {
			continue
		}
		who := s.principals(workload.Principals)
		bound = s.combine(or, bound, who)
		add(who, s.combine(or, s.named(workload.BoundTenant), s.unit))
	}
	for _, permit := range w.permits {
		if isGrant(&permit) {
			grants = append(grants, permit)
			for _, b := range permit.boxes {
				add(s.combine(minus, s.of(b, ofPrincipal), bound), s.unit)
			}
		}
	}
	if at, ok := s.conditions["own"]; ok { // who acts for its own tenant belongs to that
		requests = s.meetAll(requests, []box{s.with(nil, at, s.oneOf(s.unit, isOut))})
	}
	return requests, grants
}
