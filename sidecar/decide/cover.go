package decide

import (
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
)

// cover counts how the call's tenant was proven, once the decision has its ID. A call whose proof nobody came to look at is none: of no peer of
// this mesh, or to what the workload does not depend on.
func (a *attempt) cover() {
	decision := &a.answer.Decision
	if a.Coverage == nil {
		return
	}
	key := coverage.Key{Inbound: a.request.Listener == meshname.ListenerInbound, Peer: a.request.Target, Method: decision.Method, Proof: a.proof}
	switch decision.Reason {
	case policy.ContextMissing, policy.ContextForeign, policy.ContextUnattributed:
		key.Proof, key.Refused = coverage.None, true
	default:
	}
	if key.Proof == "" {
		return
	}
	if key.Inbound {
		key.Peer = decision.Principal
	}
	key.Route = coverage.Route(decision.Path)
	a.Coverage.Add(a.now, key, decision.ID, decision.Path)
}
