package adminapi

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// open says who may ask for an operation beside operators, and auditors who read.
type open struct {
	sidecars bool
	bound    []tenantstore.BoundRole // what is within their scope alone: the operation looks at [scopeOf]
}

var (
	both   = []tenantstore.BoundRole{tenantstore.AppTeam, tenantstore.TenantAdmin}
	teams  = []tenantstore.BoundRole{tenantstore.AppTeam}
	admins = []tenantstore.BoundRole{tenantstore.TenantAdmin}
)

// opened are the operations that are open to others, by method and path as they are registered. What is not here is not.
var opened = map[string]open{
	"GET " + SidecarResources:                   {sidecars: true},
	"GET /tenants/{name}/config":                {bound: admins},
	"GET /usage":                                {bound: admins},
	"GET /decisions/{id}":                       {bound: both},
	"GET /roles":                                {bound: both},
	"GET /status":                               {bound: both},
	"POST " + Base + "/apply":                   {bound: both},
	"GET " + Base + "/accesspolicies":           {bound: both},
	"GET " + Base + "/accesspolicies/{name}":    {bound: both},
	"PUT " + Base + "/accesspolicies/{name}":    {bound: both},
	"DELETE " + Base + "/accesspolicies/{name}": {bound: both},
	"GET " + Base + "/accessgrants":             {bound: both},
	"GET " + Base + "/accessgrants/{name}":      {bound: both},
	"PUT " + Base + "/accessgrants/{name}":      {bound: both},
	"DELETE " + Base + "/accessgrants/{name}":   {bound: both},
	"GET " + Base + "/workloads":                {bound: teams},
	"GET " + Base + "/workloads/{name}":         {bound: teams},
	"GET " + Base + "/tenants":                  {bound: admins},
	"GET " + Base + "/tenants/{name}":           {bound: admins},
}

// scopeOf is what the caller is confined to; nil: nothing, its role may ask about all there is. Who is nobody is confined to nothing at
// all.
func scopeOf(ctx context.Context) *tenantstore.Scope {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return &tenantstore.Scope{}
	}
	return c.scope
}

// author is who writes, if by its RoleBindings alone.
func author(ctx context.Context) identity.Principal {
	c, _ := ctx.Value(callerKey{}).(caller)
	if c.scope == nil {
		return identity.Principal{}
	}
	return c.principal
}

func sees(ctx context.Context, o *tenantstore.Object) bool {
	scope := scopeOf(ctx)
	return scope == nil || scope.Sees(o)
}

// isOwn reports whether a tenant of that UID is in a scope as it is now: what was of an earlier one by its name is not.
func isOwn(objects map[tenantstore.Key]*tenantstore.Object, scope *tenantstore.Scope, name, uid string) bool {
	o := objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}]
	return scope.Tenants[name] && o != nil && o.Metadata.UID == uid
}

// mayExplain reports whether a decision is about a scope, and takes out of it the policies that had no say and are others'.
func (s *server) mayExplain(ctx context.Context, scope *tenantstore.Scope, decision *policy.Decision) (bool, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return false, fail(err)
	}
	if !scope.Workloads[decision.Workload] && !isOwn(snapshot.Objects, scope, decision.Tenant, decision.TenantUID) {
		return false, nil
	}
	decision.Rules = slices.DeleteFunc(slices.Clone(decision.Rules), func(r policy.RuleResult) bool {
		key := tenantstore.Key{Kind: tenantstore.KindAccessPolicy, Name: r.Rule}
		if name, ok := strings.CutPrefix(r.Rule, "grant/"); ok {
			key = tenantstore.Key{Kind: tenantstore.KindAccessGrant, Name: name}
		}
		o := snapshot.Objects[key]
		return !r.Matched && (o == nil || !scope.Sees(o))
	})
	return true, nil
}

// countsOf is a status without who the sidecars are, and what of others' they refused.
func countsOf(status []byte) ([]byte, error) {
	var all, counts = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal(status, &all); err != nil {
		return nil, err
	}
	for _, name := range []string{"revision", "published", "enforced", "refused", "total", "outOfReach", "at"} {
		if value, ok := all[name]; ok {
			counts[name] = value
		}
	}
	return json.Marshal(counts)
}

// RoleHolder says who holds a role, and by what.
type RoleHolder struct {
	Role       string   `json:"role"`
	Principals []string `json:"principals"`          // SPIFFE patterns, or users of the control plane's machine
	Workloads  []string `json:"workloads,omitempty"` // that the role is confined to
	Tenants    []string `json:"tenants,omitempty"`   // that the role is confined to
	By         string   `json:"by"`                  // "RoleBinding/<name>", "--<flag>", "socket"
}

// roles are all holders, for who is confined to a scope the bindings that confine it.
func (s *server) roles(ctx context.Context, _ *struct{}) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	holders := []RoleHolder{}
	c, _ := ctx.Value(callerKey{}).(caller)
	if c.scope == nil {
		holders = append(holders, RoleHolder{Role: string(Operator), Principals: socketUsers(), By: "socket"})
		for _, role := range slices.Sorted(maps.Keys(s.Roles)) {
			holder := RoleHolder{Role: string(role), By: "--" + string(role)}
			for _, pattern := range s.Roles[role] {
				holder.Principals = append(holder.Principals, pattern.String())
			}
			holders = append(holders, holder)
		}
	}
	var bound []RoleHolder
	for key, o := range snapshot.Objects {
		if b := o.RoleBinding; key.Kind == tenantstore.KindRoleBinding && (c.scope == nil || b.Binds(c.principal)) {
			bound = append(bound, RoleHolder{string(b.Role), b.Principals, b.Workloads, b.Tenants, key.String()})
		}
	}
	slices.SortFunc(bound, func(a, b RoleHolder) int { return strings.Compare(a.By, b.By) })
	return answer(append(holders, bound...), snapshot.Revision, "")
}
