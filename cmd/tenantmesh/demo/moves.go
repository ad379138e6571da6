package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

func (d *demo) showDedicated(ctx context.Context) (string, error) {
	found, err := d.admin.Candidates(ctx, "hooli", false)
	if err != nil {
		return "", err
	}
	if found.Placement == nil || found.Placement.Cell != "us-9" {
		return "", fmt.Errorf("it is placed at %+v", found.Placement)
	}
	headers, err := d.seen(ctx, call{path: "/httpbin/headers", tenant: "hooli"})
	if err != nil {
		return "", err
	}
	if headers["x-tenant-id"] != "hooli" || headers["x-tenant-tier"] != "platinum" {
		return "", fmt.Errorf("the service saw tenant %q of tier %q", headers["x-tenant-id"], headers["x-tenant-tier"])
	}
	return "the rule chose us-9, which is dedicated", nil
}

// written is what was acknowledged of each service's writes, and what went wrong.
type written struct {
	documents, entries, attachments []string // keys, IDs, names
	failures                        []string
}

// writers write for acme to each service whose data moves, until stop is called.
func (d *demo) writers(ctx context.Context) (stop func() *written) {
	var mu sync.Mutex
	var done atomic.Bool
	var wg sync.WaitGroup
	w := &written{}
	for c := range 3 {
		wg.Go(func() {
			for i := 0; !done.Load() && ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w%d-%d", c, i)
				for _, one := range []struct {
					call call
					into *[]string
				}{
					{call{method: "PUT", path: "/documents/" + key, tenant: "acme", body: `{"title": "written under way"}`}, &w.documents},
					{call{method: "POST", path: "/search/entries", tenant: "acme", body: `{"title": "indexed under way"}`}, &w.entries},
					{call{method: "PUT", path: "/attachments/" + key, tenant: "acme", body: `{}`}, &w.attachments},
				} {
					r, err := d.request(ctx, one.call)
					var answer struct{ ID string }
					mu.Lock()
					switch {
					case err != nil:
						w.failures = append(w.failures, err.Error())
					case r.status != 200:
						w.failures = append(w.failures, fmt.Sprintf("%s %d %s", one.call.path, r.status, r.reason()))
					case json.Unmarshal([]byte(r.body), &answer) == nil && answer.ID != "":
						*one.into = append(*one.into, answer.ID)
					default:
						*one.into = append(*one.into, key)
					}
					mu.Unlock()
				}
				pause(ctx, 10*time.Millisecond)
			}
		})
	}
	return func() *written {
		done.Store(true)
		wg.Wait()
		return w
	}
}

// pause lets time pass in which others work.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// untilMoved waits until a move is as it should be.
func (d *demo) untilMoved(ctx context.Context, tenant string, good func(adminapi.MoveStatus) bool) error {
	return until(ctx, "the move of "+tenant, func() error {
		status, err := d.admin.MoveStatus(ctx, tenant)
		if err == nil && !good(status) {
			err = fmt.Errorf("it is %s at epoch %d and waits for %v", status.Placement.State, status.Placement.Epoch, status.Waits)
		}
		return err
	})
}

func (d *demo) showMove(ctx context.Context) (string, error) {
	stop := d.writers(ctx)
	pause(ctx, 300*time.Millisecond)
	began := time.Now()
	_, err := d.admin.Move(ctx, "acme", adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
	if err == nil {
		err = d.untilMoved(ctx, "acme", func(s adminapi.MoveStatus) bool {
			return s.Placement.Cell == "us-2" && s.Placement.State == tenantstore.StateFinal
		})
	}
	took := time.Since(began)
	pause(ctx, 300*time.Millisecond)
	w := stop()
	if err != nil {
		return "", err
	}
	count := len(w.documents) + len(w.entries) + len(w.attachments)
	if len(w.failures) > 0 {
		return "", fmt.Errorf("%d of %d writes failed, the first: %s", len(w.failures), len(w.failures)+count, w.failures[0])
	}
	if err := d.account(ctx, w); err != nil {
		return "", err
	}
	if err := d.untilMoved(ctx, "acme", func(s adminapi.MoveStatus) bool { return s.Move.Outcome == tenantstore.MoveDone }); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d writes to three services acknowledged, each is in us-2 once; no client saw an error; it took %v; us-1's copy is deleted", count, took.Round(time.Millisecond)), nil
}

// account compares what was acknowledged with what is there: each once, and nothing else.
func (d *demo) account(ctx context.Context, w *written) error {
	for _, one := range []struct {
		path         string
		acknowledged []string
	}{{"/documents", w.documents}, {"/search?q=indexed", w.entries}, {"/attachments", w.attachments}} {
		r, err := d.request(ctx, call{path: one.path, tenant: "acme"})
		if err != nil {
			return err
		}
		var there []string
		if err := json.Unmarshal([]byte(r.body), &there); err != nil {
			return fmt.Errorf("%s: %w: %.100s", one.path, err, r.body)
		}
		slices.Sort(there)
		slices.Sort(one.acknowledged)
		if len(there) == 0 || !slices.Equal(there, one.acknowledged) {
			return fmt.Errorf("%s: %d are there, and %d writes were acknowledged", one.path, len(there), len(one.acknowledged))
		}
	}
	for _, key := range w.documents {
		r, err := d.request(ctx, call{path: "/documents/" + key, tenant: "acme"})
		if err != nil {
			return err
		}
		var document struct{ Writes int }
		if err := json.Unmarshal([]byte(r.body), &document); err != nil || document.Writes != 1 {
			return fmt.Errorf("%s was written %d times (%w)", key, document.Writes, err)
		}
	}
	return nil
}

// showCellRestart kills every process of us-2 and starts them again, while the control plane is dead.
func (d *demo) showCellRestart(ctx context.Context) (string, error) {
	var killed []spec
	for _, p := range d.processes.running() {
		if p.Cell == "us-2" {
			d.processes.Kill(p)
			killed = append(killed, p.spec)
		}
	}
	for _, s := range killed {
		if err := d.startSpec(ctx, s); err != nil {
			return "", err
		}
	}
	began := time.Now()
	if err := until(ctx, "us-2", func() error {
		_, err := d.servedAll(ctx)
		return err
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d processes of us-2 were killed and started again; acme is served there %v later, from the last good state", len(killed), time.Since(began).Round(100*time.Millisecond)), nil
}
