package decide

import (
	"fmt"
	"net/http"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// lateBound is how long a request of a tenant under its share may wait for its decision.
const lateBound = 10 * time.Millisecond

// place is what a request has in the service.
type place struct {
	ticket fair.Ticket
	under  bool // its tenant is under its share: whatever keeps it waiting, or out, is no fault of its own
}

// share lets the request in to the service or, where that is full, says whether its tenant's share lets it. It may wait for as
// long as [fair.MaxWait]. An upgrade takes no place: it lasts as long as it is used.
func (a *attempt) share(t *policyset.Tenant) bool {
	admission := &a.set.Self.Admission
	if admission.Off || a.stream() {
		return true
	}
	kind, batch := admission.Kind(a.answer.Decision.Class, a.writes())
	verdict := a.Fair.Admit(a.now, &fair.Request{Tenant: t.UID, Weight: t.Weight, Batch: batch, Kind: kind, Min: admission.Min, Max: admission.Max, Seat: &t.Seats.Share})
	if verdict.Outcome == fair.Waiting {
		timer := time.NewTimer(fair.MaxWait)
		select {
		case <-verdict.Ready():
		case <-timer.C:
		}
		timer.Stop()
		a.Fair.Settle(a.Now(), &verdict)
	}
	a.place = place{verdict.Ticket, verdict.Under}
	if verdict.Outcome == fair.Admitted {
		return true
	}
	decision := &a.answer.Decision
	decision.RetryAfter, decision.Rule = verdict.Retry, "Workload/"+decision.Workload+" admission"
	decision.Limits = append(decision.Limits, policy.LimitResult{
		Limit: "share of the service", Level: float64(verdict.Open), Of: verdict.Share, Remaining: max(0, verdict.Share-float64(verdict.Open)), Exceeded: true, Retry: verdict.Retry,
	})
	return a.refuse(policy.Overloaded, fmt.Sprintf("the service is full, and tenant %s has %d requests open of a share of %.1f", t.ID, verdict.Open, verdict.Share))
}

// Incarnation is a tenant's, by its name and uid.
type Incarnation struct{ Tenant, UID string }

// heaviest is how many tenants' use is followed at once.
const heaviest = 128

// isolated completes the usage of a request with whether its tenant was under its share, and how it fared.
func (a *attempt) isolated(usage *ledger.UsageRecord, refused bool) {
	if !a.place.under {
		return
	}
	usage.UnderShare = 1
	outcome := isolationServed
	if refused {
		usage.UnderShareRefused, outcome = 1, isolationRefused
	} else if a.Now().Sub(a.now) > lateBound {
		usage.UnderShareLate, outcome = 1, isolationLate
	}
	a.Metrics.isolation.WithLabelValues(a.answer.Decision.Tier, outcome).Inc()
}

// overflowed counts a request that Envoy refused because the service has no connection for it: whoever was under its share was kept
// out all the same.
func (d *Decider) overflowed(usage *ledger.UsageRecord) {
	if usage.UnderShare == 0 {
		return
	}
	usage.UnderShareRefused, usage.UnderShareLate = 1, 0
	if t, ok := d.Sets.Load().Tenant(usage.Tenant); ok {
		d.Metrics.isolation.WithLabelValues(t.Tier, isolationRefused).Inc()
	}
}

// answered is what the end of a request says about the service.
func (e *Ended) answered() fair.Answered {
	return fair.Answered{Latency: e.Service, Failed: e.Unanswered || e.Status >= http.StatusInternalServerError}
}
