package xds

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// urgentBatch is what of a change may not wait.
type urgentBatch struct {
	*batch
	whole bool // it is all of the change, and sidecars' Go processes alone enforce it
}

func (u *urgentBatch) any() bool { return u.shared || len(u.tenants)+len(u.tiers) > 0 }

func (u *urgentBatch) note(key tenantstore.Key, urgent bool) {
	if urgent {
		u.touch(key)
	}
	switch key.Kind {
	case tenantstore.KindTenant, tenantstore.KindAccessPolicy, tenantstore.KindAccessGrant, tenantstore.KindRevocation, tenantstore.KindSignerKey:
		u.whole = u.whole && urgent
	default:
		u.whole = false
	}
}

// revokes reports whether a write may take something from somebody. old is nil for what is new.
func revokes(old, now *tenantstore.Object) bool {
	switch now.Kind {
	case tenantstore.KindTenant: // those of one that moves are held until the next step
		return now.Tenant.Suspended || now.Status.Placement != nil && now.Status.Placement.Target != "" || old != nil && selectedOtherwise(old, now)
	case tenantstore.KindAccessPolicy: // what is new and permits can wait
		return old != nil || now.AccessPolicy.Effect == policy.Forbid
	case tenantstore.KindAccessGrant, tenantstore.KindTokenIssuer:
		return old != nil
	case tenantstore.KindRevocation:
		return true
	case tenantstore.KindRollout: // whether the policy that it takes the place of permits more is not looked at
		return now.Rollout.Candidate != nil && now.Rollout.Candidate.Kind == tenantstore.KindAccessPolicy
	case tenantstore.KindMember:
		return now.Member.Fenced && (old == nil || !old.Member.Fenced)
	case tenantstore.KindWorkload:
		return old != nil && narrowed(old.Workload, now.Workload)
	default:
		return false
	}
}

// selectedOtherwise reports whether other policies may be about a tenant than were.
func selectedOtherwise(old, now *tenantstore.Object) bool {
	return old.Tenant.Tier != now.Tenant.Tier || old.Tenant.Residency != now.Tenant.Residency || !maps.Equal(old.Metadata.Labels, now.Metadata.Labels)
}

// narrowed reports whether somebody may not be, call or sign what it could by a workload as it was.
func narrowed(old, now *tenantstore.WorkloadSpec) bool {
	return old.BoundTenant != now.BoundTenant || // what it may sign ends with its binding
		old.Tenancy != now.Tenancy || lost(old.SPIFFEIDs, now.SPIFFEIDs) || lost(old.DependsOn, now.DependsOn) || lost(old.Callers, now.Callers) ||
		lost(old.Events.Produces, now.Events.Produces) || lost(old.Events.Consumes, now.Events.Consumes)
}

// lost reports whether something of one list is not in another.
func lost[T comparable](old, now []T) bool {
	return slices.ContainsFunc(old, func(x T) bool { return !slices.Contains(now, x) })
}

// ends reports whether the end of an object of a kind may take something from somebody.
func ends(kind tenantstore.Kind) bool {
	switch kind {
	case tenantstore.KindTenant, tenantstore.KindAccessPolicy, tenantstore.KindAccessGrant, tenantstore.KindTokenIssuer, tenantstore.KindSignerKey, tenantstore.KindWorkload, tenantstore.KindRollout:
		return true
	default:
		return false
	}
}

// publishUrgent gives out what the Go processes enforce of u, ahead of what is held in b, which takes the rest of it.
func (p *Publisher) publishUrgent(revision tenantstore.Revision, u urgentBatch, b *batch) error {
	tiers := u.tiers
	u.tiers = nil // as much as the tenants of them
	put, remove := p.resources(revision, u.batch)
	var first []server.Resource
	var gone []server.Key
	for _, r := range put {
		if translator.ForGo(r.TypeURL) {
			first = append(first, r)
		} else {
			b.put = append(b.put, r)
		}
	}
	for _, key := range remove {
		if translator.ForGo(key.TypeURL) {
			gone = append(gone, key)
		} else {
			b.remove = append(b.remove, key)
		}
	}
	if err := p.Cache.ApplyUrgent(revision, first, gone, u.whole && len(tiers) == 0); err != nil {
		return fmt.Errorf("publish revision %d: %w", revision, err)
	}
	for name := range u.tenants {
		delete(b.tenants, name)
	}
	b.shared = b.shared && !u.shared
	return nil
}
