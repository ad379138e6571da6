package xds

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// outage is a store that can be out of reach.
type outage struct {
	tenantstore.Store
	down, slow atomic.Bool
}

func (o *outage) Live(ctx context.Context) ([]string, error) {
	if o.slow.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if o.down.Load() {
		return nil, errors.New("no quorum")
	}
	return o.Store.Live(ctx)
}

// TestPulse: what is published is as new as it can be only while the store answers, in time.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &outage{Store: memstore.New()}
		ctx, cancel := context.WithCancel(t.Context())
		m := NewMembers(ctx, MembersConfig{Store: store, Log: zap.NewNop()})
		if m.Fresh() {
			t.Error("fresh before the store was reached")
		}
		done := make(chan error, 1)
		go func() { done <- m.Reach(ctx) }()
		for _, broken := range []*atomic.Bool{&store.down, &store.slow} {
			after(reachInterval)
			if !m.Fresh() {
				t.Error("not fresh while the store answers")
			}
			broken.Store(true)
			after(freshTime + reachInterval)
			if m.Fresh() {
				t.Error("fresh though the store does not answer")
			}
			broken.Store(false)
			after(2 * reachInterval)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
