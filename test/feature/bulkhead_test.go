package feature

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestBulkhead: exports of which none ends fill the connections of their class and are refused past them, however their
// path is spelled, while reads go on; once they end, exports do too. A service does not see how it is done.
func TestBulkhead(t *testing.T) {
	mesh := meshtest.Start(t, objects)
	gateway := mesh.Gateway(t)
	var open, most atomic.Int64
	var held atomic.Bool
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	mesh.Workload(t, "us-1", "front", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Tenantmesh-Class") != "" {
			t.Error("the service sees the class")
		}
		if r.Method != http.MethodPost || !held.Load() {
			return
		}
		most.Store(max(most.Load(), open.Add(1)))
		defer open.Add(-1)
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	mesh.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1, classes: {exports: {concurrency: -1}}}"))
	front := func(bulkhead string) {
		mesh.Apply(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec:
  expose: [{pathPrefix: /front, stripPrefix: true}]
  classes: [{name: exports, methods: [POST], paths: ["/documents/*/export"]`+bulkhead+`}]
`)
	}
	header := http.Header{"Authorization": {"Bearer " + mesh.Token(t, "globex")}}
	export := func(path string) meshtest.Response {
		return meshtest.Do(t, nil, http.MethodPost, gateway.URL+"/front"+path, header, nil)
	}
	const times, pending = 20, 3
	front(", bulkhead: {maxConnections: 2, maxPendingRequests: 3, maxRequests: 2}")
	held.Store(true)
	var full, done atomic.Int64
	var wg sync.WaitGroup
	for i := range times {
		wg.Go(func() {
			path := "/documents/1/export"
			if i%2 == 0 {
				path = "/documents/1/%65xport"
			}
			switch r := export(path); {
			case r.Status == 200:
				done.Add(1)
			case r.Status == 503 && r.Reason() == "overloaded" && r.Header.Get("Retry-After") == "1":
				full.Add(1)
			default:
				t.Errorf("an export: %d %s, Retry-After %q", r.Status, r.Reason(), r.Header.Get("Retry-After"))
			}
		})
	}
	<-arrived
	until(t, func() bool { return full.Load() >= times-pending-2*2 })
	for range 50 {
		if r := mesh.Get(t, gateway.URL+"/front/documents/1", "globex"); r.Status != 200 {
			t.Fatalf("a read while exports are full: %d %s", r.Status, r.Reason())
		}
	}
	// Nobody but the sidecar says which class it is.
	if r := mesh.Get(t, gateway.URL+"/front/documents/1", "globex", "X-Tenantmesh-Class", "exports"); r.Status != 200 {
		t.Errorf("a read that says that it is an export: %d %s", r.Status, r.Reason())
	}
	held.Store(false)
	close(release)
	wg.Wait()
	if most.Load() > 2 || done.Load() < 2 || done.Load()+full.Load() != times {
		t.Errorf("%d at once, %d done, %d refused", most.Load(), done.Load(), full.Load())
	}
	if r := export("/documents/1/export"); r.Status != 200 {
		t.Errorf("an export after the others: %d %s", r.Status, r.Reason())
	}
	// The bulkhead comes and goes under load, and nobody is refused.
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r := export("/documents/1/export"); r.Status != 200 {
				t.Errorf("an export while the bulkhead comes and goes: %d %s %s", r.Status, r.Reason(), r.Body)
			}
		}
	})
	for range 3 {
		front("")
		front(", bulkhead: {}")
	}
	close(stop)
	wg.Wait()
}
