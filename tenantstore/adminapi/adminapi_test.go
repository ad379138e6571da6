package adminapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

const base = "http://control" + adminapi.Base

type server struct {
	t       *testing.T
	handler http.Handler
	store   *memstore.Store
	usage   *ledger.Usage
	client  *http.Client

	decisions map[string]policy.Decision // beside "known"
}

func newServer(t *testing.T) *server {
	t.Helper()
	return newServerOn(t, func(store *memstore.Store) tenantstore.Store { return store })
}

func newServerOn(t *testing.T, over func(*memstore.Store) tenantstore.Store) *server {
	t.Helper()
	store := memstore.New()
	usage, err := ledger.OpenUsage(t.TempDir())
	check(t, err)
	s := &server{t: t, store: store, usage: usage}
	s.handler = adminapi.New(adminapi.Config{
		Store: over(store), Writer: tenantstore.NewWriter(over(store), time.Now), Usage: usage, Version: "test", Log: zap.NewNop(), Ready: func() bool { return true },
		Status: func(context.Context, int64, bool) (any, error) {
			return map[string]any{"total": 0, "members": []string{"globex-1"}}, nil
		},
		Explain: func(_ context.Context, id string) (policy.Decision, error) {
			if decision, ok := s.decisions[id]; ok {
				return decision, nil
			}
			if id != "known" {
				return policy.Decision{}, errors.New("nobody knows it")
			}
			return policy.Decision{ID: id, Reason: policy.RateLimited}, nil
		},
	})
	dir, err := os.MkdirTemp("", "api-")
	check(t, err)
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	check(t, err)
	web := &http.Server{Handler: s.handler, ConnContext: adminapi.ConnContext, ReadHeaderTimeout: time.Second}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() {
		_ = web.Close()
		_ = os.RemoveAll(dir)
	})
	s.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}}}
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do sends a request with headers as "Name: value", and wants a status.
func (s *server) do(want int, method, url, body string, headers ...string) (http.Header, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	check(s.t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := s.client.Do(request)
	check(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(s.t, err)
	if response.StatusCode != want {
		s.t.Errorf("%s %s: %d, want %d: %s", method, url, response.StatusCode, want, text)
	}
	return response.Header, string(text)
}

const cell = `{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Cell","metadata":{"name":"us-1"},"spec":{"region":"us"}}`

func TestConditionalRequests(t *testing.T) {
	s := newServer(t)
	s.do(404, "GET", base+"/cells/us-1", "")
	s.do(200, "PUT", base+"/cells/us-1?dryRun=true", cell)
	s.do(404, "GET", base+"/cells/us-1", "")
	header, _ := s.do(200, "PUT", base+"/cells/us-1", cell)
	tag := header.Get("ETag")
	if tag == "" {
		t.Fatal("a write has no ETag")
	}
	if got, _ := s.do(200, "GET", base+"/cells/us-1", ""); got.Get("ETag") != tag {
		t.Errorf("the object's ETag is %s, want %s", got.Get("ETag"), tag)
	}
	s.do(304, "GET", base+"/cells/us-1", "", "If-None-Match: "+tag)
	list, text := s.do(200, "GET", base+"/cells", "")
	if !strings.Contains(text, `"us-1"`) {
		t.Errorf("the list is %s", text)
	}
	s.do(304, "GET", base+"/cells", "", "If-None-Match: "+list.Get("ETag"))
	changed := strings.Replace(cell, `"us"`, `"us2"`, 1)
	s.do(412, "PUT", base+"/cells/us-1", changed, `If-Match: "999"`)
	s.do(412, "PUT", base+"/cells/us-1", changed, `If-Match: "x"`)
	for _, bad := range []string{`x`, `"x`, `"1" "2"`, `W/1`, `1`} {
		s.do(400, "PUT", base+"/cells/us-1", changed, "If-Match: "+bad)
		s.do(400, "GET", base+"/cells/us-1", "", "If-None-Match: "+bad)
	}
	s.do(412, "PUT", base+"/cells/us-1", changed, "If-Match: W/"+tag) // a weak one names no state to write over
	s.do(412, "PUT", base+"/cells/us-1", changed, "If-None-Match: *")
	s.do(412, "PUT", base+"/cells/us-1", changed, `If-None-Match: "999", `+tag)
	s.do(412, "PUT", base+"/cells/us-2", strings.Replace(cell, "us-1", "us-2", 1), "If-Match: *")
	s.do(200, "PUT", base+"/cells/us-2", strings.Replace(cell, "us-1", "us-2", 1), "If-None-Match: *")
	s.do(200, "DELETE", base+"/cells/us-2", "", "If-Match: *")
	for _, same := range []string{"*", "W/" + tag, `"999" , W/"a,b",` + tag} {
		s.do(304, "GET", base+"/cells/us-1", "", "If-None-Match: "+same)
	}
	s.do(200, "PUT", base+"/cells/us-1?dryRun=true", changed, `If-Match: "999", `+tag)
	s.do(200, "PUT", base+"/cells/us-1", changed, "If-Match: "+tag)
	s.do(412, "DELETE", base+"/cells/us-1", "", "If-Match: "+tag)
	s.do(200, "DELETE", base+"/cells/us-1", "")
	s.do(404, "DELETE", base+"/cells/us-1", "")
}

func TestBadInput(t *testing.T) {
	s := newServer(t)
	for name, test := range map[string]struct {
		method, path, body string
		want               []string
	}{
		"unknown field": {"PUT", "/cells/us-1", strings.Replace(cell, "region", "regoin", 1), []string{"spec.regoin"}},
		"wrong kind":    {"PUT", "/tenants/us-1", cell, []string{"must be the one object that the path names"}},
		"wrong name":    {"PUT", "/cells/other", cell, []string{"must be the one object that the path names"}},
		"own kind":      {"POST", "/apply", `[{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Member","metadata":{"name":"m"},"spec":{}}]`, []string{"kind"}},
		"every problem": {"POST", "/apply", "[" + cell + `,{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Tenant","metadata":{"name":"acme"},"spec":{"tier":"lead","region":"","limits":{"burst":-5}}},
			{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Workload","metadata":{"name":"w"},"spec":{"dependsOn":["ghost"]}}]`, []string{"spec.tier", "spec.region", "spec.limits.burst", "spec.dependsOn[0]"}},
	} {
		_, text := s.do(422, test.method, base+test.path, test.body)
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the answer does not name %q: %s", name, want, text)
			}
		}
	}
	s.do(400, "POST", base+"/apply", "{")
	snapshot, err := s.store.Snapshot(t.Context())
	check(t, err)
	if len(snapshot.Objects) != 0 {
		t.Errorf("%d objects were applied", len(snapshot.Objects))
	}
}

