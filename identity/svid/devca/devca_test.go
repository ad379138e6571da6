package devca_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
)

// start runs a CA in dir and returns its socket and what stops it.
func start(t *testing.T, dir string, ttl time.Duration) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(dir, "api.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- devca.Run(ctx, devca.Config{Socket: socket, DataDir: dir, TrustDomain: "a.example", TTL: ttl, Log: zap.NewNop()}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return socket, stop
}

func workload(t *testing.T, name string) identity.Principal {
	t.Helper()
	id, err := identity.WorkloadID("a.example", "us-1", name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func register(t *testing.T, socket string, r devca.Registration) {
	t.Helper()
	for _, name := range []string{socket, "unix://" + socket} { // the second as SPIFFE_ENDPOINT_SOCKET has it
		if err := devca.NewClient(name).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMutualTLSAndRotation(t *testing.T) {
	dir := t.TempDir()
	socket, stop := start(t, dir, devca.MinTTL)
	defer stop()
	id := workload(t, "search")
	register(t, socket, devca.Registration{ID: id, PID: os.Getpid(), UID: -1})
	source, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if got, err := source.Principal(); err != nil || got != id {
		t.Fatalf("principal %v, %v; want %v", got, err, id)
	}
	first, err := source.X509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, svid.ServerTLS(source, svid.AuthorizeIDs(id)), svid.ClientTLS(source, svid.AuthorizeTrustDomain("a.example"))); err != nil {
		t.Error(err)
	}
	for name, client := range map[string]svid.Authorizer{"other ID": svid.AuthorizeIDs(workload(t, "else")), "other domain": svid.AuthorizeTrustDomain("b.example")} {
		if err := handshake(t, svid.ServerTLS(source, svid.AuthorizeIDs(id)), svid.ClientTLS(source, client)); err == nil {
			t.Errorf("%s: the client accepts the server", name)
		}
	}
	<-source.Updated()
	next, err := source.X509SVID()
	if err != nil || next.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) == 0 {
		t.Errorf("after a rotation the SVID is the same (%v)", err)
	}
}

func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() { _ = tls.Server(a, server).HandshakeContext(t.Context()) }()
	return tls.Client(b, client).HandshakeContext(t.Context())
}

func TestAttestation(t *testing.T) {
	socket, stop := start(t, t.TempDir(), time.Hour)
	defer stop()
	client := devca.NewClient(socket)
	for name, r := range map[string]devca.Registration{
		"other domain": {ID: mustParse(t, "spiffe://b.example/x"), PID: os.Getpid(), UID: -1},
		"anybody":      {ID: workload(t, "x"), UID: -1},
		"no process":   {ID: workload(t, "x"), PID: 1 << 29, UID: -1},
	} {
		if err := client.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), "must") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Registered for another user, and for a process that is not an ancestor of this one: neither is us.
	register(t, socket, devca.Registration{ID: workload(t, "other-user"), UID: os.Getuid() + 1})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if source, err := svid.Open(ctx, "unix://"+socket); err == nil {
		id, _ := source.Principal()
		t.Errorf("an SVID of %v was given to a caller that nobody registered", id)
	}
	// The test's parent is registered: this process descends from it.
	register(t, socket, devca.Registration{ID: workload(t, "child"), PID: os.Getppid(), UID: os.Getuid()})
	source, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	source.Close()
}

func mustParse(t *testing.T, s string) identity.Principal {
	id, err := identity.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	socket, stop := start(t, dir, time.Hour)
	register(t, socket, devca.Registration{ID: workload(t, "search"), PID: os.Getpid(), UID: -1})
	before, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	stop()
	socket, stop = start(t, dir, time.Hour)
	defer stop()
	after, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if err := handshake(t, svid.ServerTLS(before, svid.AuthorizeIDs(workload(t, "search"))), svid.ClientTLS(after, svid.AuthorizeIDs(workload(t, "search")))); err != nil {
		t.Errorf("SVIDs from before and after a restart do not trust each other: %v", err)
	}
	if err := devca.NewClient(socket).Unregister(t.Context(), workload(t, "search")); err != nil {
		t.Error(err)
	}
}

func TestJWT(t *testing.T) {
	socket, stop := start(t, t.TempDir(), time.Hour)
	defer stop()
	register(t, socket, devca.Registration{ID: workload(t, "search"), PID: os.Getpid(), UID: -1})
	client, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	token, err := client.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), "x"); err != nil || got.ID != token.ID {
		t.Errorf("validated as %v, %v", got, err)
	}
	if _, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), "y"); err == nil {
		t.Error("a token for another audience is good")
	}
	bundles, err := client.FetchJWTBundles(t.Context())
	if err != nil || bundles.Len() != 1 {
		t.Errorf("JWT bundles %v, %v", bundles, err)
	}
	roots, err := client.FetchX509Bundles(t.Context())
	if err != nil || roots.Len() != 1 {
		t.Errorf("X.509 bundles %v, %v", roots, err)
	}
}

// TestReplace: the authority is replaced in three steps, of which each is seen at once, and outlives a restart.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	socket, stop := start(t, dir, time.Hour)
	id := workload(t, "search")
	register(t, socket, devca.Registration{ID: id, PID: os.Getpid(), UID: -1})
	source, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	// It waits until so many authorities are trusted, and returns the key ID of that which signed the SVID.
	state := func(trusted int) (signer string) {
		t.Helper()
		for {
			own, err := source.X509SVID()
			if err != nil {
				t.Fatal(err)
			}
			bundle, err := source.Bundle()
			if err != nil {
				t.Fatal(err)
			}
			if len(bundle.X509Authorities()) == trusted {
				if _, _, err := x509svid.Verify(own.Certificates, bundle); err != nil {
					t.Fatal(err)
				}
				return string(own.Certificates[0].AuthorityKeyId)
			}
			select {
			case <-source.Updated():
			case <-time.After(10 * time.Second):
				t.Fatalf("%d authorities are trusted, want %d", len(bundle.X509Authorities()), trusted)
			}
		}
	}
	step := func(step devca.Step) {
		t.Helper()
		if err := devca.NewClient(socket).Replace(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(step devca.Step) {
		t.Helper()
		if err := devca.NewClient(socket).Replace(t.Context(), step); err == nil {
			t.Errorf("%s was taken", step)
		}
	}
	before := state(1)
	refused(devca.Activate)
	refused("begin")
	step(devca.Prepare)
	refused(devca.Prepare)
	if state(2) != before {
		t.Error("who signs changed with what is trusted")
	}
	step(devca.Activate)
	for state(2) == before {
		<-source.Updated()
	}
	step(devca.Retire)
	after := state(1)
	stop()
	socket, stop = start(t, dir, time.Hour)
	defer stop()
	again, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if own, err := again.X509SVID(); err != nil || after == before || string(own.Certificates[0].AuthorityKeyId) != after {
		t.Errorf("after a restart another signs: %v", err)
	}
}
