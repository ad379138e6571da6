package decide

import (
	"fmt"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Outlived says why a stream that was let in may not stay open, with the refusal that it would get now; false: it may
// stay. What ends one is whatever ends all of its tenant's: the tenant is not served any more, or it moves.
func (d *Decider) Outlived(r *inflight.Request) (Answer, bool) {
	a := &attempt{Decider: d, request: &Request{}, now: d.Now(), set: d.Sets.Load()}
	decision := &a.answer.Decision
	decision.Time, decision.Point, decision.Tenant, decision.Revision = a.now.UTC(), "stream", r.Tenant.String(), a.set.Revision
	if a.stays(r) {
		return a.answer, false
	}
	a.Log.Add(decision)
	return a.answer, true
}

func (a *attempt) stays(r *inflight.Request) bool {
	t, ok := a.tenant(r.Tenant)
	switch {
	case !ok:
		return false
	case t.UID != r.UID:
		return a.refuse(policy.TenantDeleted, "the stream is of another incarnation of the tenant")
	case r.Epoch >= t.Epoch:
		return true
	case r.Epoch < t.Since:
		return a.misdirected(fmt.Sprintf("the stream is of epoch %d, and cell %s owns the tenant since epoch %d", r.Epoch, t.Cell, t.Since))
	case a.set.Self.Role == "gateway":
		return !t.EndsStreams() || a.fenced("upgrades end before the tenant moves")
	default:
		// As for what comes in: until the seal, what came in before the fence may finish what it began within the cell.
		return t.State != policyset.Fencing || r.Within && !t.Sealed || a.fenced(fmt.Sprintf("the tenant moves to cell %s: fenced at epoch %d", t.Target, t.Epoch))
	}
}

// StreamEnded counts a stream that was ended.
func (d *Decider) StreamEnded(reason policy.Reason) {
	d.Metrics.ended.WithLabelValues(reason.String()).Inc()
}
