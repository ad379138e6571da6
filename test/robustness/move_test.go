// Package robustness breaks things at every moment, and looks whether what is promised holds (docs/guarantees.md).
package robustness

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
)

var (
	seeds = flag.Int("seeds", 1000, "how many runs")
	seed  = flag.Uint64("seed", 0, "replay this one only")
)

const events = 2500

// usage is a ledger that nobody writes.
func usage(t *testing.T) *ledger.Usage {
	t.Helper()
	u, err := ledger.OpenUsage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return u
}

func signingKeys(t *testing.T) map[string]tenanttoken.SigningKey {
	t.Helper()
	keys := map[string]tenanttoken.SigningKey{}
	for i := range 2 {
		key, err := tenanttoken.NewSigningKey(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		keys[fmt.Sprintf("%032x", 0xa0+i)] = key
	}
	return keys
}

func play(t *testing.T, seed uint64, broken fault, keys map[string]tenanttoken.SigningKey, used *ledger.Usage) (*world, error) {
	t.Helper()
	w, err := newWorld(seed, broken, keys, used)
	if err != nil {
		t.Fatal(err)
	}
	defer w.store.Close()
	return w, w.run(events)
}

// TestMoveModel plays moves with lost links, crashes, restarts from disk, stale controllers and impatient operators.
func TestMoveModel(t *testing.T) {
	keys, used := signingKeys(t), usage(t)
	if *seed != 0 {
		if _, err := play(t, *seed, none, keys, used); err != nil {
			t.Fatal(err)
		}
		return
	}
	accepted, called, acked, moved := 0, 0, 0, 0
	spared, repeated, by := 0, 0, map[string]int{}
	for s := range uint64(*seeds) {
		w, err := play(t, s+1, none, keys, used)
		if err != nil {
			t.Fatalf("%v\nreplay: go test ./test/robustness -run TestMoveModel -seed %d", err, s+1)
		}
		accepted, called, acked, moved = accepted+w.accepted, called+w.called, acked+len(w.acked), moved+w.underway
		spared, repeated = spared+w.spared, repeated+w.repeated
		by[w.strategy] += w.underway
	}
	t.Logf("%d runs of %d events: %d writes accepted, %d from within a cell, %d acknowledged, %d cutovers under way %v; %d writes repeated at the other cell, %d times all was there before the seal", *seeds, events, accepted, called, acked, moved, by, repeated, spared)
	if 10*moved < *seeds || len(by) < 3 || accepted < 10**seeds || called < *seeds || repeated < *seeds || 20*spared < *seeds {
		t.Errorf("too little happened to prove anything")
	}
}

// TestMoveModelCatches breaks the protocol on purpose: a model that holds all the same would prove nothing.
func TestMoveModelCatches(t *testing.T) {
	keys, used := signingKeys(t), usage(t)
	for broken, name := range map[fault]string{drainedLies: "drains that are reported too early", fenceIsIgnored: "a fence that is ignored", reportsUnsaved: "reports of what is not on the disk", copiesNothing: "a copy that was not made", digestsUnread: "digests that nobody reads", readsStayOpen: "reads that are not held before the cutover"} {
		caught := ""
		for s := uint64(1); s <= 1000 && caught == ""; s++ {
			if _, err := play(t, s, broken, keys, used); err != nil {
				caught = fmt.Sprintf("seed %d: %v", s, err)
			}
		}
		if caught == "" {
			t.Errorf("%s: not caught in 1000 runs", name)
		} else if strings.Contains(caught, "comes to rest") {
			t.Errorf("%s: caught only as %s", name, caught)
		}
		t.Logf("%s: %s", name, caught)
	}
}
