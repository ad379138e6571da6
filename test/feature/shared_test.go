package feature

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// asker sends requests of a tenant, each at its time, as long as the clock says, and counts what is let in.
type asker struct {
	t      *testing.T
	token  string
	client *http.Client
	let    atomic.Int64
	errors atomic.Int64 // answers that are neither 200 nor 429
}

func newAsker(t *testing.T, w *world, tenant string) *asker {
	return &asker{t: t, token: "Bearer " + w.Token(t, tenant), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// ask sends so many requests a second to a gateway for a time.
func (a *asker) ask(gateway *meshtest.Sidecar, perSecond int, lasts time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	interval := time.Second / time.Duration(perSecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for end := time.After(lasts); ; {
		select {
		case <-end:
			return
		case <-ticker.C:
		}
		wg.Go(func() {
			request, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, gateway.URL+"/front/x", nil)
			if err != nil {
				a.t.Error(err)
				return
			}
			request.Header.Set("Authorization", a.token)
			response, err := a.client.Do(request)
			if err != nil {
				a.t.Error(err)
				return
			}
			defer response.Body.Close()
			switch response.StatusCode {
			case http.StatusOK:
				a.let.Add(1)
			case http.StatusTooManyRequests:
			default:
				a.errors.Add(1)
			}
		})
	}
}

// TestSharedLimit: a tenant's limit is one limit, however many gateways it comes by. What they let in together stays within
// the rate and the burst while its load shifts; all of it at one gateway gets nearly all of the limit; and without the
// control plane each falls to its part.
func TestSharedLimit(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	var gateways []*meshtest.Sidecar
	for i := range 3 {
		gateways = append(gateways, w.GatewayAt(t, fmt.Sprint("gateway-", i)))
	}
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	const rate, burst = 40, 20
	w.Apply(t, globex(fmt.Sprintf("limits: {requestsPerSecond: %d, burst: %d, concurrency: -1}", rate, burst)))
	for _, g := range gateways {
		until(t, func() bool { return metric(t, g, "tenantmesh_quota_session") == 1 })
	}
	a := newAsker(t, w, "globex")
	began := time.Now()
	bound := func(what string) {
		t.Helper()
		if most := int64(time.Since(began).Seconds()*rate) + burst; a.let.Load() > most {
			t.Errorf("%s: %d were let in, and the limit is %d", what, a.let.Load(), most)
		}
		t.Logf("%s: %d of %.0f", what, a.let.Load(), time.Since(began).Seconds()*rate)
	}

	// Zipf-like: of the load, 6/11, 3/11 and 2/11 come by three gateways; who gets most shifts.
	shares := []int{60, 30, 20}
	for shift := range 4 {
		var wg sync.WaitGroup
		for i, g := range gateways {
			wg.Go(func() { a.ask(g, shares[(i+shift)%3], 1500*time.Millisecond) })
		}
		wg.Wait()
		bound(fmt.Sprint("shift ", shift))
	}
	if most := time.Since(began).Seconds() * rate; float64(a.let.Load()) < most/2 {
		t.Errorf("%d were let in of %.0f: the limit is not used", a.let.Load(), most)
	}

	// All at one, for 2 s; then of what comes in 4 s, 95 % of the limit.
	a.ask(gateways[1], 80, 2*time.Second)
	before, at := a.let.Load(), time.Now()
	a.ask(gateways[1], 80, 4*time.Second)
	got, lasted := float64(a.let.Load()-before), time.Since(at).Seconds()
	if got < 0.95*rate*min(lasted, 4) {
		t.Errorf("all at one gateway: %.0f in %.1f s, and the limit is %.0f", got, lasted, rate*lasted)
	}
	bound("all at one")

	// The control plane dies.
	w.StopControl()
	for _, g := range gateways {
		until(t, func() bool { return metric(t, g, "tenantmesh_quota_session") == 0 })
	}
	a.ask(gateways[1], 80, 4*time.Second)
	before, at = a.let.Load(), time.Now()
	a.ask(gateways[1], 80, 3*time.Second)
	got, lasted = float64(a.let.Load()-before), time.Since(at).Seconds()
	if most := rate/3.0*lasted + 7; got > most || got < rate/3.0*2 {
		t.Errorf("without the control plane: %.0f in %.1f s, and a third of the limit is %.0f", got, lasted, rate/3.0*lasted)
	}
	var wg sync.WaitGroup
	for _, g := range gateways {
		wg.Go(func() { a.ask(g, 30, 2*time.Second) })
	}
	wg.Wait()
	bound("without the control plane")
	if n := a.errors.Load(); n > 0 {
		t.Errorf("%d answers are neither let in nor over the limit", n)
	}
}

// TestSharedClass: one export at a time, though three sidecars of the workload take them; and it goes on, whichever it comes to.
func TestSharedClass(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	var open, most, served atomic.Int64
	service := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n := open.Add(1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		<-time.After(50 * time.Millisecond) // an export takes a while
		open.Add(-1)
		served.Add(1)
		tell(rw, r)
	})
	var sidecars []*meshtest.Sidecar
	for i := range 3 {
		sidecars = append(sidecars, w.WorkloadAt(t, "us-1", "front", fmt.Sprint("front-", i), service))
	}
	w.Apply(t, globex("limits: {requestsPerSecond: 1000, burst: 1000, concurrency: -1, classes: {exports: {concurrency: 1}}}"))
	for _, s := range sidecars {
		until(t, func() bool { return metric(t, s, "tenantmesh_quota_session") == 1 })
	}
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "globex")}}
	var wg sync.WaitGroup
	end := time.Now().Add(8 * time.Second)
	for range 3 {
		wg.Go(func() {
			for time.Now().Before(end) {
				switch r := meshtest.Do(t, nil, http.MethodPost, w.gateway.URL+"/front/1/export", header, nil); {
				case r.Status == http.StatusOK:
				case r.Status == http.StatusTooManyRequests && r.Reason() == "concurrency_limited":
					<-time.After(20 * time.Millisecond)
				default:
					t.Errorf("%d %s", r.Status, r.Reason())
				}
			}
		})
	}
	wg.Wait()
	if most.Load() > 1 || served.Load() < 10 {
		t.Errorf("%d exports were open at once, %d in all", most.Load(), served.Load())
	}
	t.Logf("%d exports", served.Load())
}
