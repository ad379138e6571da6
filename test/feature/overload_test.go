package feature

import (
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// tight is a service that answers four requests at once in 10 ms each, and keeps the others waiting.
type tight struct {
	slots chan struct{}
	most  atomic.Int64
	now   atomic.Int64
}

func (s *tight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	s.slots <- struct{}{}
	<-time.After(10 * time.Millisecond)
	<-s.slots
	tell(w, r)
}

// TestOverload: a tenant without a rate limit sends all it can to a service that can do less. The sidecar finds what the service can
// do, and refuses that tenant what is over its share; another tenant's requests are all answered.
func TestOverload(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	service := &tight{slots: make(chan struct{}, 4)}
	w.front = w.Workload(t, "us-1", "front", service)
	for _, tenant := range []string{"acme", "globex"} {
		w.Apply(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: `+tenant+`}
spec: {tier: bronze, region: us, limits: {requestsPerSecond: -1, concurrency: -1}}
`)
	}
	for range 20 { // what it takes without load
		want(t, "light, alone", w.Get(t, w.gateway.URL+"/front/x", "globex"), http.StatusOK, "")
	}
	const workers = 80
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "acme")}}
	var served, shed atomic.Int64
	var sample atomic.Pointer[meshtest.Response]
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := meshtest.Do(t, client, http.MethodGet, w.gateway.URL+"/front/x", header, nil)
				switch {
				case r.Status == http.StatusOK:
					served.Add(1)
				case r.Reason() == "overloaded":
					shed.Add(1)
					sample.Store(&r)
					<-time.After(50 * time.Millisecond) // of the second that it is asked to wait
				default:
					t.Errorf("heavy got %d %s", r.Status, r.Reason())
				}
			}
		})
	}
	// It has found the limit; a probe sheds, too, and says nothing of it.
	until(t, func() bool { return shed.Load() > 200 && metric(t, w.front, "tenantmesh_admission_limit") < workers/2 })
	<-time.After(time.Second) // and what was open before that has ended
	service.most.Store(0)
	var slowest time.Duration
	for range 100 {
		began := time.Now()
		want(t, "light", w.Get(t, w.gateway.URL+"/front/x", "globex"), http.StatusOK, "")
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("heavy: %d served, %d shed; light's slowest %v; at most %d open at once, limit %v, without load %v", served.Load(), shed.Load(), slowest, service.most.Load(), metric(t, w.front, "tenantmesh_admission_limit"), metric(t, w.front, "tenantmesh_admission_latency_without_load_seconds"))
	if most := service.most.Load(); most > workers*3/4 {
		t.Errorf("%d requests were open at once at a service that does 4", most)
	}
	until(t, func() bool {
		top, err := w.Admin.Top(t.Context())
		return err == nil && len(top) == 2 && top[0].Tenant == "acme" && top[0].Refused > 0 && top[0].Share > 0 && top[1].Tenant == "globex"
	})
	close(stop)
	wg.Wait()
	until(t, func() bool {
		slos, err := w.Admin.SLO(t.Context(), time.Time{})
		return err == nil && slices.ContainsFunc(slos, func(s tenantstore.IsolationSLO) bool {
			return s.Tier == "bronze" && s.Requests >= 100 && s.Refused == 0
		})
	})
	r := *sample.Load()
	want(t, "heavy", r, http.StatusServiceUnavailable, "overloaded")
	if seconds, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || seconds < 1 || r.Header.Get("RateLimit") != "" {
		t.Errorf("Retry-After is %q, RateLimit %q", r.Header.Get("Retry-After"), r.Header.Get("RateLimit"))
	}
	until(t, func() bool { return metric(t, w.front, "tenantmesh_admission_open") == 0 && leases(t, w.front) == 0 })
}

// TestNoOverload: a service that is slow and takes all the requests that come is not held back.
func TestNoOverload(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		<-time.After(time.Second) // so that it is the service that is slow, and not the machine
		tell(rw, r)
	}))
	w.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	const workers = 64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "globex")}}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range 4 {
				if r := meshtest.Do(t, client, http.MethodGet, w.gateway.URL+"/front/x", header, nil); r.Status != http.StatusOK {
					t.Errorf("got %d %s", r.Status, r.Reason())
				}
			}
		})
	}
	wg.Wait()
}
