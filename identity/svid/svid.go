// Package svid answers WHO AM I, AND WHO IS THE PEER: X.509-SVIDs over the SPIFFE Workload API, and mutual TLS
// whose authorizers name the SPIFFE IDs they expect.
//
// # Concurrency
//
// A [Source] may be used from many goroutines and follows rotation by itself; so do the TLS configurations
// made from it. A connection keeps the SVID it was made with.
//
// It imports identity, go-spiffe and grpc; never policy, tenantstore, xds or sidecar.
package svid

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/tenantmesh/tenantmesh/identity"
)

// EnvSocket is the environment variable that names the Workload API (SPIFFE Workload Endpoint, section 4).
const EnvSocket = "SPIFFE_ENDPOINT_SOCKET"

// Source is this process's own SVID and bundle, as they are now.
type Source struct{ source *workloadapi.X509Source }

// Open connects to the Workload API at address ("unix:///path"; "" means [EnvSocket]) and returns once the
// first SVID is there, or ctx ends.
func Open(ctx context.Context, address string) (*Source, error) {
	if address == "" {
		address = os.Getenv(EnvSocket)
	}
	if address == "" {
		return nil, fmt.Errorf("%s must name the SPIFFE Workload API, such as unix:///run/spire/agent.sock (got nothing)", EnvSocket)
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	if err != nil {
		return nil, fmt.Errorf("no SVID from the Workload API at %s: %w", address, err)
	}
	return &Source{source}, nil
}

// Principal is the SVID's SPIFFE ID.
func (s *Source) Principal() (identity.Principal, error) {
	own, err := s.source.GetX509SVID()
	if err != nil {
		return identity.Principal{}, err
	}
	return identity.PrincipalOf(own.ID), nil
}

// X509SVID is the SVID as it is now.
func (s *Source) X509SVID() (*x509svid.SVID, error) { return s.source.GetX509SVID() }

// Bundle is the own trust domain's bundle as it is now.
func (s *Source) Bundle() (*x509bundle.Bundle, error) {
	own, err := s.source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	return s.source.GetX509BundleForTrustDomain(own.ID.TrustDomain())
}

// BundleOf is the bundle of a trust domain as it is now: the own, or one that the Workload API federates with.
func (s *Source) BundleOf(trustDomain string) (*x509bundle.Bundle, error) {
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, err
	}
	return s.source.GetX509BundleForTrustDomain(domain)
}

// Updated returns a channel that receives after a rotation. There is one channel: one goroutine should read it.
func (s *Source) Updated() <-chan struct{} { return s.source.Updated() }

// Close ends the connection to the Workload API.
func (s *Source) Close() error { return s.source.Close() }

// Authorizer decides whether a verified SPIFFE ID may connect.
type Authorizer = tlsconfig.Authorizer

// AuthorizeIDs permits exactly these principals.
func AuthorizeIDs(allowed ...identity.Principal) Authorizer {
	return func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if !slices.Contains(allowed, identity.PrincipalOf(id)) {
			return fmt.Errorf("peer must be one of %v (is %s)", allowed, id)
		}
		return nil
	}
}

// AuthorizeTrustDomain permits every principal of one trust domain.
func AuthorizeTrustDomain(name string) Authorizer {
	return func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if id.TrustDomain().Name() != name {
			return fmt.Errorf("peer must be of trust domain %s (is %s)", name, id)
		}
		return nil
	}
}

// ServerTLS is a mutual TLS 1.3 configuration for a server.
func ServerTLS(source *Source, authorizer Authorizer) *tls.Config {
	config := tlsconfig.MTLSServerConfig(source.source, source.source, authorizer)
	config.MinVersion = tls.VersionTLS13
	return config
}

// ClientTLS is a mutual TLS 1.3 configuration for a client.
func ClientTLS(source *Source, authorizer Authorizer) *tls.Config {
	config := tlsconfig.MTLSClientConfig(source.source, source.source, authorizer)
	config.MinVersion = tls.VersionTLS13
	return config
}

// PeerPrincipal is the verified principal at the other end of a gRPC call over mutual TLS.
func PeerPrincipal(ctx context.Context) (identity.Principal, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Principal{}, errors.New("the call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Principal{}, errors.New("the call did not come over TLS")
	}
	return ofState(&info.State)
}

// RequestPrincipal is the verified principal at the other end of an HTTP request over mutual TLS.
func RequestPrincipal(r *http.Request) (identity.Principal, error) {
	if r.TLS == nil {
		return identity.Principal{}, errors.New("the request did not come over TLS")
	}
	return ofState(r.TLS)
}

func ofState(state *tls.ConnectionState) (identity.Principal, error) {
	if len(state.PeerCertificates) == 0 {
		return identity.Principal{}, errors.New("the peer showed no certificate")
	}
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return identity.Principal{}, err
	}
	return identity.PrincipalOf(id), nil
}
