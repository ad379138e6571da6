package main

import (
	"os"
	"slices"
	"testing"
)

// TestMain lets this binary be its own load generator.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-streams") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestPush measures a small mesh: the figures are there, and what they must be whatever the machine.
func TestPush(t *testing.T) {
	const streams, rounds, changes = 3, 2, 4
	err := withPlane(t.Context(), 50, func(p *plane) error {
		f, err := p.figures(t.Context(), streams, rounds, changes)
		if err != nil {
			return err
		}
		if len(f.took) != rounds*changes || len(f.cpu) != rounds || slices.Min(f.took) <= 0 || slices.Min(f.cpu) <= 0 {
			t.Errorf("took %v ms, CPU %v ms", f.took, f.cpu)
		}
		if f.bytes < 50 || f.bytes > 1000 { // one tenant's policy
			t.Errorf("%.0f bytes a change and stream", f.bytes)
		}
		moves, whole, err := p.moves(t.Context(), streams, 1)
		if err != nil {
			return err
		}
		if whole < 50*f.bytes/2 {
			t.Errorf("a resync is %.0f bytes, and 50 tenants are in it", whole)
		}
		// Every state is pushed once: no more than there are transitions, and no other tenant.
		for i, bytes := range moves {
			if bytes < 5*f.bytes || bytes > 14*f.bytes {
				t.Errorf("move %d is %.0f bytes a stream, and a change %.0f", i+1, bytes, f.bytes)
			}
		}
		t.Logf("%.0f bytes a change, %.0f a move, %.0f a resync", f.bytes, moves, whole)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
