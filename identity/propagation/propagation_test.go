package propagation_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/grpctenant"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"

	"net"
)

const edge = "spiffe://mesh.example/gateway/edge"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mesh is a sidecar's keys, and who signs by the first of them.
type mesh struct {
	t      *testing.T
	signer *tenanttoken.Signer
	keys   []tenanttoken.Key
	down   bool
	asked  int
}

func (m *mesh) key() *tenanttoken.Signer {
	m.t.Helper()
	principal, err := identity.ParsePrincipal(edge)
	check(m.t, err)
	key, err := tenanttoken.NewSigningKey(time.Now().Add(time.Hour))
	check(m.t, err)
	signer, err := tenanttoken.NewSigner(key, principal)
	check(m.t, err)
	m.keys = append(m.keys, tenanttoken.Key{KID: key.KID, Principal: principal, Public: key.Public(), Scope: tenanttoken.Scope{Gateway: true}, NotAfter: key.NotAfter})
	return signer
}

func (m *mesh) sign(signer *tenanttoken.Signer, change func(*tenanttoken.Claims)) string {
	m.t.Helper()
	acme, err := identity.ParseTenantID("acme")
	check(m.t, err)
	claims := tenanttoken.Claims{
		Audience: "mesh.example", IssuedAt: time.Now(), Expiry: time.Now().Add(time.Minute), Txn: "txn", Subject: "alice",
		Context: tenanttoken.Context{Tenant: acme, UID: "uid-1", Tier: "gold", Cell: "us-1", Epoch: 1, Role: tenanttoken.Owner, Purpose: tenanttoken.Request},
	}
	if change != nil {
		change(&claims)
	}
	text, err := signer.Sign(claims)
	check(m.t, err)
	return text
}

