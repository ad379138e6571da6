package decide

import (
	"fmt"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
)

// connection decides for a connection, in which no requests are told apart, that a captured service makes to a Dependency:
// whose it is is known where the workload is bound to one tenant, and nowhere else. It is asked once, at the beginning.
func (a *attempt) connection() {
	self, decision := a.set.Self, &a.answer.Decision
	decision.Principal = self.Principal.String()
	tenancy, listed := self.Dependencies[a.request.Target]
	if !listed || !strings.HasPrefix(a.request.Target, "dependency/") {
		decision.Rule = "Workload/" + self.Workload + " dependsOn"
		a.refuse(policy.DeniedByPolicy, fmt.Sprintf("%q is not a Dependency that is listed in dependsOn of workload %s", a.request.Target, self.Workload))
		return
	}
	decision.Workload = self.Workload + " -> " + a.request.Target
	bound := self.BoundTenant
	if bound.IsZero() {
		a.Metrics.attributed("")
		if tenancy == "untenanted" {
			decision.Proof, a.proof = "none: the target's tenancy is untenanted", coverage.None
			return
		}
		a.refuse(policy.ContextMissing, "a connection carries no context, and the workload is bound to no tenant")
		return
	}
	decision.Tenant, a.proof = bound.String(), coverage.Bound
	t, ok := a.tenant(bound)
	switch {
	case !ok:
	case t.Cell != self.Cell:
		a.misdirected("cell " + t.Cell + " owns the tenant that the workload is bound to")
	case t.Moving():
		a.fenced("the tenant that the workload is bound to moves, and what a connection writes cannot follow")
	default:
		a.Metrics.attributed("bound")
		decision.Proof = "the workload is bound to tenant " + bound.String()
	}
}
