package feature

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const streamObjects = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: feed}
spec:
  expose: [{pathPrefix: /feed, stripPrefix: true}]
  classes: [{name: long, paths: ["/download"], streaming: true}]
  deliverContext: true
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: watch}
spec:
  protocol: grpc
  expose: [{pathPrefix: /grpc.health.v1.Health}]
  classes: [{name: watch, paths: ["/grpc.health.v1.Health/Watch"], streaming: true}]
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: watchers}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: watch}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: readers}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], tenants: {names: [globex]}, targets: [{workload: feed}]}
---
`

// grant permits acme's requests to feed for a while.
func grant(until time.Time) string {
	return fmt.Sprintf(`
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: support}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/edge"], tenants: {names: [acme]}, targets: [{workload: feed}], when: 'request.time < timestamp("%s")'}
`, until.UTC().Format(time.RFC3339))
}

const forbidAcme = `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-acme}
spec: {effect: Forbid, principals: ["spiffe://mesh.example/gateway/edge"], tenants: {names: [acme]}, targets: [{workload: "*"}]}
`

// tick answers with the transaction of the request, and then a line now and then for as long as somebody listens.
func tick(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Type", "text/event-stream")
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(r.Header.Get("Txn-Token")+"..", ".")[1])
	var claims struct {
		Txn string `json:"txn"`
	}
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	line := "txn " + claims.Txn
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := fmt.Fprintln(rw, line); err != nil || http.NewResponseController(rw).Flush() != nil {
			return
		}
		line = "data: tick"
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
	}
}

// listener is a client that reads an answer that goes on.
type listener struct {
	txn   string
	lines *bufio.Reader
	over  func()
}

// listen opens a stream of feed for a tenant.
func listen(t *testing.T, m *meshtest.Mesh, client *http.Client, gateway *meshtest.Sidecar, tenant, path, accept string) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+m.Token(t, tenant))
	request.Header.Set("Accept", accept)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
		t.Fatalf("%s of %s: %d over HTTP/%d %q", path, tenant, response.StatusCode, response.ProtoMajor, response.Header.Get("x-tenantmesh-reason"))
	}
	l := &listener{lines: bufio.NewReader(response.Body), over: cancel}
	line := l.goesOn(t)
	l.txn = strings.TrimPrefix(line, "txn ")
	return l
}

// goesOn wants a line more.
func (l *listener) goesOn(t *testing.T) string {
	t.Helper()
	line, err := l.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the stream has ended: %v", err)
	}
	return strings.TrimSpace(line)
}

// ends waits until the stream is ended, and not by its client.
func (l *listener) ends(t *testing.T) {
	t.Helper()
	late := time.AfterFunc(endBound, l.over)
	_, err := io.Copy(io.Discard, l.lines)
	if !late.Stop() {
		t.Fatalf("the stream is open %v after what let it in was taken away", endBound)
	}
	if err == nil {
		t.Error("the stream ends as if that were all: a reset was wanted")
	}
}

// TestStreamsEnd: what is open ends soon after what let it in is taken away, and another tenant's stream on the very same
// connections goes on.
func TestStreamsEnd(t *testing.T) {
	m := meshtest.Start(t, objects+streamObjects)
	gateway := m.Gateway(t)
	m.Workload(t, "us-1", "feed", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo(rw, r)
			return
		}
		tick(rw, r)
	}))
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	stays := listen(t, m, client, gateway, "globex", "/feed/events", "text/event-stream")
	m.Apply(t, grant(time.Now().Add(time.Hour)))
	revoke := func(t *testing.T, l *listener) {
		if _, err := m.Admin.RevokeToken(t.Context(), l.txn, "test"); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, kind, name string) {
		t.Helper()
		info, err := tenantstore.ParseKind(kind)
		if err != nil {
			t.Fatal(err)
		}
		done, err := m.Admin.Delete(t.Context(), info, name)
		if err != nil {
			t.Fatal(err)
		}
		m.Enforced(t, done.Revision)
	}
	for _, test := range []struct {
		name, path, accept string
		end                func(t *testing.T, l *listener)
		again              func(t *testing.T)
	}{
		{"events, of a revoked token", "/feed/events", "text/event-stream", revoke, nil},
		{"a download, of a revoked token", "/feed/download", "*/*", revoke, nil},
		{"events, of a forbidden principal", "/feed/events", "text/event-stream", func(t *testing.T, _ *listener) { m.Apply(t, forbidAcme) }, func(t *testing.T) { remove(t, "accesspolicies", "no-acme") }},
		{"a download, of a suspended tenant", "/feed/download", "*/*", func(t *testing.T, _ *listener) { change(t, m, "suspended: true") }, func(t *testing.T) { change(t, m, "suspended: false") }},
		{"events, of a policy that is taken back", "/feed/events", "text/event-stream", func(t *testing.T, _ *listener) { remove(t, "accesspolicies", "support") }, func(t *testing.T) { m.Apply(t, grant(time.Now().Add(time.Hour))) }},
		{"a download, of a policy that ends by the clock", "/feed/download", "*/*", func(t *testing.T, _ *listener) {
			until := time.Now().Add(1500 * time.Millisecond).Truncate(time.Second)
			m.Apply(t, grant(until))
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ends := listen(t, m, client, gateway, "acme", test.path, test.accept)
			for range 5 {
				ends.goesOn(t)
			}
			began := time.Now()
			test.end(t, ends)
			ends.ends(t)
			t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
			stays.goesOn(t)
			if test.again != nil {
				test.again(t)
			}
		})
	}
	snapshot, err := m.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindMember && o.Member.Role == tenantstore.RoleGateway {
			if _, err := m.Admin.FenceMember(t.Context(), key.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	stays.ends(t) // by the sidecar, which knows the certificate of the instance that was shut out
	t.Logf("of a gateway that was fenced, ended after %v", time.Since(began).Round(time.Millisecond))
}

// TestGRPCStreamEnds: a gRPC stream of a class that streams ends with its tenant, and another tenant's of the same connection
// goes on.
func TestGRPCStreamEnds(t *testing.T) {
	m := meshtest.Start(t, objects+streamObjects)
	gateway := m.Gateway(t)
	service := grpc.NewServer()
	states := health.NewServer()
	healthpb.RegisterHealthServer(service, states)
	m.Workload(t, "us-1", "watch", service)
	conn, err := grpc.NewClient(strings.TrimPrefix(gateway.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	watch := func(tenant string) healthpb.Health_WatchClient {
		t.Helper()
		stream, err := healthpb.NewHealthClient(conn).Watch(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+m.Token(t, tenant)), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	stays, ends := watch("globex"), watch("acme")
	began := time.Now()
	change(t, m, "suspended: true")
	if _, err := ends.Recv(); err == nil {
		t.Error("the stream goes on")
	} else {
		t.Logf("ended after %v: %v", time.Since(began).Round(time.Millisecond), err)
	}
	if took := time.Since(began); took > endBound {
		t.Errorf("it took %v", took)
	}
	states.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if _, err := stays.Recv(); err != nil {
		t.Errorf("the other tenant's: %v", err)
	}
}
