package feature

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestWhatClientsSee: a refusal by a limit tells an HTTP client and a gRPC client when to come, in the fields that each knows, and
// then lets it in; of limits it says nothing where the workload hides them.
func TestWhatClientsSee(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	w.Apply(t, globex("limits: {requestsPerSecond: 1, burst: 1}"))
	url := w.gateway.URL + "/front/x"
	ask := func(grpc bool) meshtest.Response {
		header := http.Header{"Authorization": {"Bearer " + w.Token(t, "globex")}}
		if grpc {
			header.Set("Content-Type", "application/grpc")
		}
		return meshtest.Do(t, nil, http.MethodPost, url, header, nil)
	}
	refused := func(grpc bool) meshtest.Response {
		t.Helper()
		for range 10 {
			if r := ask(grpc); r.Reason() != "" {
				return r
			}
		}
		t.Fatal("ten requests at once pass a burst of one")
		return meshtest.Response{}
	}
	r := refused(false)
	want(t, "over the burst", r, http.StatusTooManyRequests, "rate_limited")
	var problem struct {
		Type, Reason, Instance string
		Status                 int
	}
	if err := json.Unmarshal([]byte(r.Body), &problem); err != nil || r.Header.Get("Content-Type") != "application/problem+json" || problem.Status != 429 || !strings.HasSuffix(problem.Type, "#rate_limited") {
		t.Errorf("%v: %+v of %q", err, problem, r.Body)
	}
	seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || seconds < 1 || !strings.HasPrefix(r.Header.Get("RateLimit-Policy"), `"tenant-rate";q=1;w=1;pk=:`) ||
		!strings.HasPrefix(r.Header.Get("RateLimit"), `"tenant-rate";r=0;t=`+strconv.Itoa(seconds)+`;pk=:`) {
		t.Errorf("%+v", r.Header)
	}
	<-time.After(time.Duration(seconds) * time.Second)
	served := ask(false)
	want(t, "after Retry-After", served, http.StatusOK, "")
	if !strings.HasPrefix(served.Header.Get("RateLimit-Policy"), `"tenant-rate";q=1;w=1;pk=:`) || !strings.HasPrefix(served.Header.Get("RateLimit"), `"tenant-rate";r=0;t=1;pk=:`) {
		t.Errorf("who is let in is told %+v", served.Header)
	}

	r = refused(true)
	ms, err := strconv.Atoi(r.Header.Get("Grpc-Retry-Pushback-Ms"))
	if r.Status != http.StatusOK || r.Header.Get("Grpc-Status") != "8" || r.Header.Get("Grpc-Message") == "" || err != nil || ms < 1 || r.Body != "" {
		t.Errorf("by gRPC: %d, %+v, %q", r.Status, r.Header, r.Body)
	}
	<-time.After(time.Duration(ms) * time.Millisecond)
	want(t, "after the pushback", ask(true), http.StatusOK, "")

	w.Apply(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /front, stripPrefix: true}], dependsOn: [back, closed], hideLimits: true}
`)
	if r = refused(false); r.Header.Get("RateLimit")+r.Header.Get("RateLimit-Policy") != "" || r.Header.Get("Retry-After") == "" {
		t.Errorf("hidden: %+v", r.Header)
	}
	<-time.After(2 * time.Second)
	if served = ask(false); served.Status != http.StatusOK || served.Header.Get("RateLimit")+served.Header.Get("RateLimit-Policy") != "" {
		t.Errorf("hidden from who is let in: %d, %+v", served.Status, served.Header)
	}
}
