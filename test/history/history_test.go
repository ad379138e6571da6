package history

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sync/errgroup"
)

var (
	seed     = flag.Uint64("history-seed", 1, "of the schedule of moves and faults")
	strategy = flag.String("history-strategy", "dualWrite", "by which the tenants' data follows")
	duration = flag.Duration("history-time", 40*time.Second, "how long the load and the faults last")
)

const (
	patience       = 60 * time.Second // for what must come to pass once everything is mended
	searchPatience = time.Minute      // for the order of one row
)

// TestHistory has clients of two tenants read and write a few rows while their tenants move back and forth and
// everything breaks that can, and looks for an order that explains what each row's clients saw.
func TestHistory(t *testing.T) {
	m := newMesh(t)
	r := &recorder{history: map[string][]operation{}, told: map[string]int{}, began: time.Now()}
	gateways := []string{m.sidecars["gateway a"].URL, m.sidecars["gateway b"].URL}
	var clients []*client
	for i := range clientsPerTenant * len(tenants) {
		tenant := tenants[i%len(tenants)]
		clients = append(clients, newClient(r, i, tenant, m.Token(t, tenant), gateways, *seed))
	}
	for _, c := range clients[:len(tenants)] {
		c.insist(t, "row-0", true) // the services may still be on their way up
	}
	var group errgroup.Group
	stop := make(chan struct{})
	for _, c := range clients {
		group.Go(func() error { return c.run(t.Context(), stop) })
	}
	n := &nemesis{T: t, mesh: m, random: rand.New(rand.NewPCG(*seed, 0)), began: time.Now(), since: map[string]int64{}}
	n.run(*duration)
	n.rest()
	close(stop)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// What is there at the end is part of the history: by its count of writes, none of before may be missing.
	for _, c := range clients[:len(tenants)] {
		for key := range keys {
			c.insist(t, fmt.Sprint("row-", key), true)
			c.insist(t, fmt.Sprint("row-", key), false)
		}
	}
	r.check(t)
	cutovers := n.moves - len(tenants) // the first that it saw of each was its placement
	t.Logf("%d cutovers; clients were told: %v", cutovers, r.told)
	if cutovers < 4 || r.told["200"] < 500 {
		t.Error("too little happened to prove anything")
	}
}

// check fails the test for every row whose history cannot have been.
func (r *recorder) check(t *testing.T) {
	t.Helper()
	for _, row := range slices.Sorted(maps.Keys(r.history)) {
		began := time.Now()
		result, info := explained(r.history[row], searchPatience)
		t.Logf("%s: %d operations, %s, decided in %v", row, len(r.history[row]), result, time.Since(began).Round(time.Millisecond))
		if result == porcupine.Ok {
			continue
		}
		path := filepath.Join(os.TempDir(), fmt.Sprintf("tenantmesh-history-%d-%s.html", *seed, strings.ReplaceAll(row, "/", "-"))) // it outlives the test
		if err := porcupine.VisualizePath(model, info, path); err != nil {
			t.Error(err)
		}
		what := "no order of one store that applies each write once explains what its clients saw"
		if result == porcupine.Unknown {
			what = fmt.Sprintf("no order was found in %v", searchPatience)
		}
		t.Errorf("%s: %s; the history is in %s\nreplay: go test ./test/history -run TestHistory -history-seed %d -history-strategy %s -history-time %v", row, what, path, *seed, *strategy, *duration)
	}
}
