package feature

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestBreaker: a store that fails for one tenant, in each of the ways in which one can, is shut to that tenant alone, and
// open to it again once it works.
func TestBreaker(t *testing.T) {
	var broken atomic.Bool
	var asked atomic.Int64
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "disabled" {
			_, _ = w.Write([]byte("{}"))
			return
		}
		asked.Add(1)
		switch way := r.Header.Get("X-Way"); {
		case !broken.Load():
			_, _ = w.Write([]byte("{}"))
		case way == "reset":
			panic(http.ErrAbortHandler)
		default:
			status, _ := strconv.Atoi(way)
			w.WriteHeader(status)
		}
	}))
	defer store.Close()
	u, err := url.Parse(store.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(u.Host)
	w := newWorld(t)
	w.Apply(t, fmt.Sprintf(`
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: store}
spec: {hosts: [127.0.0.1], port: %s, breaker: {failures: 3, wait: 3s}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec:
  expose: [{pathPrefix: /front, stripPrefix: true}]
  dependsOn: [store, back]
  deliverContext: true
---
`, port)+globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	call := func(tenant, key, way string) meshtest.Response {
		return w.call(t, tenant, store.URL+"/", "Txn-Token", "X-Key="+key, "X-Way="+way)
	}
	for _, way := range []string{"503", "reset"} {
		broken.Store(true)
		refused := meshtest.Response{}
		for range 20 {
			// What came of a call is known once its log entry is here: a few more may be let through.
			if refused = call("globex", "disabled", way); refused.Reason() == "breaker_open" {
				break
			}
		}
		want(t, "what keeps failing by "+way, refused, 503, "breaker_open")
		seconds, err := strconv.Atoi(refused.Header.Get("Retry-After"))
		if err != nil || seconds < 1 || seconds > 4 {
			t.Errorf("Retry-After is %q", refused.Header.Get("Retry-After"))
		}
		want(t, "another tenant, to the same store", call("acme", "good", way), 200, "")
		want(t, "the same tenant, to another workload", w.call(t, "globex", "http://back/", "Txn-Token"), 200, "")
		if metric(t, w.front, "tenantmesh_breakers_open") != 1 {
			t.Error("the metrics do not say that one pair is open")
		}
		before := asked.Load()
		want(t, "while it is open", call("globex", "disabled", way), 503, "breaker_open")
		if asked.Load() != before {
			t.Error("the store was asked all the same")
		}
		broken.Store(false)
		<-time.After(time.Duration(seconds) * time.Second) // as long as the answer said
		want(t, "once it works", call("globex", "disabled", way), 200, "")
		until(t, func() bool { return metric(t, w.front, "tenantmesh_breakers_open") == 0 })
	}
	broken.Store(true)
	for range 20 {
		if r := call("globex", "disabled", "429"); r.Status != 429 || r.Reason() != "" {
			t.Fatalf("a store that says 429: %d %s", r.Status, r.Reason())
		}
	}
}
