package feature

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

func TestLimits(t *testing.T) {
	w := newWorld(t)
	front := w.gateway.URL + "/front/x"
	var limited *meshtest.Response
	for i := range 40 {
		r := w.Get(t, front, "globex")
		if r.Status == http.StatusTooManyRequests {
			want(t, "over the burst", r, 429, "rate_limited")
			limited = &r
			if i < 20 {
				t.Errorf("request %d of a burst of 20 is refused", i+1)
			}
			break
		}
	}
	if limited == nil {
		t.Fatal("40 requests at once pass a burst of 20")
	}
	if !strings.HasPrefix(limited.Header.Get("RateLimit-Policy"), `"tenant-rate";q=20;w=2;pk=:`) || !strings.HasPrefix(limited.Header.Get("RateLimit"), `"tenant-rate";r=0;t=`) {
		t.Errorf("RateLimit-Policy is %q, RateLimit %q", limited.Header.Get("RateLimit-Policy"), limited.Header.Get("RateLimit"))
	}
	want(t, "acme at the same time", w.Get(t, front, "acme"), 200, "")
	seconds, err := strconv.Atoi(limited.Header.Get("Retry-After"))
	if err != nil || seconds < 1 {
		t.Fatalf("Retry-After is %q", limited.Header.Get("Retry-After"))
	}
	<-time.After(time.Duration(seconds) * time.Second) // as long as the answer said
	want(t, "after Retry-After", w.Get(t, front, "globex"), 200, "")
}

// TestClassConcurrency: one export at a time, and its lease ends with its stream, also when the client hangs up.
func TestClassConcurrency(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("slow") {
			arrived <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		tell(rw, r)
	}))
	export := w.gateway.URL + "/front/1/export"
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "globex")}}
	post := func(ctx context.Context, query string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, export+query, nil)
		if err != nil {
			return err
		}
		request.Header = header
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d %s", response.StatusCode, response.Header.Get("x-tenantmesh-reason"))
		}
		return nil
	}
	for _, hangUp := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- post(ctx, "?slow") }()
		select {
		case <-arrived:
		case err := <-first:
			t.Fatalf("the first export did not arrive: %v", err)
		}
		r := meshtest.Do(t, nil, http.MethodPost, export, header, nil)
		want(t, "a second export", r, 429, "concurrency_limited")
		if hangUp {
			cancel()
		} else {
			release <- struct{}{}
		}
		if err := <-first; (err == nil) == hangUp {
			t.Errorf("the first export, hung up %v: %v", hangUp, err)
		}
		cancel()
		until(t, func() bool { return leases(t, w.front) == 0 && leases(t, w.gateway) == 0 })
		if err := post(t.Context(), ""); err != nil {
			t.Errorf("after the first one ended (hung up %v): %v", hangUp, err)
		}
		until(t, func() bool { return leases(t, w.front) == 0 && leases(t, w.gateway) == 0 })
	}
}

// TestAbortsLeakNothing: 10,000 requests, half of them given up, while checks are slow, leave no lease.
func TestAbortsLeakNothing(t *testing.T) {
	w := newWorld(t)
	w.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	token := "Bearer " + w.Token(t, "globex")
	const workers, each = 16, 625
	transport := &http.Transport{MaxIdleConnsPerHost: workers}
	client := &http.Client{Transport: transport}
	// Both processes that decide are stopped for 30 of every 100 ms: many a client hangs up while its check is pending.
	slow, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
				for _, s := range []*meshtest.Sidecar{w.gateway, w.front} {
					if err := syscall.Kill(s.PID, signal); err != nil {
						t.Error(err)
					}
				}
				pause := 30 * time.Millisecond
				if signal == syscall.SIGCONT {
					pause = 70 * time.Millisecond
				}
				select {
				case <-time.After(pause):
				case <-slow:
					if signal == syscall.SIGCONT {
						return
					}
				}
			}
		}
	}()
	var wg sync.WaitGroup
	for n := range workers {
		wg.Go(func() {
			for i := range each {
				ctx, cancel := context.WithCancel(t.Context())
				if i%2 == n%2 {
					// Between nothing and a little more than a request takes.
					timer := time.AfterFunc(time.Duration((i*7919+n*104729)%3000)*time.Microsecond, cancel)
					defer timer.Stop()
				}
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.gateway.URL+"/front/x", nil)
				if err != nil {
					t.Error(err)
				}
				request.Header.Set("Authorization", token)
				if response, err := client.Do(request); err == nil {
					response.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	close(slow)
	<-done
	transport.CloseIdleConnections()
	until(t, func() bool { return leases(t, w.gateway) == 0 && leases(t, w.front) == 0 })
	// Else it proves nothing: many a client hung up while Envoy waited for the decision, or before it was made.
	for point, s := range map[string]*meshtest.Sidecar{"gateway": w.gateway, "inbound": w.front} {
		abandoned := 0.0
		for _, known := range []string{"true", "false"} {
			abandoned += series(t, s, fmt.Sprintf("tenantmesh_abandoned_checks_total{known=%q,point=%q}", known, point))
		}
		if abandoned == 0 {
			t.Errorf("no client hung up at the %s while its check was pending", point)
		}
	}
}

func leases(t *testing.T, s *meshtest.Sidecar) int {
	t.Helper()
	return int(metric(t, s, "tenantmesh_leases"))
}

func metric(t *testing.T, s *meshtest.Sidecar, name string) float64 {
	t.Helper()
	value, ok := findSeries(t, s, name)
	if !ok {
		t.Fatalf("%s has no metric %s", s.Metrics, name)
	}
	return value
}

// series is the value of one series of a metric, 0 while there is none.
func series(t *testing.T, s *meshtest.Sidecar, name string) float64 {
	t.Helper()
	value, _ := findSeries(t, s, name)
	return value
}

func findSeries(t *testing.T, s *meshtest.Sidecar, name string) (value float64, ok bool) {
	t.Helper()
	for line := range strings.SplitSeq(meshtest.Do(t, nil, http.MethodGet, s.Metrics, nil, nil).Body, "\n") {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

// until waits for what the mesh reports on its own time.
func until(t *testing.T, good func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !good() {
		select {
		case <-deadline:
			t.Fatal("it did not come to pass in 30 s")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
