// Package relay answers WHAT DOES ENVOY GET: the resources that the control plane pushed, with what only this process
// knows: its ports, where the service listens, whom the machine trusts, and the SVID and bundle as SDS secrets.
//
// # Concurrency
//
// A [Relay] may be used from many goroutines.
//
// It imports identity, sidecar/policysync, sidecar/policyset and go-control-plane.
package relay

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	deltaserver "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
)

// Config says what only this process knows.
type Config struct {
	Source      *svid.Source
	Ports       map[string]int // by listener
	Address     string         // of inbound and gateway listeners, an IP address
	ServicePort int            // 0: what the control plane says
	Dir         string         // of Unix sockets
}

const typeSecret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Relay serves delta ADS to the one Envoy beside.
type Relay struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	Config
	// OnVerdict is told, in order, of each answer of Envoy, with the number of the update that it answers; set before the
	// relay is served.
	OnVerdict func(typeURL string, sequence int64, refusal error)

	cache  cachev3.SnapshotCache
	server deltaserver.Server

	mu       sync.Mutex
	sequence int64
	pushed   map[string][]types.Resource // by type, with this process's ports
	self     policyset.Self
	sent     map[string]int64            // by nonce and type: sequence
	kept     map[string]*cluster.Cluster // pools that were pushed once
	refused  bool                        // Envoy refused clusters since the last update
}

// oneNode says that there is one Envoy.
type oneNode struct{}

func (oneNode) ID(*core.Node) string { return "envoy" }

// New returns a relay, which serves until ctx ends.
func New(ctx context.Context, config Config) *Relay {
	r := &Relay{
		Config: config, cache: cachev3.NewSnapshotCache(true, oneNode{}, nil),
		sent: map[string]int64{}, kept: map[string]*cluster.Cluster{},
	}
	r.server = deltaserver.NewServer(ctx, r.cache, r)
	return r
}

// DeltaAggregatedResources implements ADS, incremental.
func (r *Relay) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return r.server.DeltaStreamHandler(stream, "")
}

// Update implements [policysync.Envoy].
func (r *Relay) Update(state *policysync.State, set *policyset.Set) (int64, error) {
	pushed := map[string][]types.Resource{}
	for _, typeURL := range policysync.EnvoyTypes {
		for name, resource := range state.Resources[typeURL] {
			message, err := resource.Any(typeURL).UnmarshalNew()
			if err != nil {
				return 0, fmt.Errorf("%s %q: %w", typeURL, name, err)
			}
			if l, ok := message.(*listener.Listener); ok {
				if l.Name == meshname.ListenerCaptured && r.Ports[l.Name] == 0 {
					continue // this service is not captured
				}
				r.place(l)
			}
			pushed[typeURL] = append(pushed[typeURL], message)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(r.pushed)
	r.pushed = pushed
	if set != nil && set.Self != nil {
		r.self = *set.Self
	}
	return r.publish()
}

// Rotated gives Envoy the SVID as it is now.
func (r *Relay) Rotated() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.publish()
	return err
}

func (r *Relay) publish() (int64, error) {
	resources := maps.Clone(r.pushed)
	if resources == nil {
		resources = map[string][]types.Resource{}
	}
	if r.self.Workload != "" {
		typeURL := policysync.EnvoyTypes[1]
		resources[typeURL] = append(slices.Clone(resources[typeURL]), r.localService(meshname.ClusterLocalService))
		resources[policysync.EnvoyTypes[0]] = r.withPools(resources[policysync.EnvoyTypes[0]])
	}
	secrets, err := r.secrets()
	if err != nil {
		return 0, err
	}
	resources[typeSecret] = secrets
	sequence := r.sequence + 1
	snapshot, err := cachev3.NewSnapshot(strconv.FormatInt(sequence, 10), resources)
	if err != nil {
		return 0, err
	}
	if err := r.cache.SetSnapshot(context.Background(), "envoy", snapshot); err != nil {
		return 0, err
	}
	r.sequence = sequence
	return sequence, nil
}

// place gives a listener this process's address and port.
func (r *Relay) place(l *listener.Listener) {
	if pipe := l.GetAddress().GetPipe(); pipe != nil {
		pipe.Path = filepath.Join(r.Dir, pipe.Path)
		return
	}
	address := l.GetAddress().GetSocketAddress()
	if port, ok := r.Ports[l.Name]; ok {
		address.PortSpecifier = &core.SocketAddress_PortValue{PortValue: uint32(port)}
	}
	if l.Name == meshname.ListenerCaptured {
		if hasIPv6() {
			l.AdditionalAddresses = []*listener.AdditionalAddress{{Address: socketAddress("::1", r.Ports[l.Name])}}
		}
		return
	}
	if l.Name != meshname.ListenerOutbound && r.Address != "" {
		address.Address = r.Address
	}
}

// hasIPv6 reports whether the loopback interface has IPv6's address: without it no connection can be sent there, and
// Envoy would refuse the whole listener.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	return err == nil && l.Close() == nil
}

