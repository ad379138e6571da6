package analysis

import (
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// owner is who is bound to a tenant, and that tenant. Who is an owner is no other one.
type owner struct{ who, own *set }

// owners are those of a mesh; in one that knows no workloads those of the others of the space.
func (s *space) owners(m *Mesh) (list []owner) {
	workloads, others := m.Workloads, s.none
	if len(workloads) == 0 {
		workloads = s.workloads
	}
	for i := range workloads {
		w := &workloads[i]
		who := s.combine(minus, s.principals(w.Principals), others)
		others = s.combine(or, others, who)
		if w.BoundTenant != "" && who != s.none {
			list = append(list, owner{who, s.named(w.BoundTenant)})
		}
	}
	return list
}

// own is b, where the tenant is the principal's own if the policy is for such alone. In a space without workloads nobody knows who is
// bound to which tenant: then it is a condition.
func (s *space) own(b box, p *authz.Policy, owners []owner) (boxes []box) {
	if !p.Spec.Tenants.Own {
		return []box{b}
	}
	if len(s.workloads) == 0 {
		return []box{s.with(b, s.ownCondition(), s.oneOf(s.unit, isIn))}
	}
	for _, o := range owners {
		if both, ok := s.meet(b, s.with(s.with(nil, ofPrincipal, o.who), ofTenant, o.own)); ok {
			boxes = append(boxes, both)
		}
	}
	return boxes
}

func (s *space) ownCondition() int {
	return s.condition("own", "for the principal's own tenant", "", isIn, isOut)
}

// owned is the tenant that a principal is bound to: by the first workload that it is one of. The zero value is none.
func (m *Mesh) owned(principal identity.Principal) (own identity.TenantID) {
	for i := range m.Workloads {
		for _, text := range m.Workloads[i].Principals {
			if pattern, err := identity.ParsePattern(text); err == nil && pattern.Match(principal) {
				_ = own.UnmarshalText([]byte(m.Workloads[i].BoundTenant)) // what is no name names nobody
				return own
			}
		}
	}
	return own
}
