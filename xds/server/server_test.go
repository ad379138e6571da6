package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	envoycache "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	deltastream "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

func tenantIn(audience, name string, burst int64) Resource {
	return Resource{Key{meshname.TypeTenantPolicy, audience, name}, &api.TenantPolicy{Tenant: name, Limits: &api.Limits{Burst: burst}}}
}

// directory knows subjects by the last part of their SPIFFE ID.
type directory map[string]Subject

func (directory) Changed() <-chan struct{} { return nil }

func (d directory) Lookup(principal identity.Principal) (Subject, bool) {
	s, ok := d[principal.Path()[strings.LastIndexByte(principal.Path(), '/')+1:]]
	return s, ok
}

type members struct{}

func (members) Joined(context.Context, *Peer) error                      { return nil }
func (members) Reported(context.Context, *Peer, *api.MemberReport) error { return nil }
func (members) Fresh() bool                                              { return true }

func (members) Gone(*Peer) {}

// serve runs a server over real mTLS, and returns a function that connects as a workload.
func serve(t *testing.T, cache *Cache, d Directory, change ...func(*Config)) func(t *testing.T, name string) *client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	roots := x509.NewCertPool()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	check(t, err)
	root, err := x509.ParseCertificate(der)
	check(t, err)
	roots.AddCert(root)
	issue := func(name string) tls.Certificate {
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"control"}, KeyUsage: x509.KeyUsageDigitalSignature,
			URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.example", Path: "/w/" + name}},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
		check(t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{issue("control")}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})))
	ctx, cancel := context.WithCancel(context.Background())
	config := Config{Cache: cache, Directory: d, Members: members{}, Log: zap.NewNop()}
	for _, f := range change {
		f(&config)
	}
	Register(ctx, g, config)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		cancel()
		g.Stop()
		check(t, <-done)
	})
	return func(t *testing.T, name string) *client {
		t.Helper()
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{issue(name)}, RootCAs: roots, ServerName: "control",
		})))
		check(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
		check(t, err)
		return &client{t, conn, stream}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type client struct {
	t      *testing.T
	conn   *grpc.ClientConn
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

func (c *client) send(r *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	if r.TypeUrl == "" {
		r.TypeUrl = meshname.TypeTenantPolicy
	}
	check(c.t, c.stream.Send(r))
}

// receive returns an answer as "+name" and "-name", and its nonce.
func (c *client) receive() (changes []string, nonce string) {
	c.t.Helper()
	response, err := c.stream.Recv()
	check(c.t, err)
	for _, r := range response.Resources {
		changes = append(changes, "+"+r.Name)
	}
	for _, name := range response.RemovedResources {
		changes = append(changes, "-"+name)
	}
	return changes, response.Nonce
}

func (c *client) want(changes ...string) (nonce string) {
	c.t.Helper()
	got, nonce := c.receive()
	if !slices.Equal(got, changes) {
		c.t.Errorf("got %v, want %v", got, changes)
	}
	return nonce
}

func TestEachGetsItsOwn(t *testing.T) {
	cache := NewCache()
	connect := serve(t, cache, directory{"us": {Role: "sidecar", Audiences: []string{"all", "us"}}, "eu": {Role: "sidecar", Audiences: []string{"all", "eu"}}})
	check(t, cache.Apply(1, []Resource{tenantIn("us", "acme", 1), tenantIn("eu", "initech", 1), tenantIn("all", "everyone", 1)}, nil))
	us := connect(t, "us")
	// Whatever node it claims to be and whatever it asks for, it gets what its certificate entitles it to.
	us.send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "eu"}, ResourceNamesSubscribe: []string{"initech"}})
	us.want("+acme", "+everyone")
	eu := connect(t, "eu")
	eu.send(&discovery.DeltaDiscoveryRequest{})
	eu.want("+everyone", "+initech")

	stranger := connect(t, "stranger")
	stranger.send(&discovery.DeltaDiscoveryRequest{})
	if _, err := stranger.stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a principal that nobody listed gets %v", err)
	}
}