// full is a store that takes no more.
type full struct{ *memstore.Store }

func (full) Apply(context.Context, tenantstore.Transaction) (tenantstore.Revision, error) {
	return 0, tenantstore.ErrTooLarge
}

func TestTooLarge(t *testing.T) {
	s := newServerOn(t, func(store *memstore.Store) tenantstore.Store { return full{store} })
	if _, text := s.do(413, "PUT", base+"/cells/us-1", cell); !strings.Contains(text, "in several steps") {
		t.Errorf("the answer does not say what to do: %s", text)
	}
}

func TestTenantConfigAuditAndUsage(t *testing.T) {
	s := newServer(t)
	s.do(200, "POST", base+"/apply", "["+cell+`,{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Tenant","metadata":{"name":"acme"},"spec":{"tier":"gold","region":"us","limits":{"burst":7}}}]`)
	header, text := s.do(200, "GET", "http://control/tenants/acme/config", "")
	var config adminapi.TenantConfig
	check(t, json.Unmarshal([]byte(text), &config))
	if config.Limits.Burst != 7 || config.Limits.RequestsPerSecond != 200 || config.UID == "" {
		t.Errorf("the effective configuration is %s", text)
	}
	s.do(304, "GET", "http://control/tenants/acme/config", "", "If-None-Match: "+header.Get("ETag"))
	s.do(404, "GET", "http://control/tenants/nobody/config", "")

	_, text = s.do(200, "GET", "http://control/audit", "")
	var events []ledger.Event
	check(t, json.Unmarshal([]byte(text), &events))
	if _, err := (ledger.Head{}).Verify(events); err != nil || len(events) != 2 || events[0].Actor != fmt.Sprintf("uid:%d", os.Getuid()) {
		t.Errorf("the audit is %s, %v", text, err)
	}

	minute := time.Now().UTC().Truncate(time.Minute)
	for range 2 { // the second is the same batch again
		check(t, s.usage.Append("m", 1, []ledger.UsageRecord{{Minute: minute, Tenant: "acme", Requests: 3}, {Minute: minute, Tenant: "globex", Requests: 1}}))
	}
	_, text = s.do(200, "GET", "http://control/usage?tenant=acme", "")
	if !strings.Contains(text, `"requests":3`) || strings.Contains(text, "globex") {
		t.Errorf("usage is %s", text)
	}
	if _, text = s.do(200, "GET", "http://control/decisions/known", ""); !strings.Contains(text, "rate_limited") {
		t.Errorf("the decision is %s", text)
	}
	s.do(404, "GET", "http://control/decisions/other", "")
	s.do(200, "GET", "http://control/status", "")
	s.do(200, "GET", "http://control/livez", "")
	s.do(200, "GET", "http://control/readyz", "")
	if _, text = s.do(200, "GET", "http://control/openapi.json", ""); !strings.Contains(text, `"openapi":"3.1`) || !strings.Contains(text, "deliverContext") {
		t.Errorf("the OpenAPI document is %.200s", text)
	}
}

