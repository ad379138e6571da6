package tenantstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// PolicyOf is the policy that an AccessPolicy, an AccessGrant or the Rollout of an AccessPolicy is, false for what is none of these.
// Its targets are plain. A grant is one also while nobody has approved it: who judges requests by it must ask [GrantInForce] first.
func PolicyOf(objects map[Key]*Object, o *Object) (authz.Policy, bool) {
	switch o.Kind {
	case KindAccessPolicy:
		p := authz.Policy{Name: o.Metadata.Name, Spec: o.AccessPolicy.Plain(), Revision: o.Metadata.Revision}
		if rollout := RolloutOf(objects, o.Key()); rollout != nil && rollout.Rollout.State != Shadowed {
			canary := CanaryOf(rollout)
			canary.Others, p.Canary = true, &canary
		}
		return p, true
	case KindAccessGrant:
		p := authz.AsPolicy(o.Metadata.Name, *o.AccessGrant, o.Metadata.Revision)
		p.Spec = p.Spec.Plain()
		p.Unproven = o.Status.Grant == nil || o.Status.Grant.Approver == ""
		return p, true
	case KindRollout:
		candidate := o.Rollout.Candidate
		if candidate.Kind != KindAccessPolicy {
			return authz.Policy{}, false
		}
		if o.Rollout.State == Shadowed {
			return changeOf(o), true
		}
		canary := CanaryOf(o)
		return authz.Policy{Name: candidate.Metadata.Name + policy.CanarySuffix, Spec: candidate.AccessPolicy.Plain(), Revision: o.Metadata.Revision, Canary: &canary}, true
	default:
		return authz.Policy{}, false
	}
}

// changeOf is a change that is only watched. To whoever knows of no changes it is a policy in Shadow mode.
func changeOf(rollout *Object) authz.Policy {
	candidate := rollout.Rollout.Candidate
	p := authz.Policy{
		Name: candidate.Metadata.Name + policy.ShadowSuffix, Spec: candidate.AccessPolicy.Plain(), Revision: rollout.Metadata.Revision,
		Change: &authz.Change{Of: candidate.Metadata.Name, Removes: rollout.Rollout.Removes || candidate.AccessPolicy.Mode == policy.Shadow},
	}
	p.Spec.Mode = policy.Shadow
	return p
}

// AccessMesh is what an analysis of access policies has to know of objects, which may be some of a mesh alone: without tenants (or
// workloads) nothing is said about which there are. Time is when the answers are for.
func AccessMesh(objects map[Key]*Object, now time.Time) *analysis.Mesh {
	m := &analysis.Mesh{Now: now}
	cells := keysOf(objects, KindCell)
	trustDomains := map[string]bool{}
	for _, key := range slices.SortedFunc(maps.Keys(objects), compareKeys) {
		o := objects[key]
		if p, ok := PolicyOf(objects, o); ok {
			m.Policies = append(m.Policies, p)
			for _, pattern := range p.Spec.Principals {
				domain, _, _ := strings.Cut(strings.TrimPrefix(pattern, "spiffe://"), "/")
				trustDomains[domain] = true
			}
		}
		if key.Kind == KindTenant {
			id, _ := identity.ParseTenantID(key.Name) // what is no name names nobody
			m.Tenants = append(m.Tenants, authz.Tenant{ID: id, UID: o.Metadata.UID, Tier: o.Tenant.Tier, Residency: o.Tenant.Residency, Labels: o.Metadata.Labels})
		}
	}
	domains := slices.Sorted(maps.Keys(trustDomains))
	for _, key := range keysOf(objects, KindWorkload) {
		w := objects[key].Workload
		m.Workloads = append(m.Workloads, analysis.Workload{
			Name: key.Name, Principals: principalsOf(key.Name, w, cells, domains), BoundTenant: w.BoundTenant, DependsOn: w.DependsOn, Exposed: len(w.Expose) > 0,
		})
	}
	if len(m.Tenants) > 0 || len(keysOf(objects, KindTier)) > 0 {
		m.Tiers = slices.Sorted(maps.Keys(Tiers(objects)))
	}
	return m
}

