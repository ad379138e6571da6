package mover

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Peer answers other gateways, over mutual TLS: as a tenant's mover, this one takes the writes that both cells must get.
// It does not hold what it may not take: it gives it back, and who sent it decides again.
func (m *Mover) Peer() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := svid.RequestPrincipal(r)
		set := m.Sets.Load()
		if err != nil || set == nil || set.Self == nil || !set.Self.Peers[peer] {
			http.Error(w, "only a gateway of this mesh may send anything here", http.StatusForbidden)
			return
		}
		lease := rand.Text()
		defer m.Decider.End(decide.Ended{Lease: lease})
		m.serve(w, r, lease, true)
	})
}

// giveBack answers another gateway that nothing was done.
func (q *request) giveBack() {
	q.w.Header().Set(propagation.HeaderUntaken, "1")
	q.w.WriteHeader(http.StatusMisdirectedRequest)
}

// via sends a write to the gateway that is the tenant's mover. It reports false when that gave it back, or was not
// reached, and it can be sent again.
func (q *request) via(address string) (taken bool) {
	out := q.r.Clone(q.r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "https", address, ""
	out.Host = q.r.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(q.body)), int64(len(q.body))
	out.GetBody = nil
	for _, name := range []string{propagation.HeaderLease, propagation.HeaderCell, "Connection"} {
		out.Header.Del(name)
	}
	response, err := q.peers.RoundTrip(out)
	if err != nil {
		var dialed *net.OpError
		if errors.As(err, &dialed) && dialed.Op == "dial" { // nothing was sent
			return false
		}
		q.unreached(err)
		return true
	}
	if notTaken(response) {
		_ = response.Body.Close()
		return false
	}
	q.answer(response)
	return true
}