func TestChangesAndAck(t *testing.T) {
	cache := NewCache()
	connect := serve(t, cache, directory{"us": {Role: "sidecar", Audiences: []string{"us"}}})
	check(t, cache.Apply(1, []Resource{tenantIn("us", "acme", 1), tenantIn("us", "globex", 1)}, nil))
	c := connect(t, "us")
	c.send(&discovery.DeltaDiscoveryRequest{})
	nonce := c.want("+acme", "+globex")
	if s := cache.Status(1); s.Enforced != 0 || s.Total != 1 {
		t.Errorf("before the ACK: %+v", s)
	}
	c.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	s, err := cache.Wait(t.Context(), 1)
	if err != nil || !s.Done() {
		t.Errorf("after the ACK: %+v, %v", s, err)
	}

	check(t, cache.Apply(2, []Resource{tenantIn("us", "acme", 1)}, nil))  // as it was
	check(t, cache.Apply(3, []Resource{tenantIn("eu", "other", 1)}, nil)) // for others
	if s := cache.Status(3); !s.Done() {
		t.Errorf("changes that do not concern it: %+v", s)
	}
	check(t, cache.Apply(4, []Resource{tenantIn("us", "acme", 2)}, nil))
	check(t, cache.Apply(5, nil, []Key{{meshname.TypeTenantPolicy, "us", "globex"}, {meshname.TypeTenantPolicy, "us", "never"}}))
	nonce = c.want("+acme")
	c.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	nonce = c.want("-globex")
	c.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	if s, err = cache.Wait(t.Context(), 5); err != nil || !s.Done() {
		t.Errorf("after both ACKs: %+v, %v", s, err)
	}
	if who := cache.Refused(0); who != "" {
		t.Errorf("after the next ACK %q", who)
	}
}

// TestComesBack: a client that says what it has gets only what changed since.
func TestComesBack(t *testing.T) {
	cache := NewCache()
	connect := serve(t, cache, directory{"us": {Audiences: []string{"us"}}})
	check(t, cache.Apply(1, []Resource{tenantIn("us", "acme", 1), tenantIn("us", "globex", 1)}, nil))
	c := connect(t, "us")
	c.send(&discovery.DeltaDiscoveryRequest{})
	response, err := c.stream.Recv()
	check(t, err)
	have := map[string]string{"gone": "1"}
	for _, r := range response.Resources {
		have[r.Name] = r.Version
	}
	check(t, cache.Apply(2, []Resource{tenantIn("us", "globex", 2)}, nil))
	again := connect(t, "us")
	again.send(&discovery.DeltaDiscoveryRequest{InitialResourceVersions: have})
	again.want("+globex", "-gone")
	same := connect(t, "us")
	delete(have, "gone")
	check(t, cache.Apply(3, []Resource{tenantIn("us", "globex", 1)}, nil))
	same.send(&discovery.DeltaDiscoveryRequest{InitialResourceVersions: have})
	same.want() // an empty answer says that it has all there is
}

// BenchmarkPublishOneTenant changes one of many tenants, with 50 sidecars that serve it.
func BenchmarkPublishOneTenant(b *testing.B) {
	for _, n := range []int{100, 12000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			cache := NewCache()
			var all []Resource
			for i := range n {
				all = append(all, tenantIn("us", fmt.Sprintf("tenant-%05d", i), 1))
			}
			check(b, cache.Apply(1, all, nil))
			const watchers = 50
			channel := make(chan envoycache.DeltaResponse, 2*watchers)
			known := deltastream.NewDeltaSubscription(nil, nil, nil, true)
			request := func(id int64) *discovery.DeltaDiscoveryRequest {
				return &discovery.DeltaDiscoveryRequest{TypeUrl: meshname.TypeTenantPolicy, Node: &core.Node{Id: fmt.Sprint(id)}}
			}
			for id := range int64(watchers) {
				cache.open(&stream{id: id, subject: Subject{Audiences: []string{"us"}}, types: map[string]*subscription{}})
				_, err := cache.CreateDeltaWatch(request(id), &known, channel)
				check(b, err)
				<-channel
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				for id := range int64(watchers) {
					cache.sending(id, meshname.TypeTenantPolicy, "n")
					cache.answered(id, meshname.TypeTenantPolicy, "n", "")
					_, err := cache.CreateDeltaWatch(request(id), &known, channel)
					check(b, err)
				}
				b.StartTimer()
				check(b, cache.Apply(int64(i+2), []Resource{tenantIn("us", "tenant-00007", int64(i+2))}, nil))
				for range watchers {
					<-channel
				}
			}
		})
	}
}
