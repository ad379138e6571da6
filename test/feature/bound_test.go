package feature

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const jobs = objects + `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: reports}
spec: {dependsOn: [back, open], boundTenant: acme}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: open}
spec: {tenancy: untenanted}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: reports}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/reports"], tenants: {own: true}, targets: [{workload: back}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: reports-open}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/reports"], targets: [{workload: open}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: front-open}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/front"], targets: [{workload: open}]}
`

// TestBoundWorkload: a job that serves nobody signs for the one tenant that it is bound to, in its cell, and is let in for that as its own;
// and a target without tenants needs none.
func TestBoundWorkload(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, jobs)}
	w.back = w.Workload(t, "us-1", "back", http.HandlerFunc(w.serveBack))
	w.Workload(t, "us-1", "open", http.HandlerFunc(tell))
	reports := w.Workload(t, "us-1", "reports", http.NotFoundHandler())
	elsewhere := w.Workload(t, "eu-1", "reports", http.NotFoundHandler())
	from := func(s *meshtest.Sidecar, to string, header http.Header) meshtest.Response {
		proxy, err := url.Parse(s.Outbound)
		if err != nil {
			t.Fatal(err)
		}
		return meshtest.Do(t, &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}, http.MethodGet, to, header, nil)
	}
	s := want(t, "a job's own call", from(reports, "http://back/x", http.Header{"X-Tenant-Id": {"globex"}}), 200, "")
	if s.Header.Get("x-tenant-id") != "acme" {
		t.Errorf("back saw tenant %q, want acme", s.Header.Get("x-tenant-id"))
	}
	s = want(t, "a call to who needs no tenant", from(reports, "http://open/x", nil), 200, "")
	if s.Path != "/x" {
		t.Errorf("open saw %+v", s)
	}
	// A cell that does not own a tenant is not even told of it.
	want(t, "from a cell that does not own the tenant", from(elsewhere, "http://back/x", nil), 403, "tenant_unknown")

	// What reached back is in the ledger, under acme.
	until(t, func() bool {
		records, err := w.Admin.Usage(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		requests := int64(0)
		for _, r := range records {
			if r.Workload == "back" {
				requests += r.Requests - r.Refused
				if r.BytesSent == 0 || r.Duration == 0 {
					t.Errorf("a record without bytes or duration: %+v", r)
				}
			}
		}
		return requests == 1
	})

	// Bound to another, it signs for that one, with the key that it has; bound to none, for none.
	bind := func(spec string) {
		w.Apply(t, "apiVersion: tenantmesh.dev/v1alpha1\nkind: Workload\nmetadata: {name: reports}\nspec: {dependsOn: [back, open]"+spec+"}\n")
	}
	bind(", boundTenant: globex")
	if s := want(t, "a job that is bound to another", from(reports, "http://back/x", nil), 200, ""); s.Header.Get("x-tenant-id") != "globex" {
		t.Errorf("back saw tenant %q, want globex", s.Header.Get("x-tenant-id"))
	}
	bind("")
	want(t, "a job that is bound to nobody", from(reports, "http://back/x", nil), 403, "context_missing")
}

// TestDrainLetsFinish: a gateway that drains lets nobody in any more, and what it had let in finishes.
func TestDrainLetsFinish(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects, meshtest.Drain(20*time.Second))}
	w.gateway = w.Gateway(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		tell(rw, r)
	}))
	slow := make(chan meshtest.Response, 1)
	go func() { slow <- w.Get(t, w.gateway.URL+"/front/slow", "acme") }()
	<-arrived
	if err := syscall.Kill(w.gateway.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.gateway.URL, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	if len(slow) > 0 || syscall.Kill(w.gateway.PID, 0) != nil {
		t.Error("the drain did not wait for an open request")
	}
	close(release)
	r := <-slow
	want(t, "a request that was open at the drain", r, 200, "")
	until(t, func() bool { return syscall.Kill(w.gateway.PID, 0) != nil })
}

// TestDrain: SIGTERM takes a sidecar out of the mesh before it ends, and it ends with 0.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	if err := syscall.Kill(w.back.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		snapshot, err := w.Store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range snapshot.Objects {
			if o.Kind == tenantstore.KindEndpoint && o.Endpoint.Workload == "back" && o.Endpoint.Ready {
				return false
			}
		}
		return true
	})
	until(t, func() bool { return syscall.Kill(w.back.PID, 0) != nil })
	log, err := os.ReadFile(w.back.Log)
	if err != nil || strings.Contains(string(log), "error:") {
		t.Errorf("it did not end cleanly: %v\n%s", err, log)
	}
	// It left: no move waits for it, and what its disk remembers is not served again.
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range snapshot.Objects {
		if o.Kind == tenantstore.KindMember && o.Member.Left != (o.Member.Workload == "back") {
			t.Errorf("the member of %s: left is %v", o.Member.Principal, o.Member.Left)
		}
	}
	if _, err := os.Stat(filepath.Join(w.back.Dir, "last-good-state.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the last good state is still there (%v)", err)
	}
}
