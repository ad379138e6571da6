package tenantstore

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
)

// KindInfo describes a kind.
type KindInfo struct {
	Kind     Kind
	Plural   string // in paths and on the command line
	Writable bool   // by people; the others are the control plane's own
	field    func(*Object) any
}

var kinds = []KindInfo{
	{KindCell, "cells", true, func(o *Object) any { return &o.Cell }},
	{KindTier, "tiers", true, func(o *Object) any { return &o.Tier }},
	{KindTenant, "tenants", true, func(o *Object) any { return &o.Tenant }},
	{KindWorkload, "workloads", true, func(o *Object) any { return &o.Workload }},
	{KindDependency, "dependencies", true, func(o *Object) any { return &o.Dependency }},
	{KindTokenIssuer, "tokenissuers", true, func(o *Object) any { return &o.TokenIssuer }},
	{KindAccessPolicy, "accesspolicies", true, func(o *Object) any { return &o.AccessPolicy }},
	{KindAccessGrant, "accessgrants", true, func(o *Object) any { return &o.AccessGrant }},
	{KindTierPromotion, "tierpromotions", true, func(o *Object) any { return &o.TierPromotion }},
	{KindAccessInvariant, "accessinvariants", true, func(o *Object) any { return &o.AccessInvariant }},
	{KindRoleBinding, "rolebindings", true, func(o *Object) any { return &o.RoleBinding }},
	{KindMember, "members", false, func(o *Object) any { return &o.Member }},
	{KindEndpoint, "endpoints", false, func(o *Object) any { return &o.Endpoint }},
	{KindSignerKey, "signerkeys", false, func(o *Object) any { return &o.SignerKey }},
	{KindMove, "moves", false, func(o *Object) any { return &o.Move }},
	{KindPosition, "positions", false, func(o *Object) any { return &o.Position }},
	{KindAuditHead, "auditheads", false, func(o *Object) any { return &o.AuditHead }},
	{KindRollout, "rollouts", false, func(o *Object) any { return &o.Rollout }},
	{KindRevocation, "revocations", false, func(o *Object) any { return &o.Revocation }},
}

// Kinds lists every kind, those that people write first.
func Kinds() []KindInfo { return kinds }

// ParseKind returns the kind that s names, as it is or in the plural, in any case of its letters.
func ParseKind(s string) (KindInfo, error) {
	names := make([]string, len(kinds))
	for i, info := range kinds {
		if strings.EqualFold(s, string(info.Kind)) || strings.EqualFold(s, info.Plural) {
			return info, nil
		}
		names[i] = string(info.Kind)
	}
	return KindInfo{}, fmt.Errorf("kind must be one of %s (got %q)", strings.Join(names, ", "), s)
}

// Writable reports whether people write objects of this kind.
func (k Kind) Writable() bool {
	info, err := ParseKind(string(k))
	return err == nil && info.Writable
}

// spec returns the settable field that holds the spec of o's kind, a nil pointer in it when it is not set;
// false for an unknown kind.
func (o *Object) spec() (reflect.Value, bool) {
	for _, info := range kinds {
		if info.Kind == o.Kind {
			return reflect.ValueOf(info.field(o)).Elem(), true
		}
	}
	return reflect.Value{}, false
}

// keysOf returns the keys of a kind, by name.
func keysOf(objects map[Key]*Object, kind Kind) (keys []Key) {
	for key := range objects {
		if key.Kind == kind {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

// Tiers returns every tier in force: those built in, under those of the store.
func Tiers(objects map[Key]*Object) map[string]policy.TierSpec {
	tiers := policy.BuiltInTiers()
	for key, object := range objects {
		if key.Kind == KindTier {
			tiers[key.Name] = *object.Tier
		}
	}
	return tiers
}

// EffectiveLimits are the tenant's limits over its tier's over the safe ones.
func EffectiveLimits(tiers map[string]policy.TierSpec, tenant *TenantSpec) policy.Limits {
	return tenant.Limits.Over(tiers[tenant.Tier].Limits).Over(policy.SafeLimits())
}
