package tenantstore

import (
	"context"
	"errors"
	"time"
)

// Follow gives work the store's objects as they are, to keep and change, and every change after them, in order. It begins
// anew each time that the store compacted what work had not seen yet, and returns work's other errors, or the store's.
func Follow(ctx context.Context, store Store, work func(ctx context.Context, objects map[Key]*Object, changes <-chan Change) error) error {
	for {
		snapshot, err := store.Snapshot(ctx)
		if err != nil {
			return err
		}
		changes, err := store.Watch(ctx, snapshot.Revision)
		if err != nil {
			return err
		}
		if err := work(ctx, snapshot.Objects, changes); !errors.Is(err, ErrCompacted) {
			return err
		}
	}
}

// keepRetry is how long [Keep] waits after work ended.
const keepRetry = time.Second

// Keep does work again whenever it ends, until ctx does. failed is told why it ended.
func Keep(ctx context.Context, work func(context.Context) error, failed func(error)) {
	for ctx.Err() == nil {
		err := work(ctx)
		if ctx.Err() != nil {
			return
		}
		failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(keepRetry):
		}
	}
}
