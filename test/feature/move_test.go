package feature

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

const secondCell = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-2}
spec: {region: us, capacity: {freeCpu: 0.6, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tier
metadata: {name: gold}
spec: {limits: {requestsPerSecond: 100000, burst: 100000, concurrency: 1000}}
`

// moving is a mesh of a gateway and two cells, each with a front that keeps what is written to it.
type moving struct {
	*meshtest.Mesh
	gateway *meshtest.Sidecar
	fronts  map[string]*meshtest.Sidecar

	mu     sync.Mutex
	writes []write // in the order in which the services took them
}

type write struct{ cell, id string }

func newMoving(t *testing.T, options ...meshtest.Option) *moving {
	t.Helper()
	w := &moving{Mesh: meshtest.Start(t, objects+secondCell, options...), fronts: map[string]*meshtest.Sidecar{}}
	w.gateway = w.Gateway(t)
	for _, cell := range []string{"us-1", "us-2"} {
		w.fronts[cell] = w.Workload(t, cell, "front", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			if r.Method == http.MethodPost {
				w.mu.Lock()
				w.writes = append(w.writes, write{cell, string(body)})
				w.mu.Unlock()
			}
			rw.Header().Set("x-cell", cell)
			_, _ = rw.Write(body)
		}))
	}
	return w
}

// load writes until stop is called, which returns what was acknowledged, and what went wrong.
func (w *moving) load(t *testing.T, clients int) (stop func() (acknowledged map[string]bool, failures []string)) {
	t.Helper()
	token := "Bearer " + w.Token(t, "acme")
	var done atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged, failures := map[string]bool{}, []string{}
	for c := range clients {
		wg.Go(func() {
			for i := 0; !done.Load(); i++ {
				id := fmt.Sprintf("%d-%d", c, i)
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.gateway.URL+"/front/rows", strings.NewReader(id))
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("Authorization", token)
				response, err := http.DefaultClient.Do(request)
				mu.Lock()
				if err != nil {
					failures = append(failures, err.Error())
				} else {
					if response.StatusCode == http.StatusOK {
						acknowledged[id] = true
					} else {
						decision, err := w.Admin.Explain(t.Context(), response.Header.Get("x-tenantmesh-decision"))
						failures = append(failures, fmt.Sprint(response.StatusCode, " ", response.Header.Get("x-tenantmesh-reason"), ": ", decision.Detail, ", at ", decision.Point, " in ", decision.Cell, " ", err))
					}
					_ = response.Body.Close()
				}
				mu.Unlock()
			}
		})
	}
	return func() (map[string]bool, []string) {
		done.Store(true)
		wg.Wait()
		return acknowledged, failures
	}
}

// move asks for a transition.
func (w *moving) move(t *testing.T, input adminapi.MoveInput) {
	t.Helper()
	if _, err := w.Admin.Move(t.Context(), "acme", input); err != nil {
		t.Fatal(err)
	}
}

// arrived waits until the tenant rests in a cell.
func (w *moving) arrived(t *testing.T, cell string) adminapi.MoveStatus {
	t.Helper()
	var status adminapi.MoveStatus
	until(t, func() bool {
		var err error
		if status, err = w.Admin.MoveStatus(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		return status.Placement.Cell == cell && !status.Placement.State.Moving() && (status.Placement.Target == "" || status.Placement.State == tenantstore.StateFinal)
	})
	return status
}

// settled waits until nothing is left of a move.
func (w *moving) settled(t *testing.T, cell string) {
	t.Helper()
	until(t, func() bool { return w.arrived(t, cell).Placement.Target == "" })
}

// check checks what the services took against what clients were told.
func (w *moving) check(t *testing.T, acknowledged map[string]bool, failures []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	taken, turns := map[string]int{}, []string{}
	for _, write := range w.writes {
		taken[write.id]++
		if len(turns) == 0 || turns[len(turns)-1] != write.cell {
			turns = append(turns, write.cell)
		}
	}
	for id := range acknowledged {
		if taken[id] == 0 {
			t.Errorf("write %s was acknowledged, and is nowhere", id)
		}
	}
	for id, n := range taken {
		if n > 1 {
			t.Errorf("write %s was applied %d times", id, n)
		}
	}
	if len(failures) > 0 {
		t.Errorf("%d clients' errors, the first: %s", len(failures), failures[0])
	}
	t.Logf("%d writes acknowledged, %d applied, %d errors; the cells took them in the turns %v", len(acknowledged), len(taken), len(failures), turns)
}

// TestMove moves a tenant there and back under a load of writes: no client sees an error, no write is lost or doubled,
// and the cells never take turns within one move.
func TestMove(t *testing.T) {
	w := newMoving(t)
	stop := w.load(t, 4)
	until(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.writes) > 10 })
	const moves = 6
	cells := []string{"us-2", "us-1"}
	for i := range moves {
		to := cells[i%2]
		w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: to, Grace: 1})
		began := time.Now()
		w.arrived(t, to)
		t.Logf("move %d to %s took %v", i+1, to, time.Since(began).Round(time.Millisecond))
		w.settled(t, to)
	}
	acknowledged, failures := stop()
	w.check(t, acknowledged, failures)
	turns := 1
	for i := 1; i < len(w.writes); i++ {
		if w.writes[i].cell != w.writes[i-1].cell {
			turns++
		}
	}
	if turns > moves+1 {
		t.Errorf("the cells took turns %d times in %d moves: two took writes at once", turns, moves)
	}
	answer := w.Get(t, w.gateway.URL+"/front/rows", "acme")
	if answer.Status != 200 || answer.Header.Get("x-cell") != "us-1" {
		t.Errorf("after the moves: %d, served by %s", answer.Status, answer.Header.Get("x-cell"))
	}
}

// stalled stops the sidecar of a cell, so that a move cannot go on, and waits until the fence waits for it.
func (w *moving) stalled(t *testing.T, cell string) adminapi.MoveStatus {
	t.Helper()
	s := w.fronts[cell]
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(s.PID, syscall.SIGCONT) })
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
	var status adminapi.MoveStatus
	until(t, func() bool {
		var err error
		if status, err = w.Admin.MoveStatus(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		return status.Placement.State == tenantstore.StateFencing && len(status.Waits) > 0 && strings.Contains(status.Waits[0].For, "/cell/"+cell+"/workload/front")
	})
	return status
}

func resume(t *testing.T, s *meshtest.Sidecar) {
	t.Helper()
	if err := syscall.Kill(s.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// TestMoveWaitsForWhoCannotBeHeard: a sidecar of the source that is gone stalls the move, and never splits it; once an
// operator shuts it out, the move goes on, and the member may not come back.
func TestMoveWaitsForWhoCannotBeHeard(t *testing.T) {
	w := newMoving(t)
	gone := w.fronts["us-1"]
	status := w.stalled(t, "us-1")
	_, member, _ := strings.Cut(status.Waits[0].Hint, "tenantmesh member fence ")
	post := func() meshtest.Response {
		return meshtest.Do(t, nil, http.MethodPost, w.gateway.URL+"/front/rows", http.Header{"Authorization": {"Bearer " + w.Token(t, "acme")}}, []byte("x"))
	}
	if answer := post(); answer.Reason() != "write_fenced" || answer.Header.Get("Retry-After") == "" {
		t.Errorf("a write while nobody owns the tenant: %d %s", answer.Status, answer.Reason())
	}
	if _, err := w.Admin.FenceMember(t.Context(), member); err != nil {
		t.Fatal(err)
	}
	w.arrived(t, "us-2")
	if answer := post(); answer.Status != 200 || answer.Header.Get("x-cell") != "us-2" {
		t.Errorf("after the move: %d from %q", answer.Status, answer.Header.Get("x-cell"))
	}
	resume(t, gone)
	log := func() string {
		text, err := os.ReadFile(gone.Log)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	until(t, func() bool { return strings.Contains(log(), "was fenced by an operator") })
}

// TestMoveOutlivesTheControlPlane: it is killed in the middle, and the next one goes on.
func TestMoveOutlivesTheControlPlane(t *testing.T) {
	w := newMoving(t)
	stop := w.load(t, 2)
	w.stalled(t, "us-2")
	w.StopControl()
	resume(t, w.fronts["us-2"])
	w.StartControl(t)
	w.arrived(t, "us-2")
	acknowledged, _ := stop() // clients may have been told 503 while it was fenced
	w.check(t, acknowledged, nil)
}

// TestDrainCell empties a cell under a load of writes: its tenants go where they may, one after the other, and who may go nowhere is named.
func TestDrainCell(t *testing.T) {
	w := newMoving(t)
	stop := w.load(t, 2)
	until(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.writes) > 10 })
	plan, err := w.Admin.Drain(t.Context(), "us-1", false)
	if err != nil || len(plan.Tenants) == 0 {
		t.Fatalf("the plan is %+v, %v", plan, err)
	}
	until(t, func() bool {
		plan, err = w.Admin.Drain(t.Context(), "us-1", true)
		return err == nil && len(plan.Tenants) == 0
	})
	acknowledged, failures := stop()
	w.check(t, acknowledged, failures)
	for _, tenant := range []string{"acme", "globex"} {
		if answer := w.Get(t, w.gateway.URL+"/front/rows", tenant); answer.Status != 200 || answer.Header.Get("x-cell") != "us-2" {
			t.Errorf("%s after the drain: %d from %q", tenant, answer.Status, answer.Header.Get("x-cell"))
		}
	}
	plan, err = w.Admin.Drain(t.Context(), "eu-1", false)
	if err != nil || len(plan.Tenants) != 1 || !strings.Contains(plan.Tenants[0].Stuck, "no cell is eligible") {
		t.Errorf("the drain of eu-1 is %+v, %v", plan, err)
	}
}
