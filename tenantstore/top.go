package tenantstore

import (
	"cmp"
	"slices"
)

// Top is one of the tenants that use most now, over all members that report.
type Top struct {
	Tenant   string  `json:"tenant"`
	UID      string  `json:"uid"`
	Tier     string  `json:"tier"`
	Requests float64 `json:"requests"` // a second, refused ones too; those that pass several services count at each
	Refused  float64 `json:"refused"`  // a second
	Over     float64 `json:"over"`     // by how much Requests may be too high
	Open     int     `json:"open"`     // at services
	Share    float64 `json:"share"`    // of those services that it uses, summed; 0: of none
	Level    float64 `json:"level"`    // of the limit that is nearest to its end: 0 to 1 is used
	Limit    string  `json:"limit,omitempty"`
}

// MergeTops sums what members say of the same incarnations, most requests first, and takes the nearest limit's level.
func MergeTops(tops []Top) []Top {
	type key struct{ tenant, uid string }
	at := map[key]int{}
	merged := []Top{}
	for _, t := range tops {
		i, ok := at[key{t.Tenant, t.UID}]
		if !ok {
			at[key{t.Tenant, t.UID}] = len(merged)
			merged = append(merged, t)
			continue
		}
		m := &merged[i]
		m.Requests, m.Refused, m.Over, m.Open, m.Share = m.Requests+t.Requests, m.Refused+t.Refused, m.Over+t.Over, m.Open+t.Open, m.Share+t.Share
		if t.Level > m.Level {
			m.Level, m.Limit = t.Level, t.Limit
		}
	}
	slices.SortFunc(merged, func(a, b Top) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Tenant, b.Tenant))
	})
	return merged
}
