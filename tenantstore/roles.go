package tenantstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// RoleBindingSpec is the spec of kind RoleBinding: people who are no operators, and what is theirs. They may write the AccessPolicies
// and AccessGrants that are about that alone, and see it. Operators write bindings, nobody else.
type RoleBindingSpec struct {
	Role       BoundRole `json:"role"`
	Principals []string  `json:"principals"`          // SPIFFE patterns, see identity.Pattern
	Workloads  []string  `json:"workloads,omitempty"` // of an AppTeam
	Tenants    []string  `json:"tenants,omitempty"`   // of a TenantAdmin
}

// BoundRole is a role that a RoleBinding gives.
type BoundRole string

// The bound roles.
const (
	AppTeam     BoundRole = "AppTeam"     // of workloads
	TenantAdmin BoundRole = "TenantAdmin" // of tenants
)

// Scope is what is a principal's own by RoleBindings. The zero value is nothing.
type Scope struct {
	Workloads map[string]bool // it is of their team
	Tenants   map[string]bool // it is their admin
}

// ScopeOf is the scope that objects bind a principal to, empty when they do not.
func ScopeOf(objects map[Key]*Object, principal identity.Principal) Scope {
	scope := Scope{map[string]bool{}, map[string]bool{}}
	for key, o := range objects {
		if key.Kind != KindRoleBinding || !o.RoleBinding.Binds(principal) {
			continue
		}
		switch o.RoleBinding.Role {
		case AppTeam:
			for _, name := range o.RoleBinding.Workloads {
				scope.Workloads[name] = true
			}
		case TenantAdmin:
			for _, name := range o.RoleBinding.Tenants {
				scope.Tenants[name] = true
			}
		}
	}
	return scope
}

// Binds reports whether the binding is a principal's.
func (b *RoleBindingSpec) Binds(principal identity.Principal) bool {
	return slices.ContainsFunc(b.Principals, func(text string) bool {
		pattern, err := identity.ParsePattern(text)
		return err == nil && pattern.Match(principal)
	})
}

// Has reports whether the scope is that of somebody in the role.
func (s Scope) Has(role BoundRole) bool {
	return role == AppTeam && len(s.Workloads) > 0 || role == TenantAdmin && len(s.Tenants) > 0
}

// Sees reports whether an object is in the scope, to be read.
func (s Scope) Sees(o *Object) bool {
	switch o.Kind {
	case KindWorkload:
		return s.Workloads[o.Metadata.Name]
	case KindTenant:
		return s.Tenants[o.Metadata.Name]
	default:
		return len(s.Outside(o)) == 0
	}
}

// Outside says what of an object lies beyond what the scope may write, nothing when it may be written: by the role that is the nearest to
// it, where the scope has two.
func (s Scope) Outside(o *Object) (problems Problems) {
	var tenants *policy.TenantSelector
	var targets []policy.Target
	switch o.Kind {
	case KindAccessPolicy:
		tenants, targets = &o.AccessPolicy.Tenants, o.AccessPolicy.Targets
	case KindAccessGrant:
		tenants, targets = &o.AccessGrant.Tenants, o.AccessGrant.Targets
	default:
		return Problems{{Object: o.Key().String(), Path: "kind", Text: fmt.Sprintf("must be %s or %s: ask an operator to write others (got %q)", KindAccessPolicy, KindAccessGrant, o.Kind)}}
	}
	add := func(path, format string, args ...any) {
		problems = append(problems, Problem{Object: o.Key().String(), Path: path, Text: fmt.Sprintf(format, args...)})
	}
	if !s.Has(AppTeam) && !s.Has(TenantAdmin) {
		add("", "must be written by an operator, or by somebody whom a RoleBinding names")
		return problems
	}
	if s.Has(AppTeam) {
		s.otherWorkloads(targets, add)
	}
	if asTeam := problems; s.Has(TenantAdmin) && (!s.Has(AppTeam) || len(asTeam) > 0) {
		problems = nil
		if s.otherTenants(tenants, add); len(asTeam) > 0 && len(asTeam) < len(problems) {
			problems = asTeam
		}
	}
	return problems
}

// otherWorkloads adds what targets select of workloads that are not the team's.
func (s Scope) otherWorkloads(targets []policy.Target, add func(path, format string, args ...any)) {
	own := strings.Join(slices.Sorted(maps.Keys(s.Workloads)), ", ")
	if len(targets) == 0 {
		add("spec.targets", "must name workloads of your team: %s (got none)", own)
	}
	for i, t := range targets {
		if !s.Workloads[t.Workload] {
			add(fmt.Sprintf("spec.targets[%d].workload", i), "must be a workload of your team: %s; ask an operator for others (got %q)", own, t.Workload)
		}
	}
}

// otherTenants adds what a selector selects of tenants that are not the admin's. What it says beside names selects less of them.
func (s Scope) otherTenants(tenants *policy.TenantSelector, add func(path, format string, args ...any)) {
	own := strings.Join(slices.Sorted(maps.Keys(s.Tenants)), ", ")
	if len(tenants.Names) == 0 {
		got := "all"
		if len(tenants.Tiers)+len(tenants.Labels)+len(tenants.Residency) > 0 || tenants.Own {
			got = "none: tiers, residency, labels and own select tenants of others, too"
		}
		add("spec.tenants.names", "must name tenants of yours: %s (got %s)", own, got)
	}
	for i, name := range tenants.Names {
		if !s.Tenants[name] {
			add(fmt.Sprintf("spec.tenants.names[%d]", i), "must be a tenant of yours: %s; ask an operator for others (got %q)", own, name)
		}
	}
}

