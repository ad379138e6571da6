package decide

import (
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
)

// TestOutlived: a stream ends when its tenant may not go on, and not before. It was let in at epoch 7, in us-1.
func TestOutlived(t *testing.T) {
	acme, err := identity.ParseTenantID("acme")
	check(t, err)
	placed := func(state string, epoch int64, change ...func(*api.Placement)) *api.Placement {
		p := &api.Placement{State: state, Cell: "us-1", Target: "us-2", Epoch: epoch, Since: 7}
		for _, f := range change {
			f(p)
		}
		return p
	}
	follow := func(p *api.Placement) { p.Follow = 8 }
	sealed := func(p *api.Placement) { p.Sealed = true }
	left := func(p *api.Placement) { p.Cell, p.Target, p.Since = "us-2", "us-1", p.Epoch }
	for _, test := range []struct {
		name      string
		role      string // "": both
		phase     string
		placement *api.Placement
		within    bool
		uid       string
		reason    policy.Reason
	}{
		{name: "nothing changed", placement: placed("ACTIVE", 7)},
		{name: "a move begins", placement: placed("MIGRATING", 8)},
		{name: "all must pass by the mover", role: "gateway", placement: placed("MIGRATING", 8, follow), reason: policy.WriteFenced},
		{name: "all must pass by the mover", role: "sidecar", placement: placed("MIGRATING", 8, follow)},
		{name: "fenced", placement: placed("FENCING", 9), reason: policy.WriteFenced},
		{name: "fenced, and it came from within the cell", role: "sidecar", placement: placed("FENCING", 9), within: true},
		{name: "sealed, and it came from within the cell", role: "sidecar", placement: placed("FENCING", 9, sealed), within: true, reason: policy.WriteFenced},
		{name: "the tenant has left", placement: placed("CUTOVER", 10, left), reason: policy.Misdirected},
		{name: "the move was given up", placement: placed("FINAL", 10)},
		{name: "suspended", phase: "Suspended", placement: placed("ACTIVE", 7), reason: policy.TenantSuspended},
		{name: "deleted", phase: "Deleting", placement: placed("ACTIVE", 7), reason: policy.TenantDeleted},
		{name: "made again under its name", placement: placed("ACTIVE", 7), uid: "uid-0", reason: policy.TenantDeleted},
	} {
		for role, self := range map[string]*api.ProxyConfig{"sidecar": sidecar(), "gateway": {Role: "gateway", Cells: map[string]string{"us-1": "", "us-2": ""}}} {
			if test.role != "" && test.role != role {
				continue
			}
			w := newWorld(t, self, func(p *api.TenantPolicy) {
				p.Placement = test.placement
				if test.phase != "" {
					p.Phase = test.phase
				}
			})
			r := &inflight.Request{Tenant: acme, UID: "uid-1", Epoch: 7, Stream: true, Within: test.within}
			if test.uid != "" {
				r.UID = test.uid
			}
			answer, ended := w.decider.Outlived(r)
			if answer.Decision.Reason != test.reason || ended != (test.reason != policy.Permitted) {
				t.Errorf("%s, at a %s: ended %v, %q (%s), want %q", test.name, role, ended, answer.Decision.Reason, answer.Decision.Detail, test.reason)
			}
			if _, ok := w.decider.Log.Find(answer.Decision.ID); ended && !ok {
				t.Errorf("%s, at a %s: the decision is not remembered", test.name, role)
			}
		}
	}
}
