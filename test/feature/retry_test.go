package feature

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestRetryStorm: a service that fails, and clients that send each request ten times with one Idempotency-Key: it gets at
// most a quarter more than there are requests.
func TestRetryStorm(t *testing.T) {
	mesh := meshtest.Start(t, objects)
	gateway := mesh.Gateway(t)
	var got atomic.Int64
	mesh.Workload(t, "us-1", "front", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		if n := r.Header.Get("X-Envoy-Attempt-Count"); n != "1" {
			t.Errorf("the gateway's Envoy says attempt %q", n)
		}
		if r.URL.Path != "/well" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	mesh.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))

	// What a client says of repeats is not what Envoy does, or what it says.
	header := http.Header{
		"Authorization": {"Bearer " + mesh.Token(t, "globex")}, "X-Envoy-Retry-On": {"5xx"}, "X-Envoy-Max-Retries": {"10"}, "X-Envoy-Attempt-Count": {"7"},
	}
	for range 20 {
		if r := meshtest.Do(t, nil, http.MethodGet, gateway.URL+"/front/x", header, nil); r.Status != 503 || r.Reason() != "" {
			t.Fatalf("a client that asks for retries: %d %s", r.Status, r.Reason())
		}
	}
	if n := got.Swap(0); n != 20 {
		t.Errorf("20 requests are %d at the service", n)
	}

	const requests, times, workers = 500, 10, 10
	var refused atomic.Int64
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	for n := range workers {
		wg.Go(func() {
			for i := range requests / workers {
				for range times {
					own := http.Header{"Authorization": header["Authorization"], "Idempotency-Key": {fmt.Sprint(n, "-", i)}}
					r := meshtest.Do(t, client, http.MethodPost, gateway.URL+"/front/x", own, nil)
					switch {
					case r.Status == 503 && r.Reason() == "":
					case r.Status == 429 && r.Reason() == "retry_budget" && r.Header.Get("Retry-After") != "":
						refused.Add(1)
					default:
						t.Errorf("%d %s", r.Status, r.Reason())
					}
				}
			}
		})
	}
	wg.Wait()
	if n := got.Load(); n < requests || n > requests*5/4 || n+refused.Load() != requests*times {
		t.Errorf("%d requests, each sent %d times, are %d at the service and %d refused", requests, times, n, refused.Load())
	}
	if r := mesh.Get(t, gateway.URL+"/front/well", "globex"); r.Status != 200 {
		t.Errorf("a first try: %d %s", r.Status, r.Reason())
	}
	if r := mesh.Get(t, gateway.URL+"/front/well", "acme", "Idempotency-Key", "0-0"); r.Status != 200 {
		t.Errorf("another tenant: %d %s", r.Status, r.Reason())
	}
}

// TestUntakenIsSentAgain: of two instances one dies; what cannot be sent to it goes to the other, and the sidecar there
// knows that it is a second attempt.
func TestUntakenIsSentAgain(t *testing.T) {
	mesh := meshtest.Start(t, objects)
	gateway := mesh.Gateway(t)
	var second atomic.Int64
	service := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Envoy-Attempt-Count") == "2" {
			second.Add(1)
		}
	})
	mesh.Workload(t, "us-1", "front", service)
	other := mesh.WorkloadAt(t, "us-1", "front", "front-2", service)
	mesh.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1, retryShare: -1}"))
	if err := syscall.Kill(other.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { // its Envoy has gone with it
		conn, err := net.Dial("tcp", strings.TrimPrefix(other.URL, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	for i := range 200 {
		if r := mesh.Get(t, gateway.URL+"/front/x", "globex", "X-Envoy-Attempt-Count", "9"); r.Status != 200 {
			t.Errorf("request %d: %d %s %s", i, r.Status, r.Reason(), r.Body)
		}
	}
	if second.Load() == 0 {
		t.Error("nothing was sent again")
	}
}
