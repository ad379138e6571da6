// Package feature shows what the mesh does, one capability a file, through real Envoys.
package feature

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const objects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: eu-1}
spec: {region: eu, residency: eu, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: globex}
spec: {tier: bronze, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: initech}
spec: {tier: silver, region: eu, residency: eu}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec:
  expose: [{pathPrefix: /front, stripPrefix: true}]
  classes: [{name: exports, methods: [POST], paths: ["/*/export"]}]
  dependsOn: [back, closed]
  deliverContext: true
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: back}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: closed}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: front}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: front-back}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/front"], targets: [{workload: back, methods: [GET]}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-secrets}
spec: {effect: Forbid, principals: ["spiffe://mesh.example/**"], targets: [{workload: "*", paths: ["/secret/**"]}]}
`

// world is a mesh of a gateway and, in us-1, front, which calls what a request tells it to, and back, which says what
// it got.
type world struct {
	*meshtest.Mesh
	gateway, front, back *meshtest.Sidecar
	proxy                atomic.Pointer[url.URL] // of front
	served               atomic.Int64            // by back
	gate                 chan struct{}           // a request to front with gate in its query comes here, and waits for a word
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Mesh: meshtest.Start(t, objects), gate: make(chan struct{})}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(w.serveFront))
	w.back = w.Workload(t, "us-1", "back", http.HandlerFunc(w.serveBack))
	proxy, err := url.Parse(w.front.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	w.proxy.Store(proxy)
	return w
}

// seen is what a service got.
type seen struct {
	Path   string
	Header http.Header
}

func (w *world) serveBack(rw http.ResponseWriter, r *http.Request) {
	w.served.Add(1)
	tell(rw, r)
}

func tell(rw http.ResponseWriter, r *http.Request) {
	_ = json.NewEncoder(rw).Encode(seen{r.URL.Path, r.Header})
}

// serveFront answers /call?to=URL&forward=NAME by calling URL through its sidecar, with the headers named, and sent as
// NAME=VALUE; and everything else with what it got.
func (w *world) serveFront(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/call" {
		tell(rw, r)
		return
	}
	query := r.URL.Query()
	if query.Has("gate") {
		w.gate <- struct{}{} // it is here
		<-w.gate
	}
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, query.Get("to"), nil)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	for _, forward := range query["forward"] {
		name, value, given := strings.Cut(forward, "=")
		if !given {
			value = r.Header.Get(name)
		}
		request.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(w.proxy.Load()), DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	for _, name := range []string{"x-tenantmesh-reason", "x-tenantmesh-decision", "retry-after"} {
		rw.Header()[http.CanonicalHeaderKey(name)] = response.Header.Values(name)
	}
	rw.WriteHeader(response.StatusCode)
	_, _ = io.Copy(rw, response.Body)
}

// call asks front, for a tenant, to call.
func (w *world) call(t *testing.T, tenant, to string, forward ...string) meshtest.Response {
	t.Helper()
	return w.Get(t, w.gateway.URL+"/front/call?"+url.Values{"to": {to}, "forward": forward}.Encode(), tenant)
}

// want checks an answer's status and reason, and returns what the service saw when it was let through.
func want(t *testing.T, what string, r meshtest.Response, status int, reason string) seen {
	t.Helper()
	var s seen
	if r.Status != status || r.Reason() != reason {
		t.Errorf("%s: got %d %q, want %d %q: %.300s", what, r.Status, r.Reason(), status, reason, r.Body)
		return s
	}
	if status == http.StatusOK {
		if err := json.Unmarshal([]byte(r.Body), &s); err != nil {
			t.Errorf("%s: %v: %.300s", what, err, r.Body)
		}
	} else if reason != "" && r.Header.Get("x-tenantmesh-decision") == "" {
		t.Errorf("%s: the refusal has no decision ID", what)
	}
	return s
}
