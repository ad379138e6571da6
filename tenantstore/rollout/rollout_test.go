package rollout

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

const objects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: globex}
spec: {tier: gold, region: us}
`

const gold = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tier
metadata: {name: gold}
spec: {limits: {burst: 1}}
`

// world is a store, and what control planes over it are told.
type world struct {
	*testing.T
	store  tenantstore.Store
	writer *tenantstore.Writer

	mu      sync.Mutex
	usage   []ledger.UsageRecord
	refused string
}

// sum is as ledger.Usage has it.
func (w *world) sum(_ string, since, until time.Time) (list []ledger.UsageRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.usage {
		if !u.Minute.Before(since) && u.Minute.Before(until) {
			list = append(list, u)
		}
	}
	return list
}

func (w *world) nack(int64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused
}

// told makes a change to what control planes are told.
func (w *world) told(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func start(t *testing.T, every float64, work func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, store: memstore.New()}
		w.writer = tenantstore.NewWriter(w.store, time.Now)
		if _, err := w.writer.Apply(t.Context(), "test", decode(t, objects), tenantstore.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 2)
		for range 2 { // control planes
			go func() {
				done <- Run(ctx, Config{
					Store: w.store, Writer: w.writer, Now: time.Now, Log: zap.NewNop(), Refused: w.nack, Usage: w.sum,
				})
			}()
		}
		if _, err := w.writer.StartRollout(t.Context(), "test", tenantstore.RolloutRequest{Object: decode(t, gold)[0], Tenants: []string{"acme"}, Every: every}, false); err != nil {
			t.Fatal(err)
		}
		work(w)
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
}

func decode(t *testing.T, text string) (list []*tenantstore.Object) {
	t.Helper()
	documents, err := tenantstore.DecodeYAML("test", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents {
		list = append(list, d.Object)
	}
	return list
}

// after lets time pass, and returns the rollout then, nil when it is over.
func (w *world) after(d time.Duration) *tenantstore.RolloutSpec {
	w.Helper()
	<-time.After(d)
	synctest.Wait()
	snapshot, err := w.store.Snapshot(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if o := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindRollout, Name: "tier-gold"}]; o != nil {
		return o.Rollout
	}
	return nil
}

func (w *world) served(tenant string, requests, refused int64) {
	snapshot, err := w.store.Snapshot(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	uid := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: tenant}].Metadata.UID
	w.told(func() {
		w.usage = append(w.usage, ledger.UsageRecord{Minute: time.Now(), Tenant: tenant, TenantUID: uid, Requests: requests, Refused: refused})
	})
}

func TestByTime(t *testing.T) {
	start(t, 60, func(w *world) {
		for _, percent := range []float64{0, 10, 50} {
			if r := w.after(30 * time.Second); r == nil || r.Percent() != percent {
				t.Fatalf("it is %+v, want %v %%", r, percent)
			}
			w.after(32 * time.Second)
		}
		if r := w.after(0); r != nil {
			t.Errorf("it is not over: %+v", r)
		}
	})
}

func TestByHand(t *testing.T) {
	start(t, 0, func(w *world) {
		if r := w.after(24 * time.Hour); r == nil || r.Stage != 0 || r.State != tenantstore.Progressing {
			t.Errorf("it is %+v", r)
		}
	})
}

func TestHalts(t *testing.T) {
	for name, test := range map[string]struct {
		trouble func(*world)
		why     string
	}{
		"refusals": {func(w *world) { w.served("acme", 100, 50); w.served("globex", 100, 0) }, "50.0 % of the canary's 100 requests are refused"},
		"a NACK":   {func(w *world) { w.told(func() { w.refused = "spiffe://x refused revision 7" }) }, "spiffe://x refused revision 7"},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, 60, func(w *world) {
				test.trouble(w)
				r := w.after(6 * time.Second)
				if r == nil || r.State != tenantstore.Halted || !strings.Contains(r.Why, test.why) {
					t.Fatalf("it is %+v", r)
				}
				if r = w.after(time.Hour); r == nil || r.Stage != 0 {
					t.Errorf("a halted one went on: %+v", r)
				}
				w.told(func() { w.usage, w.refused = nil, "" })
				if _, err := w.writer.PromoteRollout(t.Context(), "test", "tier-gold", 0); err != nil {
					t.Fatal(err)
				}
				if r = w.after(62 * time.Second); r == nil || r.Percent() != 50 {
					t.Errorf("promoted, it is %+v", r)
				}
			})
		})
	}
}
