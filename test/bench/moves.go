package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

const otherCell = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-2}
spec: {region: us, capacity: {freeCpu: 0.9, freeDbConn: 1000000, dbConnCap: 1000000}}
`

// moveStreams are sidecars of us-1: the cell that a tenant leaves, or comes to.
const moveStreams = 10

// measureMoves measures the bytes that a sidecar is sent for a tenant's whole move, from the first state to the last, out
// of its cell or into it; the ratio is to a resync: what a stream gets at its start.
func measureMoves(ctx context.Context, rounds int) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "a tenant moves\tbytes a sidecar\tbytes of a resync\tratio to it")
	for _, size := range pushSizes {
		err := withPlane(ctx, size.tenants, func(p *plane) error {
			bytes, whole, err := p.moves(ctx, moveStreams, rounds)
			if err == nil {
				fmt.Fprintf(out, "%d tenants\t%s\t%.0f\t%s\n", size.tenants, spread(bytes, "%.0f"), whole, spread(over(bytes, whole), "%.4f"))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%d tenants: %w", size.tenants, err)
		}
	}
	return out.Flush()
}

// moves moves a tenant to the other cell and back, and returns the bytes of each move, and those of a resync, a stream.
func (p *plane) moves(ctx context.Context, streams, rounds int) (bytes []float64, whole float64, err error) {
	cell, err := decodeObjects(otherCell)
	if err == nil {
		_, err = p.admin.Apply(ctx, cell, false)
	}
	if err != nil {
		return nil, 0, err
	}
	g, resync, stop, err := p.generate(ctx, streams, "-report")
	if err != nil {
		return nil, 0, err
	}
	defer stop()
	for range rounds {
		for _, to := range []string{"us-2", "us-1"} {
			if err := p.move(ctx, to); err != nil {
				return nil, 0, fmt.Errorf("to %s: %w", to, err)
			}
			sent, err := g.bytes()
			if err != nil {
				return nil, 0, err
			}
			bytes = append(bytes, float64(sent)/float64(streams))
		}
	}
	return bytes, float64(resync) / float64(streams), nil
}

// move moves a tenant, and returns once nothing is left of the move and every stream has accepted that.
func (p *plane) move(ctx context.Context, to string) error {
	ctx, cancel := context.WithTimeout(ctx, pushWait*time.Second)
	defer cancel()
	status, err := p.admin.Move(ctx, "t-7", adminapi.MoveInput{Transition: tenantstore.MoveStart, To: to, Grace: 1})
	for err == nil && (status.Placement.Cell != to || status.Placement.Target != "") {
		select {
		case <-time.After(50 * time.Millisecond):
			status, err = p.admin.MoveStatus(ctx, "t-7")
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	now, err := p.store.Snapshot(ctx)
	if err != nil {
		return err
	}
	enforced, err := p.admin.Status(ctx, now.Revision, true, pushWait)
	if err == nil && !enforced.Done() {
		err = fmt.Errorf("revision %d is in force at %d of %d", now.Revision, enforced.Enforced, enforced.Total)
	}
	return err
}
