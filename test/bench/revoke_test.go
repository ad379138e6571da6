package main

import "testing"

// TestRevoke takes each sort of right away from a small mesh, alone and behind a bulk: every client enforces it.
func TestRevoke(t *testing.T) {
	err := withPlane(t.Context(), 50, func(p *plane) error {
		stop, err := p.connect(t.Context(), 2, 1)
		if err != nil {
			return err
		}
		defer stop()
		for _, r := range revocations {
			for i := range 2 {
				ms, err := p.revoke(t.Context(), r.before, r.revoke, r.undo, i)
				if err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
				t.Logf("%s: %.1f ms", r.name, ms)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
