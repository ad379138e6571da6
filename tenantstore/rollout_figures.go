package tenantstore

import (
	"fmt"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// When a rollout does harm: of at least so many requests on both sides, the canary's refusals (or errors) are that much
// over the others', by difference and by ratio, and that much over what the canary's tenants had before.
const (
	rolloutAtLeast = 50
	rolloutOver    = 0.05
	rolloutRatio   = 1.5
	rolloutWindow  = 10 * time.Minute

	day = 24 * time.Hour
)

// RolloutFigures compares the tenants that a rollout has reached with those that it will reach, since its last step and
// within 10 minutes.
type RolloutFigures struct {
	Canary Served `json:"canary"`
	Others Served `json:"others"`
	Before Served `json:"before"` // the canary's tenants, in the 10 minutes before the rollout began; later the hour, or day
}

// Served is what became of requests of some tenants.
type Served struct {
	Tenants  int   `json:"tenants"`
	Requests int64 `json:"requests"`
	Refused  int64 `json:"refused"`
	Errors   int64 `json:"errors"`
}

func (s *Served) add(u ledger.UsageRecord) {
	s.Requests += u.Requests
	s.Refused += u.Refused
	s.Errors += u.Errors
}

func share(n, of int64) float64 { return float64(n) / float64(max(1, of)) }

// FiguresOf looks at the usage of the tenants that a rollout concerns: those of the tier, or those that either version
// of the policy selects. Usage is by the minute, so the minute of the step counts whole.
func FiguresOf(objects map[Key]*Object, rollout *Object, sum func(tenant string, since, until time.Time) []ledger.UsageRecord, now time.Time) RolloutFigures {
	var f RolloutFigures
	canary := CanaryOf(rollout)
	concerned := map[string]bool{} // by uid: whether it is in the canary
	for key, o := range objects {
		if key.Kind != KindTenant || !concerns(objects, rollout.Rollout.Candidate, o) {
			continue
		}
		in := canary.Selects(key.Name, o.Metadata.UID)
		if concerned[o.Metadata.UID] = in; in {
			f.Canary.Tenants++
		} else {
			f.Others.Tenants++
		}
	}
	since := rollout.Rollout.Changed.Truncate(time.Minute)
	if last := now.Add(-rolloutWindow); last.After(since) {
		since = last
	}
	for _, u := range sum("", since, now.Add(time.Minute)) {
		switch in, ok := concerned[u.TenantUID]; {
		case ok && in:
			f.Canary.add(u)
		case ok:
			f.Others.add(u)
		}
	}
	f.Before.Tenants = f.Canary.Tenants
	for _, window := range []struct{ whole, long time.Duration }{{time.Minute, rolloutWindow}, {time.Hour, time.Hour}, {day, day}} {
		if f.Before.Requests > 0 {
			break // usage is still kept that finely
		}
		began := rollout.Rollout.Began.UTC().Truncate(window.whole)
		for _, u := range sum("", began.Add(-window.long), began) {
			if concerned[u.TenantUID] && !u.End().After(began) {
				f.Before.add(u)
			}
		}
	}
	return f
}

func concerns(objects map[Key]*Object, candidate, tenant *Object) bool {
	if candidate.Kind == KindTier {
		return tenant.Tenant.Tier == candidate.Metadata.Name
	}
	seen := authz.Tenant{Tier: tenant.Tenant.Tier, Residency: tenant.Tenant.Residency, Labels: tenant.Metadata.Labels}
	if seen.ID.UnmarshalText([]byte(tenant.Metadata.Name)) != nil {
		return false
	}
	selects := func(s policy.TenantSelector) bool { return authz.SelectsTenant(&s, &seen) }
	old := objects[candidate.Key()]
	return selects(candidate.AccessPolicy.Tenants) || old != nil && selects(old.AccessPolicy.Tenants)
}

// Trouble says by which figure the change does harm, "" for none that shows.
func (f RolloutFigures) Trouble() string {
	for _, kind := range []struct {
		what string
		of   func(Served) int64
	}{
		{"refused", func(s Served) int64 { return s.Refused }},
		{"answered with errors", func(s Served) int64 { return s.Errors }},
	} {
		of := func(s Served) float64 { return share(kind.of(s), s.Requests) }
		canary, others := of(f.Canary), of(f.Others)
		if f.Canary.Requests < rolloutAtLeast || f.Others.Requests < rolloutAtLeast || canary <= others+rolloutOver || canary <= others*rolloutRatio {
			continue
		}
		if f.Before.Requests >= rolloutAtLeast && canary <= of(f.Before)+rolloutOver {
			continue // they always were
		}
		return fmt.Sprintf("%.1f %% of the canary's %d requests are %s, and %.1f %% of the others' %d", 100*canary, f.Canary.Requests, kind.what, 100*others, f.Others.Requests)
	}
	return ""
}