func TestRollouts(t *testing.T) {
	s := newServer(t)
	const object = `{"apiVersion":"tenantmesh.dev/v1alpha1",`
	s.do(200, "POST", base+"/apply", "["+cell+`,`+object+`"kind":"Tenant","metadata":{"name":"acme"},"spec":{"tier":"gold","region":"us"}},`+object+`"kind":"Tenant","metadata":{"name":"globex"},"spec":{"tier":"gold","region":"us"}}]`)
	header, _ := s.do(200, "GET", "http://control/tenants/acme/config", "")
	rollouts := "http://control/rollouts"
	tier := `{"tenants":["acme"],"object":` + object + `"kind":"Tier","metadata":{"name":"gold"},"spec":{"limits":{"burst":3}}}}`
	s.do(400, "POST", rollouts, "[")
	s.do(400, "POST", rollouts, "{}")
	s.do(422, "POST", rollouts, `{"object":{"kind":"Tier"}}`)
	s.do(200, "POST", rollouts+"?dryRun=true", tier)
	s.do(404, "GET", rollouts+"/tier-gold", "")
	s.do(200, "POST", rollouts, tier)
	for tenant, want := range map[string]string{"acme": `"burst":3`, "globex": `"burst":400`} {
		if _, text := s.do(200, "GET", "http://control/tenants/"+tenant+"/config", "", "If-None-Match: "+header.Get("ETag")); !strings.Contains(text, want) {
			t.Errorf("%s has %s", tenant, text)
		}
	}
	var status adminapi.RolloutStatus
	_, text := s.do(200, "GET", rollouts+"/tier-gold", "")
	check(t, json.Unmarshal([]byte(text), &status))
	if status.Object != "Tier/gold" || status.Percent != 0 || status.Next != 10 || status.Due != nil || status.Figures.Canary.Tenants != 1 {
		t.Errorf("the status is %s", text)
	}
	if _, text := s.do(422, "PUT", base+"/tiers/gold", object+`"kind":"Tier","metadata":{"name":"gold"},"spec":{"limits":{"burst":4}}}`); !strings.Contains(text, "rollout abort tier-gold") {
		t.Errorf("a write beside it is answered %s", text)
	}
	s.do(200, "POST", rollouts+"/tier-gold/promote", "")
	s.do(200, "POST", rollouts+"/tier-gold/abort", "")
	s.do(404, "POST", rollouts+"/tier-gold/promote", "")
	if _, text := s.do(200, "GET", rollouts, ""); strings.TrimSpace(text) != "[]" {
		t.Errorf("rollouts that go on: %s", text)
	}
	s.do(304, "GET", "http://control/tenants/acme/config", "", "If-None-Match: "+header.Get("ETag"))
}

