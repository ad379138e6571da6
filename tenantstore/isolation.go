package tenantstore

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// IsolationSLO says how well tenants of a tier were kept from each other: of the requests that came while their tenant was under
// its share of the service, how many were neither refused for want of capacity nor decided late.
type IsolationSLO struct {
	Tier      string  `json:"tier"`
	Requests  int64   `json:"requests"` // under the share
	Refused   int64   `json:"refused"`
	Late      int64   `json:"late"`
	Good      float64 `json:"good"`      // share of Requests; 1 when there were none
	Objective float64 `json:"objective"` // the tier's slo.availability; 0: none
	Met       bool    `json:"met"`
	Worst     string  `json:"worst,omitempty"` // tenant with most bad ones
}

// IsolationSLOs sums records by the tiers that their tenants have now; those of tenants that are gone count for the tier "".
func IsolationSLOs(objects map[Key]*Object, records []ledger.UsageRecord) []IsolationSLO {
	tiers := Tiers(objects)
	sums, bad := map[string]*IsolationSLO{}, map[string]map[string]int64{}
	for name, tier := range tiers {
		sums[name], bad[name] = &IsolationSLO{Tier: name, Objective: tier.SLO.Availability}, map[string]int64{}
	}
	for _, r := range records {
		tier := ""
		if tenant := objects[Key{KindTenant, r.Tenant}]; tenant != nil && tenant.Metadata.UID == r.TenantUID {
			tier = tenant.Tenant.Tier
		}
		s := sums[tier]
		if s == nil {
			s = &IsolationSLO{Tier: tier}
			sums[tier], bad[tier] = s, map[string]int64{}
		}
		s.Requests, s.Refused, s.Late = s.Requests+r.UnderShare, s.Refused+r.UnderShareRefused, s.Late+r.UnderShareLate
		if n := r.UnderShareRefused + r.UnderShareLate; n > 0 {
			bad[tier][r.Tenant] += n
		}
	}
	list := []IsolationSLO{}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		s := sums[name]
		if s.Requests == 0 && name == "" {
			continue
		}
		s.Good = 1
		if s.Requests > 0 {
			s.Good = max(0, 1-float64(s.Refused+s.Late)/float64(s.Requests))
		}
		s.Met = s.Good >= s.Objective
		worst := slices.SortedFunc(maps.Keys(bad[name]), func(a, b string) int {
			return cmp.Or(cmp.Compare(bad[name][b], bad[name][a]), cmp.Compare(a, b))
		})
		if len(worst) > 0 {
			s.Worst = worst[0]
		}
		list = append(list, *s)
	}
	return list
}
