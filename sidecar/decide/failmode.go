package decide

import (
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// limitsKnown refuses a tenant whose limits are not known, where its tier says so.
func (a *attempt) limitsKnown(t *policyset.Tenant) bool {
	if !t.Refused {
		return true
	}
	decision := &a.answer.Decision
	decision.RetryAfter, decision.Rule = unknownRetry, "Tier/"+t.Tier+" failMode.limitsUnknown"
	return a.refuse(policy.EnforcementUnavailable, "the limits of tenant "+t.ID.String()+" are not known here")
}