func socketAddress(address string, port int) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// localService is where the service listens, for a cluster.
func (r *Relay) localService(name string) *endpoint.ClusterLoadAssignment {
	port := r.ServicePort
	if port == 0 {
		port = r.self.ServicePort
	}
	return &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: []*endpoint.LbEndpoint{{
		HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)},
		}}}}},
	}}}}}
}

// nobody is a SPIFFE ID that nobody has: a validation context without any name would let everyone in.
const nobody = "spiffe://invalid.invalid/nobody"

func (r *Relay) secrets() ([]types.Resource, error) {
	own, err := r.Source.X509SVID()
	if err != nil {
		return nil, err
	}
	bundle, err := r.Source.Bundle()
	if err != nil {
		return nil, err
	}
	cert, key, err := own.Marshal()
	if err != nil {
		return nil, err
	}
	roots := inline(pemOf(bundle.X509Authorities()))
	peers := []string{nobody}
	if len(r.self.Peers) > 0 {
		peers = peers[:0]
		for peer := range r.self.Peers {
			peers = append(peers, peer.String())
		}
		slices.Sort(peers) // the same peers are the same secret
	}
	named := &tls.CertificateValidationContext{TrustedCa: roots}
	for _, peer := range peers {
		named.MatchTypedSubjectAltNames = append(named.MatchTypedSubjectAltNames, &tls.SubjectAltNameMatcher{
			SanType: tls.SubjectAltNameMatcher_URI, Matcher: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: peer}},
		})
	}
	if err := r.federate(named, own.ID.TrustDomain().Name(), peers); err != nil {
		return nil, err
	}
	secrets := []types.Resource{
		&tls.Secret{Name: meshname.SecretSVID, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{CertificateChain: inline(cert), PrivateKey: inline(key)}}},
		&tls.Secret{Name: meshname.SecretBundle, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{TrustedCa: roots}}},
		&tls.Secret{Name: meshname.SecretPeers, Type: &tls.Secret_ValidationContext{ValidationContext: named}},
	}
	if path := systemRoots(); path != "" {
		secrets = append(secrets, &tls.Secret{Name: meshname.SecretRoots, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
			TrustedCa: &core.DataSource{Specifier: &core.DataSource_Filename{Filename: path}},
		}}})
	}
	return secrets, nil
}

// rootFiles are where Linux distributions keep whom a machine trusts, as crypto/x509 looks for it.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Gentoo, Arch, Alpine
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7 and newer
	"/etc/ssl/cert.pem",                                 // Alpine before 3.4
}

// systemRoots is the file of the roots that this machine trusts: SSL_CERT_FILE's, or the distribution's; "" where there
// is none, and then no Dependency with TLS can be called.
func systemRoots() string {
	if path := os.Getenv("SSL_CERT_FILE"); path != "" {
		return path
	}
	for _, path := range rootFiles {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func pemOf(certificates []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func inline(text []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: text}}
}

// OnDeltaStreamOpen implements deltaserver.Callbacks: a new Envoy knows nothing.
func (r *Relay) OnDeltaStreamOpen(context.Context, int64, string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.sent)
	clear(r.kept)
	return nil
}

// OnDeltaStreamClosed implements deltaserver.Callbacks.
func (r *Relay) OnDeltaStreamClosed(int64, *core.Node) {}

// OnStreamDeltaResponse implements deltaserver.Callbacks.
func (r *Relay) OnStreamDeltaResponse(_ int64, _ *discovery.DeltaDiscoveryRequest, response *discovery.DeltaDiscoveryResponse) {
	sequence, _ := strconv.ParseInt(response.SystemVersionInfo, 10, 64)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent[response.TypeUrl+" "+response.Nonce] = sequence
}

// OnStreamDeltaRequest implements deltaserver.Callbacks.
func (r *Relay) OnStreamDeltaRequest(_ int64, request *discovery.DeltaDiscoveryRequest) error {
	if request.ResponseNonce == "" {
		return nil
	}
	var refusal error
	if request.ErrorDetail != nil {
		refusal = errors.New("envoy: " + request.ErrorDetail.Message)
	}
	key := request.TypeUrl + " " + request.ResponseNonce
	r.mu.Lock()
	sequence, ok := r.sent[key]
	delete(r.sent, key)
	r.refused = r.refused || refusal != nil && request.TypeUrl == policysync.EnvoyTypes[0]
	r.mu.Unlock()
	if ok && r.OnVerdict != nil {
		r.OnVerdict(request.TypeUrl, sequence, refusal)
	}
	return nil
}
