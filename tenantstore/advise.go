package tenantstore

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Advice is what an operator might do about a tenant, and why.
type Advice struct {
	Tenant string `json:"tenant"`
	Do     string `json:"do"`  // "set tier platinum"
	Why    string `json:"why"` // the figures of the last hour
}

// AdviceWindow is how far back advice looks.
const AdviceWindow = time.Hour

// How uneven a tenant's requests must be for the flag spiky, and how even without; the ratio of the busiest minute to
// the mean one. Between the two nothing is said. A tenant with fewer requests says nothing about itself.
const (
	spikyOver     = 5.0
	evenUnder     = 2.0
	adviceAtLeast = 600 // requests in the window
)

// demand is what a tenant asked for within the window.
type demand struct {
	requests, refused int64 // all, and those of them that the gateway refused
	minutes           map[time.Time]int64
}

func (d *demand) perSecond() float64 { return float64(d.requests) / AdviceWindow.Seconds() }

// peakToMean is the busiest minute against the mean of the whole window.
func (d *demand) peakToMean() float64 {
	peak := slices.Max(slices.Collect(maps.Values(d.minutes)))
	return float64(peak) * AdviceWindow.Minutes() / float64(d.requests)
}

func (d *demand) refusedShare() float64 { return float64(d.refused) / float64(d.requests) }

// Advise looks at what tenants used within the window, and suggests tiers by the TierPromotions, and the flag spiky.
// Requests count where they enter: at exposed workloads, and at the gateway where it refused them.
func Advise(objects map[Key]*Object, usage []ledger.UsageRecord) []Advice {
	demands := map[string]*demand{}
	for _, u := range usage {
		w := objects[Key{KindWorkload, u.Workload}]
		if tenant := objects[Key{KindTenant, u.Tenant}]; tenant == nil || tenant.Metadata.UID != u.TenantUID || u.Workload != "" && (w == nil || len(w.Workload.Expose) == 0) {
			continue
		}
		d := demands[u.Tenant]
		if d == nil {
			d = &demand{minutes: map[time.Time]int64{}}
			demands[u.Tenant] = d
		}
		d.requests += u.Requests
		d.minutes[u.Minute] += u.Requests
		if u.Workload == "" {
			d.refused += u.Refused
		}
	}
	list, promotions := []Advice{}, keysOf(objects, KindTierPromotion)
	for _, name := range slices.Sorted(maps.Keys(demands)) {
		if d := demands[name]; d.requests >= adviceAtLeast {
			list = append(list, advise(objects, promotions, objects[Key{KindTenant, name}], d)...)
		}
	}
	return list
}

func advise(objects map[Key]*Object, promotions []Key, tenant *Object, d *demand) (list []Advice) {
	figures := fmt.Sprintf("%.1f requests a second, %.0f %% refused at the gateway, busiest minute %.1f x the mean", d.perSecond(), 100*d.refusedShare(), d.peakToMean())
	add := func(do, why string) { list = append(list, Advice{tenant.Metadata.Name, do, why}) }
	switch peak := d.peakToMean(); {
	case peak > spikyOver && !tenant.Tenant.Spiky:
		add("set spiky", figures)
	case peak < evenUnder && tenant.Tenant.Spiky:
		add("clear spiky", figures)
	}
	for _, key := range promotions {
		p := objects[key].TierPromotion
		if p.From == tenant.Tenant.Tier && d.perSecond() >= p.RequestsPerSecond && d.refusedShare() >= p.RefusedShare && d.peakToMean() >= p.PeakToMean &&
			(p.Residency == "" || p.Residency == tenant.Tenant.Residency) {
			add("set tier "+p.To, key.String()+": "+figures)
		}
	}
	return list
}
