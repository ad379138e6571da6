package sidecar

import (
	"crypto/x509"
	"fmt"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/sidecar/events"
	"github.com/tenantmesh/tenantmesh/sidecar/report"
)

// eventTokens exchanges tokens of events for the service.
func (s *sidecar) eventTokens() http.Handler {
	domain := svid.AuthorizeTrustDomain(s.self.TrustDomain())
	gateway := func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		if err := domain(id, chains); err != nil {
			return err
		}
		if !identity.IsGateway(identity.PrincipalOf(id)) {
			return fmt.Errorf("peer must be a gateway (is %s)", id)
		}
		return s.notShutOut(id, chains)
	}
	transport := &http.Transport{TLSClientConfig: svid.ClientTLS(s.source, gateway), ForceAttemptHTTP2: true, Proxy: nil}
	return &events.Local{Decider: s.decider, Client: &http.Client{Transport: transport}}
}

// notShutOut refuses an instance that an operator shut out.
func (s *sidecar) notShutOut(id spiffeid.ID, chains [][]*x509.Certificate) error {
	if set := s.sets.Load(); len(chains) > 0 && set != nil && set.Self != nil && set.Self.Fenced[report.Fingerprint(chains[0][0])] {
		return fmt.Errorf("peer must not be an instance that was shut out (is %s)", id)
	}
	return nil
}

// members permits the gateways of the mesh, and the sidecars of workloads that have events, as they are now.
func (s *sidecar) members(domain svid.Authorizer) svid.Authorizer {
	gateways := s.gateways(domain)
	return func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		set := s.sets.Load()
		if set == nil || set.Self == nil {
			return gateways(id, chains)
		}
		if _, ok := set.Self.EventPeers[identity.PrincipalOf(id)]; !ok {
			return gateways(id, chains)
		}
		if err := domain(id, chains); err != nil {
			return err
		}
		return s.notShutOut(id, chains)
	}
}

// byPeer has gateways answered by their handler, and everybody else, who is let in for tokens of events, by what is for that alone: a path tells nothing,
// a gateway sends on those of clients.
func (s *sidecar) byPeer(gateways http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := svid.RequestPrincipal(r)
		set := s.sets.Load()
		if err == nil && set != nil && set.Self != nil && !set.Self.Peers[peer] {
			// A connection may outlive what let it in: the decision looks again at whose it is, and here at which instance's.
			if id, err := spiffeid.FromString(peer.String()); err != nil || s.notShutOut(id, [][]*x509.Certificate{r.TLS.PeerCertificates}) != nil {
				http.Error(w, "the peer was shut out", http.StatusForbidden)
				return
			}
			events.Peer(s.decider, peer).ServeHTTP(w, r)
			return
		}
		gateways.ServeHTTP(w, r)
	})
}
