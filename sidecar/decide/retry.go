package decide

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/retry"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// tried counts the request among its tenant's first tries or repeats, and refuses a repeat too many. It comes before the
// limits, which a repeat that is refused does not use; what is refused later is taken back by [attempt.untry].
func (a *attempt) tried(t *policyset.Tenant) bool {
	return a.try(t.UID, t.Limits.RetryShare)
}

// triedOut does so for a call to a Dependency, which has no sidecar of its own to count.
func (a *attempt) triedOut() bool {
	decision := &a.answer.Decision
	if decision.TenantUID == "" || !strings.HasPrefix(a.request.Target, "dependency/") {
		return true
	}
	share := 0.0
	if t, ok := a.set.Tenant(decision.Tenant); ok && t.UID == decision.TenantUID {
		share = t.Limits.RetryShare
	}
	return a.try(decision.TenantUID, share)
}

func (a *attempt) try(uid string, share float64) bool {
	try := retry.Try{Tenant: uid, Method: a.request.Method, Path: a.request.Path, Again: a.repeated(), Share: share}
	if a.request.Listener == meshname.ListenerOutbound {
		try.Target = strings.Clone(a.request.Target) // it outlives the request
	}
	try.Key, _ = a.request.header(propagation.HeaderIdempotencyKey)
	admission, wait, ok := a.Retries.Admit(a.now, &try)
	if a.counted = admission; ok {
		return true
	}
	decision := &a.answer.Decision
	decision.RetryAfter, decision.Rule = wait, "limits.retryShare"
	return a.refuse(policy.RetryBudget, fmt.Sprintf("tenant %s repeats more than its share of first tries", decision.Tenant))
}

// untry takes back what was counted, of a request that is refused or decided anew.
func (a *attempt) untry() { a.Retries.Undo(&a.counted) }

// repeated reports whether the request says itself that it is a repeat: to a workload by what its caller's Envoy says, and
// anywhere by what gRPC clients say. Who lies is refused sooner.
func (a *attempt) repeated() bool {
	if a.request.Listener == meshname.ListenerInbound && a.number(propagation.HeaderAttemptCount) > 1 {
		return true
	}
	return a.number(propagation.HeaderGRPCAttempts) > 0
}

// number is a header's, 0 for none.
func (a *attempt) number(header string) int {
	text, n := a.request.header(header)
	if n == 0 { // else each would make an error that nobody reads
		return 0
	}
	number, _ := strconv.Atoi(text)
	return number
}
