package decide

import (
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/sidecar/shadow"
)

// differences are what policies that are only watched would make of a request. There is room for the first few.
type differences struct {
	list [4]authz.Difference
	n    int
}

// watch notes what would come of the request if what is only watched were in force.
func (a *attempt) watch(request *authz.Request) {
	a.differences.n = 0
	if a.Shadows == nil || len(a.set.Policies.Watched()) == 0 {
		return
	}
	a.set.Policies.Differences(request, func(d authz.Difference) {
		if a.differences.n < len(a.differences.list) {
			a.differences.list[a.differences.n] = d
			a.differences.n++
		}
	})
}

// countPolicies counts what policies did and would have done, once the decision has its ID. A request that was refused for another
// reason than policies is none.
func (a *attempt) countPolicies() {
	decision := &a.answer.Decision
	if decision.Allowed && a.permitted != "" && a.Uses != nil {
		a.Uses.Add(a.now, shadow.Key{Policy: a.permitted, Principal: decision.Principal}, "", "")
	}
	if !decision.Allowed && decision.Reason != policy.DeniedByPolicy {
		return
	}
	for _, d := range a.differences.list[:a.differences.n] {
		a.Shadows.Add(a.now, shadow.Key{
			Policy: d.Policy, Revision: d.Revision, Allowed: d.Allowed, Tenant: decision.Tenant, TenantUID: decision.TenantUID,
			Principal: decision.Principal, Method: decision.Method, Route: d.Route,
		}, decision.ID, decision.Path)
	}
}
