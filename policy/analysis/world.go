package analysis

import (
	"fmt"
	"slices"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// rule is a policy that decides, as boxes.
type rule struct {
	name  string
	boxes []box
}

// world is a mesh in a space.
type world struct {
	permits, forbids []rule // each as in the mesh
	owners           []owner
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
		key := fmt.Sprintf("%#v", *selector)
		if selected[key] == nil {
			selected[key] = s.tenants(selector, tenants)
		}
		return selected[key]
	}
	w := &world{set: compiled, mesh: m}
	w.owners = s.owners(m)
	for i := range m.Policies {
		p := &m.Policies[i]
		r := rule{p.Name, s.boxes(p, side, selects, w.owners)}
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
func (s *space) boxes(p *authz.Policy, side string, selects func(*policy.TenantSelector) *set, owners []owner) (boxes []box) {
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
	for _, own := range s.own(common, p, owners) {
		for _, b := range s.conditional(own, p, side) {
			for i := range p.Spec.Targets {
				boxes = append(boxes, s.target(b, &p.Spec.Targets[i]))
			}
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
func (s *space) target(b box, of *policy.Target) box {
	t := of.Plain()
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
