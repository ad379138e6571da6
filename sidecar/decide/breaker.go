package decide

import (
	"fmt"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/breaker"
)

// closed refuses a call that keeps failing for its tenant, and else notes that it goes out. A call of no tenant has no
// breaker: a failure of it would shut out everybody's. It is the last check there is: what it notes is not taken back.
func (a *attempt) closed() bool {
	decision := &a.answer.Decision
	if decision.TenantUID == "" {
		return true
	}
	target := strings.Clone(a.request.Target) // it outlives the request
	retry, ok := a.Breakers.Admit(a.now, a.request.Lease, breaker.Pair{Tenant: decision.TenantUID, Target: target}, a.set.Self.Breakers[target])
	if ok {
		return true
	}
	decision.RetryAfter = retry
	kind, name, _ := strings.Cut(target, "/")
	decision.Rule = map[string]string{"workload": "Workload/", "dependency": "Dependency/"}[kind] + name + " breaker"
	return a.refuse(policy.BreakerOpen, fmt.Sprintf("calls of tenant %s to %s keep failing", decision.Tenant, target))
}

// outcome says what an ended request tells of its target: a refusal by name, but for one that could not be decided, is
// no failure of the target's, and nothing that the caller did is one.
func (e *Ended) outcome() breaker.Outcome {
	switch {
	case e.Aborted || e.Status == tooManyRequests || e.Reason != "" && e.Reason != policy.EnforcementUnavailable.String():
		return breaker.Unknown
	case e.Broken || e.Status >= 500 || grpcFailures[e.GRPCStatus]:
		return breaker.Failure
	case e.Status == 0:
		return breaker.Unknown
	default:
		return breaker.Success
	}
}

const tooManyRequests = 429

// grpcFailures are the statuses that are 5xx in HTTP: unknown, deadline exceeded, unimplemented, internal, unavailable
// and data loss.
var grpcFailures = map[string]bool{"2": true, "4": true, "12": true, "13": true, "14": true, "15": true}
