package feature

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

const rowsWorkload = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: rows}
spec:
  expose: [{pathPrefix: /rows}]
  tenantData: {hooks: {export: /rows/data, import: /rows/data, digest: /rows/digest, delete: /rows/data}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways-rows}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: rows}]}
`

// rows is a service that keeps what a tenant writes, with the hooks to move it.
type rows struct {
	mu     sync.Mutex
	data   map[string]map[string]int // tenant -> row -> how often it was written
	broken atomic.Bool               // import fails
	lies   atomic.Bool               // import loses a row
}

func (s *rows) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tenant := r.Header.Get("x-tenant-id")
	mine := s.data[tenant]
	switch r.Method + " " + r.URL.Path {
	case "GET /rows/data":
		_ = json.NewEncoder(w).Encode(mine)
	case "GET /rows/digest":
		keys := make([]string, 0, len(mine))
		for key, n := range mine {
			keys = append(keys, fmt.Sprint(key, "=", n))
		}
		slices.Sort(keys)
		fmt.Fprint(w, len(keys), strings.Join(keys, ","))
	case "PUT /rows/data":
		if s.broken.Load() {
			http.Error(w, "disk full", http.StatusInternalServerError)
			return
		}
		var imported map[string]int
		if err := json.NewDecoder(r.Body).Decode(&imported); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if s.lies.Load() {
			for key := range imported {
				delete(imported, key)
				break
			}
		}
		s.data[tenant] = imported
	case "DELETE /rows/data":
		delete(s.data, tenant)
	default:
		if mine == nil {
			mine = map[string]int{}
			s.data[tenant] = mine
		}
		mine[r.URL.Path]++
	}
}

// kept is what it keeps of acme.
func (s *rows) kept() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := map[string]int{}
	for key, n := range s.data["acme"] {
		copied[key] = n
	}
	return copied
}

// TestMoveCopiesData moves a tenant with its rows: a broken hook and a lying one stall the move, say so, and lose
// nothing; nobody but the mover may call a hook; and the source's copy is deleted at the end.
func TestMoveCopiesData(t *testing.T) {
	w := &moving{Mesh: meshtest.Start(t, objects+secondCell+rowsWorkload)}
	w.gateway = w.Gateway(t)
	from, to := &rows{data: map[string]map[string]int{}}, &rows{data: map[string]map[string]int{}}
	w.Workload(t, "us-1", "rows", from)
	w.Workload(t, "us-2", "rows", to)
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "acme")}}
	write := func(n int) {
		t.Helper()
		if answer := meshtest.Do(t, nil, http.MethodPost, fmt.Sprint(w.gateway.URL, "/rows/", n), header, nil); answer.Status != 200 {
			t.Errorf("write %d: %d %s", n, answer.Status, answer.Reason())
		}
	}
	for n := range 20 {
		write(n)
	}
	want(t, "a client at a hook", meshtest.Do(t, nil, http.MethodGet, w.gateway.URL+"/rows/data", header, nil), 403, "denied_by_policy")
	want(t, "a client that deletes by a hook", meshtest.Do(t, nil, http.MethodDelete, w.gateway.URL+"/rows/data", header, nil), 403, "denied_by_policy")

	waitsFor := func(text string) {
		t.Helper()
		until(t, func() bool {
			status, err := w.Admin.MoveStatus(t.Context(), "acme")
			return err == nil && len(status.Waits) > 0 && strings.Contains(status.Waits[0].For, text)
		})
	}
	to.broken.Store(true)
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
	waitsFor("PUT /rows/data in us-2 answers 500")
	write(20) // it is served meanwhile
	to.broken.Store(false)
	to.lies.Store(true)
	waitsFor("equal digests of workload rows")
	write(21)
	to.lies.Store(false)
	w.arrived(t, "us-2")
	if moved := to.kept(); len(moved) != 22 {
		t.Errorf("%d rows moved, want 22: %v", len(moved), moved)
	}
	until(t, func() bool {
		status, err := w.Admin.MoveStatus(t.Context(), "acme")
		return err == nil && status.Move.Outcome == tenantstore.MoveDone
	})
	if left := from.kept(); len(left) != 0 {
		t.Errorf("the source keeps %v", left)
	}
	write(22)
	if moved := to.kept(); len(moved) != 23 {
		t.Errorf("%d rows after the move, want 23", len(moved))
	}
}
