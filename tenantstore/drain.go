package tenantstore

import (
	"context"
	"fmt"
	"slices"
	"time"
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
	for _, tenant := range drained(objects, cell) {
		plan.Tenants = append(plan.Tenants, drainMove(objects, tenant))
	}
	return plan
}

// drained are the tenants that are in a cell, or on their way into it, by name.
func drained(objects map[Key]*Object, cell string) (tenants []*Object) {
	for key, o := range objects {
		if p := o.Status.Placement; key.Kind == KindTenant && p != nil && (p.Cell == cell || p.Target == cell && p.State.Moving()) {
			tenants = append(tenants, o)
		}
	}
	slices.SortFunc(tenants, func(a, b *Object) int { return compareKeys(a.Key(), b.Key()) })
	return tenants
}

func drainMove(objects map[Key]*Object, tenant *Object) DrainMove {
	p := tenant.Status.Placement
	move := DrainMove{Tenant: tenant.Metadata.Name, State: p.State}
	if p.Target != "" {
		move.Moving, move.To = true, p.Target
		if m := newMover(objects, move.Tenant, time.Time{}); m.aborted() {
			move.To, move.Stuck = "", "a move was given up, and its copy in "+p.Target+" is being deleted"
			return move
		}
		if p.State == StateCutover || p.State == StateFinal {
			move.To = p.Cell
		}
		return move
	}
	if tenant.Status.Phase != Active {
		move.Stuck = "it is " + string(tenant.Status.Phase)
		return move
	}
	if candidates := Candidates(objects, tenant); len(candidates) > 0 && candidates[0].Rejected == "" {
		move.To = candidates[0].Cell
	} else {
		move.Stuck = "no cell is eligible: " + scores(candidates)
	}
	return move
}

// NextDrains are the moves that draining cells may begin now: one a cell, and none while one of its tenants moves.
func NextDrains(objects map[Key]*Object) (requests []MoveRequest) {
	for _, key := range keysOf(objects, KindCell) {
		if objects[key].Cell.State != CellDraining {
			continue
		}
		tenants := drained(objects, key.Name)
		if slices.ContainsFunc(tenants, func(o *Object) bool { return o.Status.Placement.Target != "" }) {
			continue
		}
		for _, tenant := range tenants {
			if move := drainMove(objects, tenant); move.To != "" {
				requests = append(requests, MoveRequest{Tenant: move.Tenant, Transition: MoveStart, To: move.To, Epoch: tenant.Status.Placement.Epoch})
				break
			}
		}
	}
	return requests
}