// principalsOf are the SPIFFE IDs of a workload, as patterns: those that it lists, and the default ones of all other cells, also of
// cells to come, in the trust domains that policies are about.
func principalsOf(name string, w *WorkloadSpec, cells []Key, trustDomains []string) (patterns []string) {
	listed := map[string]bool{}
	for _, id := range w.SPIFFEIDs {
		patterns, listed[id.Cell] = append(patterns, id.ID), true
	}
	if len(cells) > 0 && !slices.ContainsFunc(cells, func(cell Key) bool { return !listed[cell.Name] }) {
		return patterns
	}
	for _, domain := range trustDomains {
		patterns = append(patterns, "spiffe://"+domain+"/cell/*/workload/"+name)
	}
	return patterns
}

// prove returns the AccessInvariants that objects break, and before did not break, if what changed may have to do with it.
func (t *draft) prove(now time.Time) (problems Problems) {
	invariants := keysOf(t.few, KindAccessInvariant)
	if len(invariants) == 0 || !slices.ContainsFunc(t.changes, func(c ObjectChange) bool { return c.Action != Unchanged && t.concernsAccess(c.Key) }) {
		return nil
	}
	for _, objects := range asWhole(t.objects) {
		for _, broken := range broken(objects, invariants, now) {
			key := Key{KindAccessInvariant, broken.Invariant}
			if old := t.before(key); old != nil && old.Equal(t.objects[key]) && alreadyBroken(t.allBefore(), key, now) {
				continue
			}
			problems = append(problems, Problem{Object: key.String(), Text: fmt.Sprintf("must hold, and %s would allow %s", broken.Rule, broken.Request)})
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(problems)
}

// concernsAccess reports whether who may do what can change with an object. Who is suspended, or placed elsewhere, may do the same; and
// a tenant that is new is one of those that policies were about before.
func (t *draft) concernsAccess(key Key) bool {
	switch key.Kind {
	case KindAccessPolicy, KindAccessGrant, KindAccessInvariant, KindRollout, KindWorkload, KindCell:
		return true
	case KindTenant:
		before, after := t.before(key), t.objects[key]
		return before != nil && after != nil && (before.Tenant.Tier != after.Tenant.Tier || before.Tenant.Residency != after.Tenant.Residency || !maps.Equal(before.Metadata.Labels, after.Metadata.Labels))
	default:
		return false
	}
}

// allBefore are the objects as they were before the draft.
func (t *draft) allBefore() map[Key]*Object {
	objects := maps.Clone(t.objects)
	for key, o := range t.was {
		if objects[key] = o; o == nil {
			delete(objects, key)
		}
	}
	return objects
}

func alreadyBroken(objects map[Key]*Object, invariant Key, now time.Time) bool {
	return slices.ContainsFunc(asWhole(objects), func(objects map[Key]*Object) bool { return len(broken(objects, []Key{invariant}, now)) > 0 })
}

// asWhole are the objects as they are for who is in no canary, and as they are for who is in all of them.
func asWhole(objects map[Key]*Object) []map[Key]*Object {
	rollouts := keysOf(objects, KindRollout)
	if len(rollouts) == 0 {
		return []map[Key]*Object{objects}
	}
	is, will := maps.Clone(objects), maps.Clone(objects)
	for _, key := range rollouts {
		delete(is, key)
		delete(will, key)
		if objects[key].Rollout.State == Shadowed { // it is judged when it is to be in force
			continue
		}
		candidate := objects[key].Rollout.Candidate
		will[candidate.Key()] = candidate
	}
	return []map[Key]*Object{is, will}
}

// broken are the proofs of those invariants that some request breaks. What depends on a condition that nobody saw hold is not broken.
func broken(objects map[Key]*Object, invariants []Key, now time.Time) (list []analysis.Proof) {
	m := AccessMesh(objects, now)
	for _, key := range invariants {
		// The objects are valid, and so no proof fails.
		if proof, err := analysis.Prove(m, &analysis.Invariant{Name: key.Name, AccessInvariantSpec: *objects[key].AccessInvariant}); err == nil && proof.Outcome == analysis.Broken {
			list = append(list, proof)
		}
	}
	return list
}
