// Package rollout answers GOES THE CHANGE ON: it takes the next step of a rollout when its time has come, and halts one
// that does harm (docs/adr/0005-rollouts.md).
//
// Sidecars report to one control plane each, so every control plane looks at what it is told, and may halt; steps are
// taken by the one that leads. It keeps nothing: what it writes names the revision of the rollout that it looked at, and
// of two that look at the same only one finds it so.
//
// It imports tenantstore, ledger and zap.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Config says what a controller stands on.
type Config struct {
	Store  tenantstore.Store
	Writer *tenantstore.Writer
	// Usage sums what was used, as [ledger.Usage.Sum] does.
	Usage func(tenant string, since, until time.Time) []ledger.UsageRecord
	// Refused says which sidecar refused what was pushed at a revision or later (a NACK), and why; "" for none.
	Refused func(revision int64) string
	Now     func() time.Time
	Log     *zap.Logger
}

// actor is who the audit says makes the steps.
const actor = "control"

// Timing of the controller.
const (
	stepInterval = time.Second
	lookInterval = 5 * time.Second // as often as sidecars report usage, which is summed each time
)

// Run looks after rollouts until ctx ends.
func Run(ctx context.Context, config Config) error {
	var group errgroup.Group
	group.Go(func() error {
		return config.keep(ctx, func(ctx context.Context) error { return config.follow(ctx, lookInterval, config.halt) })
	})
	group.Go(func() error {
		return config.keep(ctx, func(ctx context.Context) error {
			return config.Store.Lead(ctx, "rollout", func(ctx context.Context) error { return config.follow(ctx, stepInterval, config.step) })
		})
	})
	return group.Wait()
}

// keep does work again until ctx ends.
func (c *Config) keep(ctx context.Context, work func(context.Context) error) error {
	tenantstore.Keep(ctx, work, func(err error) { c.Log.Warn("rollouts are not looked after for a moment", zap.Error(err)) })
	return nil
}

// look does something about a rollout that goes on.
type look func(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, rollout *tenantstore.Object) error

// follow looks at every rollout that goes on, once an interval.
func (c *Config) follow(ctx context.Context, interval time.Duration, look look) error {
	return tenantstore.Follow(ctx, c.Store, func(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, changes <-chan tenantstore.Change) error {
		return watch(ctx, objects, changes, interval, look)
	})
}

func watch(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, changes <-chan tenantstore.Change, interval time.Duration, look look) error {
	rollouts := map[tenantstore.Key]*tenantstore.Object{}
	for key, o := range objects {
		if key.Kind == tenantstore.KindRollout {
			rollouts[key] = o
		}
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case change, ok := <-changes:
			if !ok || change.Err != nil {
				return errors.Join(change.Err, ctx.Err())
			}
			for _, o := range change.Put {
				if objects[o.Key()] = o; o.Kind == tenantstore.KindRollout {
					rollouts[o.Key()] = o
				}
			}
			for _, key := range change.Delete {
				delete(objects, key)
				delete(rollouts, key)
			}
		case <-ticker.C:
			for _, o := range rollouts {
				if o.Rollout.State != tenantstore.Progressing {
					continue
				}
				if err := look(ctx, objects, o); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// trouble is why a rollout may not go on, "" when nothing is seen here.
func (c *Config) trouble(objects map[tenantstore.Key]*tenantstore.Object, o *tenantstore.Object) string {
	if who := c.Refused(o.Metadata.Revision); who != "" {
		return who
	}
	return tenantstore.FiguresOf(objects, o, c.Usage, c.Now()).Trouble()
}

// halt halts a rollout that does harm.
func (c *Config) halt(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, o *tenantstore.Object) error {
	why := c.trouble(objects, o)
	if why == "" {
		return nil
	}
	_, err := c.Writer.HaltRollout(ctx, actor, o.Metadata.Name, o.Metadata.Revision, why)
	return c.made(err, o, "halted: "+why)
}

// step takes the next step of a rollout whose time has come.
func (c *Config) step(ctx context.Context, objects map[tenantstore.Key]*tenantstore.Object, o *tenantstore.Object) error {
	r := o.Rollout
	if r.Every == 0 || c.Now().Before(r.Due()) || c.trouble(objects, o) != "" {
		return nil
	}
	_, err := c.Writer.PromoteRollout(ctx, actor, o.Metadata.Name, o.Metadata.Revision)
	var problems tenantstore.Problems
	if errors.As(err, &problems) {
		_, err = c.Writer.HaltRollout(ctx, actor, o.Metadata.Name, o.Metadata.Revision, "the next step may not be taken: "+problems.Error())
	}
	return c.made(err, o, fmt.Sprintf("past %v %%", r.Percent()))
}

func (c *Config) made(err error, o *tenantstore.Object, what string) error {
	switch {
	case errors.Is(err, tenantstore.ErrPrecondition), errors.Is(err, tenantstore.ErrNotFound), errors.Is(err, tenantstore.ErrConflict):
		return nil // the store is ahead of what was seen here: its change is on the way
	case err != nil:
		return err
	}
	c.Log.Info("a rollout changes", zap.String("rollout", o.Metadata.Name), zap.String("step", what))
	return nil
}
