package feature

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestWorkloadAPIAway: with an identity provider that is not ours (an intermediate CA, SPIFFE IDs of another scheme), SVIDs
// are rotated, the Workload API goes away and comes back, and no request fails for it; services call each other as before.
func TestWorkloadAPIAway(t *testing.T) {
	provider := &meshtest.Provider{TTL: 8 * time.Second}
	ids := func(name string) string {
		return `spiffeIDs: [{cell: us-1, id: "` + provider.ID("us-1", name) + `"}]`
	}
	mesh := strings.NewReplacer(
		"  dependsOn: [back, closed]\n", "  dependsOn: [back, closed]\n  "+ids("front")+"\n",
		"metadata: {name: back}\nspec: {}", "metadata: {name: back}\nspec: {"+ids("back")+"}",
		"spiffe://mesh.example/cell/*/workload/front", "spiffe://mesh.example/ns/*/sa/front",
	).Replace(objects)
	w := &world{Mesh: meshtest.Start(t, mesh, meshtest.ProvidedBy(provider))}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(w.serveFront))
	w.back = w.Workload(t, "us-1", "back", http.HandlerFunc(w.serveBack))
	proxy, err := url.Parse(w.front.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	w.proxy.Store(proxy)
	w.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	target := w.gateway.URL + "/front/call?" + url.Values{"to": {"http://back/x"}, "forward": {"traceparent"}}.Encode()
	token := "Bearer " + w.Token(t, "globex")
	var stop atomic.Bool
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				r := meshtest.Do(t, nil, http.MethodGet, target, http.Header{"Authorization": {token}}, nil)
				sent.Add(1)
				if r.Status != http.StatusOK {
					failed.Add(1)
					t.Errorf("%d %s %s", r.Status, r.Reason(), r.Body)
				}
			}
		})
	}
	rotated := func() {
		before := serial(t, w.front)
		until(t, func() bool { return serial(t, w.front) != before || failed.Load() > 0 })
	}
	rotated()
	provider.Stop()
	during := sent.Load()
	until(t, func() bool { return sent.Load() > during+200 || failed.Load() > 0 })
	provider.Start(t)
	rotated()
	stop.Store(true)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), sent.Load())
	}
	s := want(t, "a service's call", w.call(t, "globex", "http://back/x", "traceparent"), 200, "")
	if xfcc := s.Header.Get("x-forwarded-client-cert"); !strings.Contains(xfcc, "URI="+provider.ID("us-1", "front")) {
		t.Errorf("back was called by %q", xfcc)
	}
}
