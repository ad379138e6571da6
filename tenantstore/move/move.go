// Package move answers WHO MOVES THEM ON: the controller that takes each moving tenant from one state to the next as
// soon as what the next one needs has been reported (design, section 8).
//
// It keeps nothing: every step is in the store, is made by one compare-and-set that checks its own precondition, and is
// taken up by whichever control plane leads. Two that both believe to lead cannot harm: a step names the epoch it
// starts from, and only one of them finds the store as it expects it.
//
// It imports tenantstore and zap.
package move

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Config says what a controller stands on.
type Config struct {
	Store  tenantstore.Store
	Writer *tenantstore.Writer
	Now    func() time.Time
	Log    *zap.Logger
}

// actor is who the audit says makes the steps.
const actor = "control"

// tick is how often it looks at what waits for time.
const tick = 500 * time.Millisecond

// Run leads, or waits to lead, until ctx ends.
func Run(ctx context.Context, config Config) error {
	tenantstore.Keep(ctx, func(ctx context.Context) error {
		return config.Store.Lead(ctx, "move", func(ctx context.Context) error { return tenantstore.Follow(ctx, config.Store, config.follow) })
	}, func(err error) { config.Log.Warn("the lead of moves was lost", zap.Error(err)) })
	return nil
}

// follow makes every step that can be made, as the store changes and as time passes.
func (c *Config) follow(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, changes <-chan tenantstore.Change) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	work := work{moves: map[string]struct{}{}, draining: map[string]struct{}{}}
	for _, o := range objects {
		work.note(o)
	}
	for {
		if err := c.step(ctx, objects, work); err != nil {
			return err
		}
		select {
		case change, ok := <-changes:
			if !ok || change.Err != nil {
				return errors.Join(change.Err, ctx.Err())
			}
			for _, o := range change.Put {
				objects[o.Key()] = o
				work.note(o)
			}
			for _, key := range change.Delete {
				delete(objects, key)
				work.gone(key)
			}
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// work is what there may be to do: while there is none, a change of the store costs nothing here.
type work struct {
	moves    map[string]struct{} // that are open, by tenant
	draining map[string]struct{} // cells
}

func (w work) note(o *tenantstore.Object) {
	in := func(set map[string]struct{}, open bool) {
		if delete(set, o.Metadata.Name); open {
			set[o.Metadata.Name] = struct{}{}
		}
	}
	switch o.Kind {
	case tenantstore.KindMove:
		in(w.moves, o.Move.Outcome == "")
	case tenantstore.KindCell:
		in(w.draining, o.Cell.State == tenantstore.CellDraining)
	default:
	}
}

func (w work) gone(key tenantstore.Key) {
	switch key.Kind {
	case tenantstore.KindMove:
		delete(w.moves, key.Name)
	case tenantstore.KindCell:
		delete(w.draining, key.Name)
	default:
	}
}

// step makes the next step of every move that waits for nothing.
func (c *Config) step(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, work work) error {
	if len(work.draining) > 0 {
		for _, request := range tenantstore.NextDrains(objects) {
			if err := c.make(ctx, request); err != nil {
				return err
			}
		}
	}
	for tenant := range work.moves {
		next, waits := tenantstore.NextMove(objects, tenant, c.Now())
		if next == "" || len(waits) > 0 {
			continue
		}
		epoch := objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: tenant}].Status.Placement.Epoch
		if err := c.make(ctx, tenantstore.MoveRequest{Tenant: tenant, Transition: next, Epoch: epoch}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) make(ctx context.Context, request tenantstore.MoveRequest) error {
	moved, err := c.Writer.Move(ctx, actor, request)
	var problems tenantstore.Problems
	switch {
	case errors.As(err, &problems), errors.Is(err, tenantstore.ErrNotFound), errors.Is(err, tenantstore.ErrConflict):
		// The store is ahead of what was seen here: its change is on the way.
	case err != nil:
		return err
	default:
		p := moved.Status.Placement
		c.Log.Info("a move goes on", zap.String("tenant", request.Tenant), zap.String("step", string(request.Transition)), zap.String("state", string(p.State)), zap.String("cell", p.Cell), zap.Int64("epoch", p.Epoch))
	}
	return nil
}
