package tenantstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore/placement"
)

// Candidates returns how every cell would do for a tenant, the best first, as [placement.Place] does. The tenant
// itself is not counted where it is.
func Candidates(objects map[Key]*Object, tenant *Object) []placement.Candidate {
	return placement.Place(placed(Tiers(objects), tenant), cellsOf(objects, tenant.Key()))
}

// placed is what matters of a tenant for its place.
func placed(tiers map[string]policy.TierSpec, tenant *Object) placement.Tenant {
	return placement.Tenant{
		Region: tenant.Tenant.Region, Residency: tenant.Tenant.Residency,
		Dedicated: tiers[tenant.Tenant.Tier].Isolation == policy.DedicatedCell,
	}
}

// Place gives every tenant without a place one where a cell is eligible, as every write does too: it serves those for
// whom there was no cell, and now is.
func (w *Writer) Place(ctx context.Context, actor string) (Result, error) {
	return w.transact(ctx, ApplyOptions{}, func(t *draft) {
		t.place()
		t.audit(actor, w.now())
	})
}

// place gives every tenant without a place one, if a cell is eligible; otherwise a condition says why not. It happens
// in the transaction that makes the tenant, so it happens once.
func (t *draft) place() {
	if !t.mayPlace() {
		return
	}
	var waiting []Key
	for key, o := range t.objects {
		if key.Kind == KindTenant && o.Status.Placement == nil {
			waiting = append(waiting, key)
		}
	}
	if len(waiting) == 0 {
		return
	}
	slices.SortFunc(waiting, compareKeys)
	cells, tiers := cellsOf(t.objects, Key{}), Tiers(t.few)
	for _, key := range waiting {
		tenant := t.objects[key]
		candidates := placement.Place(placed(tiers, tenant), cells)
		found := tenant.Clone()
		condition := Condition{Type: "Placed", Status: "True"}
		if len(candidates) == 0 || candidates[0].Rejected != "" {
			condition = Condition{"Placed", "False", "NoEligibleCell", scores(candidates)}
			t.details[key] = "no cell is eligible: " + scores(candidates)
		} else {
			found.Status.Placement = &Placement{State: StateActive, Cell: candidates[0].Cell, Epoch: 1, Since: 1}
			t.details[key] = "placed in " + candidates[0].Cell + ": " + scores(candidates)
			book(cells, candidates[0].Cell, found.Tenant.Spiky)
		}
		found.Status.Conditions = []Condition{condition}
		found.Status.Phase = phase(found)
		t.replace(found)
	}
}

// mayPlace reports whether the draft can give any tenant a place: it changes a cell or a tier, takes something away, or
// holds a tenant that has none. It looks at what the draft changes only.
func (t *draft) mayPlace() bool {
	return len(t.Transaction.Delete) > 0 || len(t.Put) == 0 || slices.ContainsFunc(t.Put, func(o *Object) bool {
		return o.Kind == KindCell || o.Kind == KindTier || o.Kind == KindTenant && o.Status.Placement == nil
	})
}

// book counts a tenant in its cell at once, with one connection: its cell's next report will say more.
func book(cells []placement.Cell, name string, spiky bool) {
	for i := range cells {
		if cells[i].Name == name {
			cells[i].Tenants++
			cells[i].FreeDBConn--
			if spiky {
				cells[i].Spiky++
			}
		}
	}
}

// cellsOf are the cells with the tenants that they hold, or are about to: all but one.
func cellsOf(objects map[Key]*Object, but Key) []placement.Cell {
	byName := map[string]*placement.Cell{}
	for key, object := range objects {
		if key.Kind == KindCell {
			c := object.Cell
			byName[key.Name] = &placement.Cell{
				Name: key.Name, Region: c.Region, Residency: c.Residency, Dedicated: c.Pool == DedicatedPool, Draining: c.State == CellDraining,
				FreeCPU: c.Capacity.FreeCPU, FreeDBConn: c.Capacity.FreeDBConn, DBConnCap: c.Capacity.DBConnCap, Utilization: c.Capacity.Utilization,
			}
		}
	}
	for key, object := range objects {
		if key.Kind != KindTenant || key == but || object.Status.Placement == nil {
			continue
		}
		for _, name := range []string{object.Status.Placement.Cell, object.Status.Placement.Target} {
			if cell := byName[name]; cell != nil {
				cell.Tenants++
				if object.Tenant.Spiky {
					cell.Spiky++
				}
			}
		}
	}
	cells := make([]placement.Cell, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		cells = append(cells, *byName[name])
	}
	return cells
}

// scores is the score table on one line.
func scores(candidates []placement.Candidate) string {
	if len(candidates) == 0 {
		return "there is no cell"
	}
	parts := make([]string, len(candidates))
	for i, c := range candidates {
		parts[i] = fmt.Sprintf("%s scores %.3f", c.Cell, c.Score)
		if c.Rejected != "" {
			parts[i] = c.Cell + ": " + c.Rejected
		}
	}
	return strings.Join(parts, "; ")
}
