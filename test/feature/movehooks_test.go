package feature

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// spoiled is a rows service of whose hooks one is out of order.
type spoiled struct {
	*rows

	mu  sync.Mutex
	how map[string]fault // by method and path
}

type fault int

const (
	sound fault = iota
	hangs
	fails
	lies
)

// spoil sets how one hook is, and mends the others.
func (s *spoiled) spoil(hook string, how fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.how = map[string]fault{hook: how}
}

func (s *spoiled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	how := s.how[r.Method+" "+r.URL.Path]
	s.mu.Unlock()
	switch how {
	case hangs:
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that its client hung up
		<-r.Context().Done()
	case fails:
		http.Error(w, "disk full", http.StatusInternalServerError)
	case lies:
		answer := httptest.NewRecorder()
		s.rows.ServeHTTP(answer, r)
		fmt.Fprint(w, "not ", answer.Body)
	default:
		s.rows.ServeHTTP(w, r)
	}
}

// TestMoveWaitsForHooks: a hook that hangs, fails for ever or lies about its digest stalls a move, which says which one
// it is and what to do; the tenant is served where it was, and a move that is given up has lost nothing.
func TestMoveWaitsForHooks(t *testing.T) {
	w := &moving{Mesh: meshtest.Start(t, objects+secondCell+rowsWorkload)}
	w.gateway = w.Gateway(t)
	cells := map[string]*spoiled{}
	for _, cell := range []string{"us-1", "us-2"} {
		cells[cell] = &spoiled{rows: &rows{data: map[string]map[string]int{}}}
		w.Workload(t, cell, "rows", cells[cell])
	}
	written := 0
	write := func(t *testing.T) {
		t.Helper()
		header := http.Header{"Authorization": {"Bearer " + w.Token(t, "acme")}}
		if answer := meshtest.Do(t, nil, http.MethodPost, fmt.Sprint(w.gateway.URL, "/rows/", written), header, nil); answer.Status != 200 {
			t.Errorf("write %d: %d %s", written, answer.Status, answer.Reason())
		}
		written++
	}
	waitsFor := func(t *testing.T, state tenantstore.MoveState, text string) (status adminapi.MoveStatus) {
		t.Helper()
		until(t, func() bool {
			var err error
			status, err = w.Admin.MoveStatus(t.Context(), "acme")
			return err == nil && status.Placement.State == state && len(status.Waits) > 0 && strings.Contains(status.Waits[0].For, text)
		})
		if status.Waits[0].Hint == "" {
			t.Errorf("it does not say what to do about %s", status.Waits[0].For)
		}
		return status
	}
	write(t)
	for _, test := range []struct {
		cell, hook string
		how        fault
		want       string
		fences     int
	}{
		{"us-1", "GET /rows/data", hangs, "GET /rows/data in us-1 hangs", 1},
		{"us-2", "PUT /rows/data", hangs, "PUT /rows/data in us-2 hangs", 1},
		{"us-1", "GET /rows/data", fails, "GET /rows/data in us-1 answers 500", 1},
		{"us-2", "PUT /rows/data", fails, "PUT /rows/data in us-2 answers 500", 2},
		{"us-2", "GET /rows/digest", lies, "equal digests of workload rows", 1},
		{"us-1", "GET /rows/digest", lies, "equal digests of workload rows", 1},
	} {
		t.Run(test.cell+" "+test.want, func(t *testing.T) {
			cells[test.cell].spoil(test.hook, test.how)
			w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
			// The fence steps back, so that the tenant is served, and comes again.
			until(t, func() bool { return waitsFor(t, tenantstore.StateMigrating, test.want).Move.Fences >= test.fences })
			write(t)
			w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveAbort})
			cells[test.cell].spoil("", sound)
			w.settled(t, "us-1")
			write(t)
			if kept := cells["us-1"].kept(); len(kept) != written {
				t.Errorf("%d rows are kept of %d", len(kept), written)
			}
			if left := cells["us-2"].kept(); len(left) != 0 {
				t.Errorf("what was given up leaves %v in us-2", left)
			}
		})
	}
	deleted := func(what string) (n int) {
		events, err := w.Store.Events(t.Context(), 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if strings.Contains(e.Detail, what) {
				n++
			}
		}
		return n
	}
	if n := deleted("given up: what it brought to us-2 is deleted"); n != 6 {
		t.Errorf("the ledger has %d deletions of what was given up, want 6", n)
	}
	// A copy that cannot be deleted keeps nobody but the next move waiting, and can be left.
	cells["us-2"].spoil("DELETE /rows/data", fails)
	cells["us-1"].spoil("GET /rows/digest", lies)
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
	until(t, func() bool { return waitsFor(t, tenantstore.StateMigrating, "equal digests").Move.Fences > 0 })
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveAbort})
	cells["us-1"].spoil("", sound)
	if status := waitsFor(t, tenantstore.StateFinal, "DELETE /rows/data in us-2 answers 500"); status.Placement.Cell != "us-1" || !strings.Contains(status.Waits[0].Hint, "--abort") {
		t.Errorf("given up: %+v", status)
	}
	write(t)
	for transition, want := range map[tenantstore.Transition]string{tenantstore.MoveStart: "must not have given up a move", tenantstore.MoveRollback: "the move is given up already"} {
		if _, err := w.Admin.Move(t.Context(), "acme", adminapi.MoveInput{Transition: transition, To: "us-2"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s of what was given up: %v, want %q", transition, err, want)
		}
	}
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveAbort})
	w.settled(t, "us-1")
	cells["us-2"].spoil("", sound)
	if n := deleted("given up: what it brought to us-2 stays there"); n != 1 {
		t.Errorf("the ledger has %d copies that were left, want 1", n)
	}
	// Behind the cutover only the end of the move waits, for the deletion at the source.
	cells["us-1"].spoil("DELETE /rows/data", fails)
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
	waitsFor(t, tenantstore.StateFinal, "DELETE /rows/data in us-1 answers 500")
	write(t)
	cells["us-1"].spoil("", sound)
	w.settled(t, "us-2")
	if left, moved := cells["us-1"].kept(), cells["us-2"].kept(); len(left) != 0 || len(moved) != written {
		t.Errorf("%d rows are left in us-1, and %d of %d are in us-2", len(left), len(moved), written)
	}
}