func TestWatch(t *testing.T) {
	s := newServer(t)
	s.do(400, "GET", base+"/watch", "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/watch?after=0", nil)
	check(t, err)
	response, err := s.client.Do(request)
	check(t, err)
	defer response.Body.Close()
	s.do(200, "PUT", base+"/cells/us-1", cell)
	lines := bufio.NewScanner(response.Body)
	var event []string
	for lines.Scan() && lines.Text() != "" {
		event = append(event, lines.Text())
	}
	if len(event) != 3 || event[0] != "id: 1" || !strings.Contains(event[2], `"us-1"`) {
		t.Errorf("the event is %q", event)
	}
	s.do(200, "DELETE", base+"/cells/us-1", "")
	check(t, s.store.Compact(t.Context()))
	s.do(410, "GET", base+"/watch?after=0", "")
}

// TestRoles: over TCP the SPIFFE ID decides, and nobody without a role gets in.
func TestRoles(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "ca.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- devca.Run(ctx, devca.Config{Socket: socket, DataDir: dir, TrustDomain: "mesh.example", Log: zap.NewNop()}, func() { close(ready) })
	}()
	<-ready
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	self, err := identity.ParsePrincipal("spiffe://mesh.example/person/eve")
	check(t, err)
	check(t, devca.NewClient(socket).Register(t.Context(), devca.Registration{ID: self, PID: os.Getpid(), UID: os.Getuid()}))
	source, err := svid.Open(t.Context(), "unix://"+socket)
	check(t, err)
	defer source.Close()
	person, err := identity.ParsePattern("spiffe://mesh.example/person/*")
	check(t, err)
	unix := s.client
	for role, may := range map[adminapi.Role][3]int{ // write, read, read a tenant's configuration
		adminapi.Operator: {200, 200, 404}, adminapi.Auditor: {403, 200, 404}, adminapi.Sidecar: {403, 403, 403}, "none": {403, 403, 403},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		web := &http.Server{
			Handler:   adminapi.Authenticated(adminapi.Roles{role: {person}}, s.handler),
			TLSConfig: svid.ServerTLS(source, svid.AuthorizeTrustDomain("mesh.example")), ReadHeaderTimeout: time.Second, ErrorLog: zap.NewStdLog(zap.NewNop()),
		}
		go func() { _ = web.ServeTLS(listener, "", "") }()
		address := "https://" + listener.Addr().String()
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: svid.ClientTLS(source, svid.AuthorizeIDs(self))}}
		s.do(may[0], "PUT", address+adminapi.Base+"/cells/us-1", cell)
		s.do(may[1], "GET", address+adminapi.Base+"/cells", "")
		s.do(may[2], "GET", address+"/tenants/nobody/config", "")
		if response, err := http.Get("http://" + listener.Addr().String() + "/audit"); err == nil && response.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP is answered %s", response.Status)
		}
		check(t, web.Close())
	}
	s.client = unix
	_, text := s.do(200, "GET", "http://control/audit", "")
	if !bytes.Contains([]byte(text), []byte(`"actor":"spiffe://mesh.example/person/eve"`)) {
		t.Errorf("the audit does not name the operator: %s", text)
	}
}
