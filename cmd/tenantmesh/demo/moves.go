package demo

import (
	"context"
	"encoding/json"
	"errors"
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

// writers write documents of acme, each its own, until stop is called.
func (d *demo) writers(ctx context.Context, clients int) (stop func() (acknowledged []string, failures []string)) {
	var mu sync.Mutex
	var acknowledged, failures []string
	var done atomic.Bool
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := 0; !done.Load() && ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w%d-%d", c, i)
				r, err := d.request(ctx, call{method: "PUT", path: "/documents/" + key, tenant: "acme", body: `{"title": "written under way"}`})
				mu.Lock()
				switch {
				case err != nil:
					failures = append(failures, err.Error())
				case r.status != 200:
					failures = append(failures, fmt.Sprintf("%d %s", r.status, r.reason()))
				default:
					acknowledged = append(acknowledged, key)
				}
				mu.Unlock()
				pause(ctx, 10*time.Millisecond)
			}
		})
	}
	return func() ([]string, []string) {
		done.Store(true)
		wg.Wait()
		return acknowledged, failures
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
	stop := d.writers(ctx, 3)
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
	acknowledged, failures := stop()
	if err != nil {
		return "", err
	}
	if len(failures) > 0 {
		return "", fmt.Errorf("%d of %d writes failed, the first: %s", len(failures), len(failures)+len(acknowledged), failures[0])
	}
	if err := d.account(ctx, acknowledged); err != nil {
		return "", err
	}
	if err := d.untilMoved(ctx, "acme", func(s adminapi.MoveStatus) bool { return s.Move.Outcome == tenantstore.MoveDone }); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d writes acknowledged, each is in us-2 and was applied once; no client saw an error; it took %v; us-1's copy is deleted", len(acknowledged), took.Round(time.Millisecond)), nil
}

// account compares what was acknowledged with what is there.
func (d *demo) account(ctx context.Context, acknowledged []string) error {
	if len(acknowledged) == 0 {
		return errors.New("no write was acknowledged")
	}
	r, err := d.request(ctx, call{path: "/documents", tenant: "acme"})
	if err != nil {
		return err
	}
	var there []string
	if err := json.Unmarshal([]byte(r.body), &there); err != nil {
		return fmt.Errorf("%w: %.100s", err, r.body)
	}
	for _, key := range acknowledged {
		if !slices.Contains(there, key) {
			return fmt.Errorf("the write of %s was acknowledged, and it is not there", key)
		}
	}
	for _, key := range []string{acknowledged[0], acknowledged[len(acknowledged)/2], acknowledged[len(acknowledged)-1]} {
		r, err := d.request(ctx, call{path: "/documents/" + key, tenant: "acme"})
		if err != nil {
			return err
		}
		var document struct{ Writes int }
		if err := json.Unmarshal([]byte(r.body), &document); err != nil || document.Writes != 1 {
			return fmt.Errorf("%s was written %d times (%w)", key, document.Writes, err)
		}
	}
	if len(there) != len(acknowledged) {
		return fmt.Errorf("%d documents are there, and %d writes were acknowledged", len(there), len(acknowledged))
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
