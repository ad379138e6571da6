// Package placement answers WHERE TO: which cell a tenant without one should get.
//
// It is pure: it imports the standard library only.
package placement

import (
	"cmp"
	"fmt"
	"slices"
)

// Constraints on a cell's capacity.
const (
	MinFreeCPU    = 0.2 // share; more than this must be free
	MinFreeDBConn = 50  // connections; more than this must be free
)

// Tenant is what matters of a tenant.
type Tenant struct {
	Region    string
	Residency string // "eu", or ""
	Dedicated bool   // its tier wants a cell of its own
}

// Cell is what matters of a cell.
type Cell struct {
	Name        string
	Region      string
	Residency   string
	Dedicated   bool
	Draining    bool
	FreeCPU     float64 // share
	FreeDBConn  int
	DBConnCap   int
	Utilization float64 // share
	Tenants     int     // placed there now
	Spiky       int     // of them
}

// Candidate is a cell and how it did.
type Candidate struct {
	Cell     string  `json:"cell"`
	Score    float64 `json:"score"`
	Rejected string  `json:"rejected,omitempty"` // the constraint that it fails, "" when eligible
	tenants  int
}

// Place returns every cell, the eligible ones first and best first: the first is the place, if it is not
// rejected. Ties go to the cell with the fewest tenants, then by name.
func Place(tenant Tenant, cells []Cell) []Candidate {
	candidates := make([]Candidate, len(cells))
	for i, cell := range cells {
		candidates[i] = Candidate{cell.Name, score(cell), reject(tenant, cell), cell.Tenants}
	}
	slices.SortFunc(candidates, func(a, b Candidate) int {
		return cmp.Or(
			cmp.Compare(min(len(a.Rejected), 1), min(len(b.Rejected), 1)),
			cmp.Compare(b.Score, a.Score), cmp.Compare(a.tenants, b.tenants), cmp.Compare(a.Cell, b.Cell))
	})
	return candidates
}

func score(c Cell) float64 {
	free := 0.0
	if c.DBConnCap > 0 {
		free = float64(c.FreeDBConn) / float64(c.DBConnCap)
	}
	return 0.6*c.FreeCPU + 0.4*free - 0.5*float64(c.Spiky)/float64(max(1, c.Tenants)) - 0.2*c.Utilization
}

func reject(t Tenant, c Cell) string {
	switch {
	case c.Draining:
		return "state must be Active (is Draining)"
	case c.Region != t.Region:
		return fmt.Sprintf("region must be %q (is %q)", t.Region, c.Region)
	case t.Residency != "" && c.Residency != t.Residency:
		return fmt.Sprintf("residency must be %q (is %q)", t.Residency, c.Residency)
	case c.FreeCPU <= MinFreeCPU:
		return fmt.Sprintf("freeCpu must be over %v (is %v)", MinFreeCPU, c.FreeCPU)
	case c.FreeDBConn <= MinFreeDBConn:
		return fmt.Sprintf("freeDbConn must be over %d (is %d)", MinFreeDBConn, c.FreeDBConn)
	case t.Dedicated && !c.Dedicated:
		return "pool must be dedicated (is shared)"
	case t.Dedicated && c.Tenants > 0:
		return fmt.Sprintf("a dedicated cell must be free (has %d tenants)", c.Tenants)
	case !t.Dedicated && c.Dedicated:
		return "pool must be shared (is dedicated)"
	default:
		return ""
	}
}
