package capture

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /front, stripPrefix: true}], dependsOn: [back]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: back}
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
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/front"], targets: [{workload: back}]}
`

//go:embed testdata/service.py
var service string

const servicePort = 8080

// world is a mesh of a gateway and two hosts, whose services know nothing of it, and of a third, which is no part of it.
type world struct {
	*meshtest.Mesh
	gateway              *meshtest.Sidecar
	front, back, outside *meshtest.Host
	reached              atomic.Int64 // connections to outside
}

func newWorld(t *testing.T) *world {
	t.Helper()
	network := meshtest.NewNetwork(t)
	w := &world{front: network.Host(t), back: network.Host(t), outside: network.Host(t)}
	w.Mesh = meshtest.Start(t, objects, meshtest.On(network))
	w.gateway = w.Gateway(t)
	dir, err := os.MkdirTemp("", "service-") // which everybody may read
	if err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		err = os.WriteFile(filepath.Join(dir, "service.py"), []byte(service), 0o600)
	}
	if err == nil {
		err = os.Chmod(filepath.Join(dir, "service.py"), 0o644)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]*meshtest.Host{"front": w.front, "back": w.back} {
		host.Spawn(t, meshtest.Python(t), filepath.Join(dir, "service.py"), fmt.Sprint(servicePort))
		if out, err := w.Capture(t, host, "install", "--uid", fmt.Sprint(meshtest.SidecarUID)); err != nil {
			t.Fatalf("capture install: %v: %s", err, out)
		}
		w.WorkloadOn(t, host, "us-1", name, servicePort, "--probe-path", "/healthz")
	}
	for _, address := range []string{w.outside.IPv4, "[" + w.outside.IPv6 + "]"} {
		listener := w.outside.Listen(t, address+":80")
		go w.count(listener)
	}
	return w
}

func (w *world) count(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		w.reached.Add(1)
		_ = conn.Close()
	}
}

// call asks front, for a tenant, to call.
func (w *world) call(t *testing.T, tenant, to string, more ...string) meshtest.Response {
	t.Helper()
	query := url.Values{"to": {to}}
	for i := 0; i+1 < len(more); i += 2 {
		query.Add(more[i], more[i+1])
	}
	return w.Get(t, w.gateway.URL+"/front/call?"+query.Encode(), tenant)
}

// seen is what a service got.
type seen struct {
	Path   string
	Header http.Header
}

func want(t *testing.T, what string, r meshtest.Response, status int, reason string) seen {
	t.Helper()
	var s seen
	if r.Status != status || r.Reason() != reason {
		t.Errorf("%s: got %d %q, want %d %q: %.300s", what, r.Status, r.Reason(), status, reason, r.Body)
	} else if status == http.StatusOK {
		if err := json.Unmarshal([]byte(r.Body), &s); err != nil {
			t.Errorf("%s: %v: %.300s", what, err, r.Body)
		}
		sent := s.Header
		s.Header = http.Header{}
		for name, values := range sent {
			s.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	return s
}

// TestCapture: services that were started as ever, with no word of a proxy, call each other by name, and the receiving one
// sees whose call it is. What cannot be proven, or is not declared, ends at the caller's sidecar.
func TestCapture(t *testing.T) {
	w := newWorld(t)
	for _, tenant := range []string{"acme", "globex"} {
		s := want(t, "a call by name", w.call(t, tenant, "http://back/x", "forward", "traceparent"), 200, "")
		if s.Header.Get("x-tenant-id") != tenant || s.Path != "/x" || s.Header.Get("x-tenantmesh-called") != "" || s.Header.Get("txn-token") != "" {
			t.Errorf("back saw %+v, want a call of %s", s, tenant)
		}
	}
	want(t, "a port that the name is not of", w.call(t, "acme", "http://back:8080/x", "forward", "traceparent"), 200, "")
	want(t, "nothing forwarded", w.call(t, "acme", "http://back/x"), 403, "context_missing")
	foreign := w.call(t, "acme", "http://"+w.outside.IPv4+"/x", "host", "back", "forward", "traceparent")
	for what, r := range map[string]meshtest.Response{
		"an address":      w.call(t, "acme", "http://"+w.outside.IPv4+"/x", "forward", "traceparent"),
		"an IPv6 address": w.call(t, "acme", "http://["+w.outside.IPv6+"]/x", "forward", "traceparent"),
		"a foreign address under a name of the mesh":   foreign,
		"a foreign IPv6 address under such a name":     w.call(t, "acme", "http://["+w.outside.IPv6+"]/x", "host", "back", "forward", "traceparent"),
		"a peer's own address, past its sidecar":       w.call(t, "acme", fmt.Sprintf("http://%s:%d/x", w.back.IPv4, servicePort), "forward", "traceparent"),
		"a peer's own address, under its name":         w.call(t, "acme", fmt.Sprintf("http://%s:%d/x", w.back.IPv4, servicePort), "host", "back", "forward", "traceparent"),
		"a name of the mesh under another host's name": w.call(t, "acme", "http://back/x", "host", "elsewhere", "forward", "traceparent"),
	} {
		want(t, what, r, 403, "denied_by_policy")
	}
	if d, err := w.Admin.Explain(t.Context(), foreign.Header.Get("x-tenantmesh-decision")); err != nil || !strings.Contains(d.Detail, "was called at an address that is not its own") {
		t.Errorf("explain says %+v (%v)", d, err)
	}
	if n := w.reached.Load(); n != 0 {
		t.Errorf("%d calls left the mesh", n)
	}

	t.Run("callers", func(t *testing.T) { w.callers(t) })
	t.Run("check", func(t *testing.T) {
		out, err := w.Capture(t, w.front, "check", "--uid", fmt.Sprint(meshtest.SidecarUID), "--address", w.front.IPv4)
		for _, line := range []string{"calls by IPv4: they reach the sidecar", "calls by IPv6: they reach the sidecar", "names of the mesh: they reach the sidecar", "own calls: calls of uid 1337 are left alone", "gets no answer", "hole     UDP"} {
			if err != nil || !strings.Contains(out, line) {
				t.Errorf("check does not say %q (%v): %s", line, err, out)
			}
		}
	})
	t.Run("removed", func(t *testing.T) {
		if out, err := w.Capture(t, w.front, "remove"); err != nil {
			t.Fatal(err, out)
		}
		if out, err := w.front.Run(t, "nft", "list", "ruleset"); err != nil || out != "" {
			t.Errorf("there are rules: %s (%v)", out, err)
		}
		out, err := w.Capture(t, w.front, "check", "--uid", fmt.Sprint(meshtest.SidecarUID), "--address", w.front.IPv4)
		if err == nil || !strings.Contains(out, "wrong    rules: no rules are installed") {
			t.Errorf("check says %s (%v)", out, err)
		}
		// A name of the mesh still leads nowhere but to this machine.
		want(t, "a name of the mesh", w.call(t, "acme", "http://back/x", "forward", "traceparent"), 502, "")
	})
}

// callers: who calls past the gateway and the sidecars gets nothing, but for the service's health.
func (w *world) callers(t *testing.T) {
	for _, address := range []string{w.back.IPv4, w.back.IPv6} {
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			return w.outside.Dial(ctx, network, to)
		}}}
		for _, port := range []int{servicePort, 15006, 80} {
			if response, err := client.Get("http://" + net.JoinHostPort(address, fmt.Sprint(port)) + "/x"); err == nil {
				body, _ := io.ReadAll(response.Body)
				_ = response.Body.Close()
				t.Errorf("a direct call to %s port %d is answered: %s %s", address, port, response.Status, body)
			}
		}
	}
	health := "http://" + net.JoinHostPort(w.back.IPv4, "15021")
	if r := meshtest.Do(t, nil, http.MethodGet, health+"/probe", nil, nil); r.Status != 200 || r.Body != "" {
		t.Errorf("the service's health is %d %q", r.Status, r.Body)
	}
	for _, path := range []string{"/probe/x", "/x", "/healthz"} {
		if r := meshtest.Do(t, nil, http.MethodGet, health+path, nil, nil); r.Status != 404 {
			t.Errorf("%s of the health port is %d %q", path, r.Status, r.Body)
		}
	}
	if r := meshtest.Do(t, nil, http.MethodPost, health+"/probe", nil, nil); r.Status != 405 {
		t.Errorf("a POST to the health port is %d", r.Status)
	}
}

const streams = objects + `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: jobs}
spec: {dependsOn: [db, clock], boundTenant: acme}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: web}
spec: {dependsOn: [db, clock]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: db}
spec: {hosts: [%[1]s], port: 5432, protocol: tcp}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: clock}
spec: {hosts: [%[2]s], port: 37, protocol: tcp, tenancy: untenanted}
`

// TestStreams: a database, whose server speaks first, is reached where it is declared, by a workload that is bound to a
// tenant, as long as that tenant may be served.
func TestStreams(t *testing.T) {
	network := meshtest.NewNetwork(t)
	jobs, web, db, clock := network.Host(t), network.Host(t), network.Host(t), network.Host(t)
	mesh := meshtest.Start(t, fmt.Sprintf(streams, db.IPv4, clock.IPv4), meshtest.On(network))
	say(t, db, db.IPv4+":5432", "db")
	say(t, db, db.IPv4+":5433", "another db")
	say(t, clock, clock.IPv4+":37", "clock")
	for name, host := range map[string]*meshtest.Host{"jobs": jobs, "web": web} {
		if out, err := mesh.Capture(t, host, "install", "--uid", fmt.Sprint(meshtest.SidecarUID)); err != nil {
			t.Fatalf("capture install: %v: %s", err, out)
		}
		mesh.WorkloadOn(t, host, "us-1", name, servicePort)
	}
	expect := func(what string, from *meshtest.Host, address, want string) {
		t.Helper()
		got, conn, err := hear(t, from, address)
		if got != want || want != "" && !alive(conn) {
			t.Errorf("%s hears %q (%v), want %q", what, got, err, want)
		}
	}
	expect("who is bound", jobs, db.IPv4+":5432", "db")
	expect("who is bound, of a port that is not declared,", jobs, db.IPv4+":5433", "")
	expect("who is bound, of a host that is not declared,", jobs, clock.IPv4+":5432", "")
	expect("who is bound, of what needs no tenant,", jobs, clock.IPv4+":37", "clock")
	expect("who is not bound", web, db.IPv4+":5432", "")
	expect("who is not bound, of what needs no tenant,", web, clock.IPv4+":37", "clock")
	mesh.Apply(t, "apiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {tier: gold, region: us, suspended: true}\n")
	expect("whose tenant is suspended", jobs, db.IPv4+":5432", "")
}