// ServeHTTP is a sidecar's health port.
func (m *mesh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.asked++
	if m.down || r.URL.Path != propagation.PathContextKeys {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(propagation.ContextKeys{TrustDomain: "mesh.example", Keys: tenanttoken.NewKeySet(m.keys...)})
}

func newMesh(t *testing.T) (*mesh, *propagation.Verifier) {
	t.Helper()
	m := &mesh{t: t}
	m.signer = m.key()
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	return m, propagation.NewVerifier(&propagation.Sidecar{URL: server.URL})
}

// TestHTTP: a request is let in by a context that is verified, whatever header names a tenant, and its calls go out with that context.
func TestHTTP(t *testing.T) {
	m, v := newMesh(t)
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header.Values("Txn-Token"), ","))
	}))
	defer back.Close()
	client := &http.Client{Transport: propagation.Transport{}}
	front := httptest.NewServer(propagation.Middleware(v, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, _ := propagation.From(r.Context())
		ctx := r.Context()
		if r.URL.Path == "/lost" {
			ctx = context.Background()
		}
		call, err := http.NewRequestWithContext(ctx, http.MethodPost, back.URL+"/x?q", strings.NewReader("body"))
		check(t, err)
		call.Header.Set("Txn-Token", "somebody's")
		response, err := client.Do(call)
		if err != nil {
			if !errors.Is(err, propagation.ErrTenantless) {
				t.Errorf("another error: %v", err)
			}
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		defer func() { _ = response.Body.Close() }()
		sent, _ := io.ReadAll(response.Body)
		w.Header().Set("Tenant", tenant.ID.String()+" "+tenant.UID+" "+tenant.Tier+" "+tenant.Cell+" "+tenant.Txn)
		_, _ = w.Write(sent)
	})))
	defer front.Close()
	ask := func(path string, contexts ...string) (int, string, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+path, nil)
		check(t, err)
		request.Header.Set("X-Tenant-Id", "globex") // anybody can write it
		for _, c := range contexts {
			request.Header.Add("Txn-Token", c)
		}
		response, err := http.DefaultClient.Do(request)
		check(t, err)
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		check(t, err)
		return response.StatusCode, response.Header.Get("Tenant"), string(text)
	}
	good := m.sign(m.signer, nil)
	if code, tenant, sent := ask("/", good); code != 200 || tenant != "acme uid-1 gold us-1 txn" || sent != good {
		t.Errorf("%d for %q, and back got %q", code, tenant, sent)
	}
	if code, _, text := ask("/lost", good); code != http.StatusTeapot || !strings.Contains(text, "tenantless outbound call: POST "+back.URL+"/x,") {
		t.Errorf("a call for none: %d %s", code, text)
	}
	stranger := (&mesh{t: t}).key()
	for name, test := range map[string]struct {
		contexts []string
		says     string
	}{
		"none":         {nil, "must carry one tenant context (got 0)"},
		"two":          {[]string{good, good}, "(got 2)"},
		"forged":       {[]string{m.sign(stranger, nil)}, "not accepted"},
		"altered":      {[]string{good + "A"}, "not accepted"},
		"of elsewhere": {[]string{m.sign(m.signer, func(c *tenanttoken.Claims) { c.Audience = "other.example" })}, "not accepted"},
		"over": {[]string{m.sign(m.signer, func(c *tenanttoken.Claims) {
			c.IssuedAt, c.Expiry = time.Now().Add(-time.Hour), time.Now().Add(-59*time.Minute)
		})}, "not accepted"},
		"a tenant in no token": {[]string{"acme"}, "not accepted"},
	} {
		if code, _, text := ask("/", test.contexts...); code != http.StatusForbidden || !strings.Contains(text, test.says) {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
}

// TestKeys: a key that is new is fetched when it is first seen, and not for every forgery; those that are known outlive the sidecar.
func TestKeys(t *testing.T) {
	m, v := newMesh(t)
	verify := func(text string) error {
		_, err := v.Verify(t.Context(), []string{text})
		return err
	}
	m.down = true
	if err := verify(m.sign(m.signer, nil)); !errors.Is(err, propagation.ErrUnknownKeys) {
		t.Errorf("without a sidecar: %v", err)
	}
	m.down = false
	<-time.After(1100 * time.Millisecond) // it is not asked at once again
	check(t, verify(m.sign(m.signer, nil)))
	second := m.key()
	asked := m.asked
	for range 100 {
		if err := verify(m.sign((&mesh{t: t}).key(), nil)); !errors.Is(err, propagation.ErrRefused) {
			t.Fatalf("a forgery: %v", err)
		}
	}
	if m.asked > asked+1 {
		t.Errorf("100 forgeries have the sidecar asked %d times", m.asked-asked)
	}
	<-time.After(1100 * time.Millisecond)
	check(t, verify(m.sign(second, nil)))
	m.down = true
	check(t, verify(m.sign(m.signer, nil)))
}

// TestGRPC: the same by gRPC, for calls and streams.
func TestGRPC(t *testing.T) {
	m, v := newMesh(t)
	serve := func(options ...grpc.ServerOption) *grpc.ClientConn {
		t.Helper()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		server := grpc.NewServer(options...)
		healthpb.RegisterHealthServer(server, health.NewServer())
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(grpctenant.UnaryClient()), grpc.WithStreamInterceptor(grpctenant.StreamClient()))
		check(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	conn := serve(grpc.UnaryInterceptor(grpctenant.UnaryServer(v)), grpc.StreamInterceptor(grpctenant.StreamServer(v)))
	client := healthpb.NewHealthClient(conn)
	both := func(ctx context.Context) (unary, stream error) {
		_, unary = client.Check(ctx, &healthpb.HealthCheckRequest{})
		watch, stream := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if stream == nil {
			_, stream = watch.Recv()
		}
		return unary, stream
	}
	request, err := v.Verify(t.Context(), []string{m.sign(m.signer, nil)})
	check(t, err)
	request, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(request, "txn-token", "somebody's"), 5*time.Second)
	defer cancel()
	if unary, stream := both(request); unary != nil || stream != nil {
		t.Errorf("for a tenant: %v, %v", unary, stream)
	}
	if unary, stream := both(t.Context()); !errors.Is(unary, propagation.ErrTenantless) || !errors.Is(stream, propagation.ErrTenantless) || !strings.Contains(unary.Error(), "/grpc.health.v1.Health/Check") {
		t.Errorf("for none: %v, %v", unary, stream)
	}
	plain, err := grpc.NewClient(conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer func() { _ = plain.Close() }()
	client = healthpb.NewHealthClient(plain)
	for name, sent := range map[string][]string{"none": nil, "two": {"txn-token", "a", "txn-token", "b"}, "forged": {"txn-token", m.sign((&mesh{t: t}).key(), nil)}} {
		unary, stream := both(metadata.AppendToOutgoingContext(t.Context(), sent...))
		if status.Code(unary) != codes.PermissionDenied || status.Code(stream) != codes.PermissionDenied {
			t.Errorf("%s: %v, %v", name, unary, stream)
		}
	}
}