// OutsideError is a write beyond its author's scope; nothing was written.
type OutsideError struct{ Problems }

// within returns how the draft goes beyond what its author may write, nil when it does not: as things were, and as they would be. What
// there is beyond it is not told.
func (t *draft) within(author identity.Principal) error {
	if author.IsZero() {
		return nil
	}
	scope := t.scope(author)
	var problems Problems
	for _, c := range t.changes {
		// With an object goes its rollout, which may not be the author's.
		candidate := func(o *Object) *Object {
			if o != nil && o.Kind == KindRollout {
				return o.Rollout.Candidate
			}
			return o
		}
		now, old := scope.Outside(candidate(c.Object)), candidate(t.before(c.Key))
		switch {
		case len(now) > 0 && now[0].Path == "kind":
			problems = append(problems, now...)
		case old != nil && len(scope.Outside(old)) > 0:
			problems = append(problems, taken(c.Key))
		case c.Action != Removed:
			problems = append(problems, now...)
		}
	}
	if len(problems) == 0 {
		problems = t.tooMuch(scope)
	}
	if len(problems) > 0 {
		return OutsideError{problems}
	}
	return nil
}

// MaxOwn is how many AccessPolicies and AccessGrants a scope may come to hold by what its own people write. Their conditions together may
// cost what one may at the most, authz.CostLimit: whoever they let wait, it is not for long.
const MaxOwn = 1000

// tooMuch is what is too much of a scope's own for every sidecar to have, and every request to be judged by.
func (t *draft) tooMuch(scope Scope) (problems Problems) {
	n, cost := 0, uint64(0)
	for key, o := range t.few {
		if key.Kind != KindAccessPolicy && key.Kind != KindAccessGrant || len(scope.Outside(o)) > 0 {
			continue
		}
		n++
		if key.Kind == KindAccessPolicy && o.AccessPolicy.When != "" {
			most, _ := authz.MostCost(o.AccessPolicy.When) // of one that is wrong validation tells
			cost += max(most, minCost)
		}
	}
	changed := func(of func(*Object) bool) bool {
		return slices.ContainsFunc(t.changes, func(c ObjectChange) bool {
			return (c.Action == Created || c.Action == Updated) && of(c.Object)
		})
	}
	if n > MaxOwn && changed(func(o *Object) bool { return t.before(o.Key()) == nil }) {
		problems = append(problems, Problem{Text: fmt.Sprintf("must leave at most %d AccessPolicies and AccessGrants of what is yours: delete some, or ask an operator (got %d)", MaxOwn, n)})
	}
	if cost > authz.CostLimit && changed(func(o *Object) bool { return o.Kind == KindAccessPolicy && o.AccessPolicy.When != "" }) {
		problems = append(problems, Problem{Path: "spec.when", Text: fmt.Sprintf("must cost at most %d in the worst case, with all other conditions of what is yours; one that looks through something of any length costs as much: "+
			"compare with what is fixed, or ask an operator (got %d)", authz.CostLimit, cost)})
	}
	return problems
}

// minCost is what any condition counts for.
const minCost = 20

// taken says that an object that somebody wants to write is another's.
func taken(key Key) Problem {
	return Problem{Object: key.String(), Path: "metadata.name", Text: fmt.Sprintf("must be of an object of yours, or new; ask an operator about this one (got %q)", key.Name)}
}

// scope is that of an author before the draft.
func (t *draft) scope(author identity.Principal) Scope {
	bindings := map[Key]*Object{}
	for key := range t.few {
		if o := t.before(key); key.Kind == KindRoleBinding && o != nil {
			bindings[key] = o
		}
	}
	return ScopeOf(bindings, author)
}

// mayCompare returns an error when the conditions of a write are about an object that is not its author's to see.
func (t *draft) mayCompare(options *ApplyOptions) error {
	if options.Author.IsZero() {
		return nil
	}
	scope := t.scope(options.Author)
	for _, key := range slices.SortedFunc(maps.Keys(options.If), compareKeys) {
		if o := t.objects[key]; o != nil && len(scope.Outside(o)) > 0 {
			return OutsideError{Problems{taken(key)}}
		}
	}
	return nil
}

func (v *validation) roleBinding(b *RoleBindingSpec) {
	oneOf(v, "spec.role", b.Role, AppTeam, TenantAdmin)
	if len(b.Principals) == 0 {
		v.add("spec.principals", "must name at least one SPIFFE pattern (got none)")
	}
	for i, text := range b.Principals {
		if _, err := identity.ParsePattern(text); err != nil {
			v.add(fmt.Sprintf("spec.principals[%d]", i), "%v", err)
		}
	}
	for _, list := range []struct {
		field string
		names []string
		role  BoundRole
	}{{"workloads", b.Workloads, AppTeam}, {"tenants", b.Tenants, TenantAdmin}} {
		if len(list.names) == 0 && b.Role == list.role {
			v.add("spec."+list.field, "must name at least one (got none)")
		}
		if len(list.names) > 0 && b.Role != list.role {
			v.add("spec."+list.field, "must be given with role %s alone (got %q)", list.role, b.Role)
		}
	}
}
