package tenantstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Drain is the plan by which a cell is emptied.
type Drain struct {
	Cell    string      `json:"cell"`
	Tenants []DrainMove `json:"tenants"` // that are there, in the order in which they go
}

// DrainMove is one tenant of a draining cell.
type DrainMove struct {
	Tenant string    `json:"tenant"`
	To     string    `json:"to,omitempty"`     // where it would go now
	State  MoveState `json:"state,omitempty"`  // of its placement
	Stuck  string    `json:"stuck,omitempty"`  // why it cannot go
	Moving bool      `json:"moving,omitempty"` // it is on its way
}

// DrainCell makes a cell take no new tenants, and its tenants go, one at a time.
func (w *Writer) DrainCell(ctx context.Context, actor, name string) (Revision, error) {
	result, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		cell := t.objects[Key{KindCell, name}]
		if cell == nil {
			t.err = fmt.Errorf("%v: %w", Key{KindCell, name}, ErrNotFound)
			return
		}
		draining := cell.Clone()
		draining.Cell.State = CellDraining
		t.put(draining)
		t.audit(actor, w.now())
	})
	return result.Revision, err
}

// PlanDrain is the plan for a cell, from the store as it is: nothing else is kept, so it can be taken up at any time.
func PlanDrain(objects map[Key]*Object, cell string) Drain {
	plan := Drain{Cell: cell, Tenants: []DrainMove{}}
	var names []string
	for key, o := range objects {
		if key.Kind == KindTenant && o.Status.Placement != nil && (o.Status.Placement.Cell == cell || o.Status.Placement.Target == cell && o.Status.Placement.State.Moving()) {
			names = append(names, key.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		tenant := objects[Key{KindTenant, name}]
		p := tenant.Status.Placement
		move := DrainMove{Tenant: name, State: p.State}
		switch candidates := Candidates(objects, tenant); {
		case p.Target != "":
			move.Moving, move.To = true, p.Target
			if p.State == StateCutover || p.State == StateFinal {
				move.To = p.Cell
			}
		case tenant.Status.Phase != Active:
			move.Stuck = "it is " + string(tenant.Status.Phase)
		case len(candidates) == 0 || candidates[0].Rejected != "":
			move.Stuck = "no cell is eligible: " + scores(candidates)
		default:
			move.To = candidates[0].Cell
		}
		plan.Tenants = append(plan.Tenants, move)
	}
	return plan
}

// NextDrains are the moves that draining cells may begin now: one a cell, and none while one of its tenants moves.
func NextDrains(objects map[Key]*Object) []MoveRequest {
	var requests []MoveRequest
	for _, key := range slices.SortedFunc(maps.Keys(objects), compareKeys) {
		if key.Kind != KindCell || objects[key].Cell.State != CellDraining {
			continue
		}
		plan := PlanDrain(objects, key.Name)
		if slices.ContainsFunc(plan.Tenants, func(m DrainMove) bool { return m.Moving }) {
			continue
		}
		if i := slices.IndexFunc(plan.Tenants, func(m DrainMove) bool { return m.To != "" }); i >= 0 {
			requests = append(requests, MoveRequest{
				Tenant: plan.Tenants[i].Tenant, Transition: MoveStart, To: plan.Tenants[i].To,
				Epoch: objects[Key{KindTenant, plan.Tenants[i].Tenant}].Status.Placement.Epoch,
			})
		}
	}
	return requests
}
