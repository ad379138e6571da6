package feature

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

const strategyWorkloads = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: docs}
spec:
  expose: [{pathPrefix: /docs}]
  tenantData: {strategy: dualWrite, hooks: {export: /data, import: /data, digest: /data/digest, delete: /data}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: events}
spec:
  expose: [{pathPrefix: /events}]
  tenantData: {strategy: catchUp, hooks: {export: /data, import: /data, digest: /data/digest, delete: /data}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: files}
spec:
  expose: [{pathPrefix: /files}]
  tenantData: {commands: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways-stores}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: docs}, {workload: events}, {workload: files}]}
`

// row is what a store keeps under one key, with the key of the write that made it.
type row struct {
	Key, Value, Write string
	Applied           int // how often a write was applied, not repeated
}

// book is a store of one tenant's rows. It knows a repeated write by its Idempotency-Key, answers exports by cursor, and
// refuses hooks that come late by their fencing token.
type book struct {
	mu     sync.Mutex
	cell   string
	own    bool // it makes IDs of its own (catchUp)
	log    []row
	fence  int64
	copies atomic.Int64 // repetitions of writes that came here as a replica
	cursor atomic.Int64 // exports that asked for what changed since
}

func (b *book) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.URL.Path == "/data" && r.Method != http.MethodGet {
		token, err := strconv.ParseInt(r.Header.Get("x-tenantmesh-fence"), 10, 64)
		if err != nil || token < b.fence {
			http.Error(w, "late", http.StatusConflict)
			return
		}
		b.fence = token
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /data":
		since, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
		if r.URL.Query().Has("cursor") {
			b.cursor.Add(1)
		}
		if b.own {
			w.Header().Set("x-tenantmesh-cursor", strconv.Itoa(len(b.log)))
		}
		_ = json.NewEncoder(w).Encode(b.log[since:])
	case "PUT /data", "PATCH /data":
		var rows []row
		if err := json.NewDecoder(r.Body).Decode(&rows); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if r.Method == http.MethodPut {
			b.log = nil
		}
		b.log = append(b.log, rows...)
	case "DELETE /data":
		b.log = nil
	case "GET /data/digest":
		fmt.Fprint(w, b.digest())
	default:
		if r.Method == http.MethodGet {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		b.write(row{r.URL.Path, string(body), r.Header.Get("Idempotency-Key"), 1})
		w.Header().Set("x-cell", b.cell)
	}
}

func (b *book) write(r row) {
	if b.own {
		r.Key = fmt.Sprintf("%s/%s-%d", r.Key, b.cell, len(b.log))
	}
	for _, old := range b.log {
		if !b.own && old.Write == r.Write && r.Write != "" {
			b.copies.Add(1)
			return
		}
	}
	b.log = append(b.log, r)
}

func (b *book) digest() string {
	var lines []string
	for _, r := range b.log {
		lines = append(lines, fmt.Sprint(r))
	}
	slices.Sort(lines)
	return fmt.Sprint(len(lines), " ", crc(strings.Join(lines, "\n")))
}

func crc(text string) string {
	sum := 0
	for _, c := range text {
		sum = (sum*31 + int(c)) % 1_000_000_007
	}
	return strconv.Itoa(sum)
}

func (b *book) values() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	values := map[string]int{}
	for _, r := range b.log {
		values[r.Value]++
	}
	return values
}

// files is a service that keeps each row in a file; it has no hooks, and scripts beside it.
type files struct{ dir string }

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		return
	}
	dir := filepath.Join(f.dir, r.Header.Get("x-tenant-id"))
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, string(body)), body, 0o600)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (f *files) values(t *testing.T) map[string]int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.dir, "acme"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	values := map[string]int{}
	for _, e := range entries {
		values[e.Name()]++
	}
	return values
}

// scripts are the commands beside files.
func (f *files) scripts(t *testing.T) (flags []string) {
	t.Helper()
	for name, text := range map[string]string{
		"export": "mkdir -p \"$DIR/$TENANTMESH_TENANT\"; cd \"$DIR/$TENANTMESH_TENANT\"; for f in *; do [ -e \"$f\" ] && cat \"$f\" && echo; done; exit 0",
		"import": "cd \"$DIR\"; rm -rf \"$TENANTMESH_TENANT\"; mkdir \"$TENANTMESH_TENANT\"; while read -r name; do printf %s \"$name\" > \"$TENANTMESH_TENANT/$name\"; done",
		"delete": "rm -rf \"${DIR:?}/$TENANTMESH_TENANT\"",
	} {
		path := filepath.Join(f.dir, name+".sh")
		if err := os.WriteFile(path, []byte("DIR="+f.dir+"\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--data-"+name, "/bin/sh "+path)
	}
	return flags
}

// TestStrategies moves a tenant whose data follows in three ways, under writes that come by two gateways: each
// acknowledged write is in the new owner once, no client sees an error, and the source keeps nothing.
func TestStrategies(t *testing.T) {
	w := &moving{Mesh: meshtest.Start(t, objects+secondCell+strategyWorkloads)}
	gateways := []*meshtest.Sidecar{w.GatewayAt(t, "gateway-1"), w.GatewayAt(t, "gateway-2")}
	docs, events, kept := map[string]*book{}, map[string]*book{}, map[string]*files{}
	for _, cell := range []string{"us-1", "us-2"} {
		docs[cell], events[cell], kept[cell] = &book{cell: cell}, &book{cell: cell, own: true}, &files{t.TempDir()}
		w.Workload(t, cell, "docs", docs[cell])
		w.Workload(t, cell, "events", events[cell])
		w.Workload(t, cell, "files", kept[cell], kept[cell].scripts(t)...)
	}
	names := []string{"docs", "events", "files"}
	var mu sync.Mutex
	var failures []string
	acknowledged := map[string][]string{}
	token := "Bearer " + w.Token(t, "acme")
	var done atomic.Bool
	var wg sync.WaitGroup
	for c, name := range append(names, names...) {
		wg.Go(func() {
			for i := 0; !done.Load(); i++ {
				value := fmt.Sprintf("%s-%d-%d", name, c, i)
				answer := meshtest.Do(t, nil, http.MethodPut, fmt.Sprintf("%s/%s/%d", gateways[c%2].URL, name, i%7), http.Header{"Authorization": {token}}, []byte(value))
				mu.Lock()
				if answer.Status == 200 {
					acknowledged[name] = append(acknowledged[name], value)
				} else {
					decision, _ := w.Admin.Explain(t.Context(), answer.Header.Get("x-tenantmesh-decision"))
					failures = append(failures, fmt.Sprintf("%s %d %s: %s", value, answer.Status, answer.Reason(), decision.Detail))
				}
				mu.Unlock()
				pauseFor(3 * time.Millisecond)
			}
		})
	}
	wrote := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged["docs"]) >= n && len(acknowledged["events"]) >= n && len(acknowledged["files"]) >= n
	}
	until(t, func() bool { return wrote(30) })
	w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1, Hold: 10})
	seen := map[string]tenantstore.Copy{}
	var status adminapi.MoveStatus
	t.Cleanup(func() {
		t.Logf("at last: %+v %+v, next %s, %+v", *status.Placement, status.Waits, status.Next, status.Copies)
	})
	until(t, func() bool {
		var err error
		status, err = w.Admin.MoveStatus(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range status.Copies {
			if status.Placement.State != tenantstore.StateFinal {
				seen[c.Workload] = c
			}
		}
		return status.Placement.Cell == "us-2" && status.Placement.State == tenantstore.StateFinal
	})
	mu.Lock()
	sofar := len(acknowledged["docs"])
	mu.Unlock()
	until(t, func() bool { return wrote(sofar + 10) })
	done.Store(true)
	wg.Wait()
	for _, f := range failures {
		t.Errorf("a client's error: %s", f)
	}
	for name, values := range map[string]map[string]int{"docs": docs["us-2"].values(), "events": events["us-2"].values(), "files": kept["us-2"].values(t)} {
		for _, value := range acknowledged[name] {
			if values[value] != 1 {
				t.Errorf("%s is in the new owner %d times", value, values[value])
			}
		}
		if len(values) != len(acknowledged[name]) {
			t.Errorf("%s: the new owner has %d rows, and %d writes were acknowledged", name, len(values), len(acknowledged[name]))
		}
	}
	if events["us-1"].cursor.Load() == 0 {
		t.Error("events never followed by cursor")
	}
	if seen["docs"].Resyncs != 0 {
		t.Errorf("the writes of docs began anew %d times: its journal was of no use", seen["docs"].Resyncs)
	}
	t.Logf("%d, %d and %d writes; the copies at last: %+v", len(acknowledged["docs"]), len(acknowledged["events"]), len(acknowledged["files"]), seen)
	w.settled(t, "us-2")
	if left := len(docs["us-1"].values()) + len(events["us-1"].values()) + len(kept["us-1"].values(t)); left != 0 {
		t.Errorf("the source keeps %d rows", left)
	}
}

// pauseFor lets others work for a while.
func pauseFor(d time.Duration) { <-time.After(d) }
