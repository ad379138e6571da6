// Package eventtest is a sidecar that exchanges tokens of events, with tenants whose state tests choose.
//
// It imports identity and its rooms; only tests import it.
package eventtest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

// TrustDomain is that of the sidecar's mesh.
const TrustDomain = "mesh.example"

// Sidecar is the health port of one, and the gateway that signs for it.
type Sidecar struct {
	URL string

	t      testing.TB
	key    tenanttoken.Key
	signer *tenanttoken.Signer

	mu      sync.Mutex
	down    bool
	refused map[string]event.Reason // by tenant
	asked   map[string]int          // by path
}

// Start starts one, which ends with the test.
func Start(t testing.TB) *Sidecar {
	t.Helper()
	s := &Sidecar{t: t, refused: map[string]event.Reason{}, asked: map[string]int{}}
	gateway, err := identity.GatewayID(TrustDomain, "edge")
	s.check(err)
	key, err := tenanttoken.NewSigningKey(time.Now().Add(tenanttoken.MaxEventLifetime))
	s.check(err)
	s.signer, err = tenanttoken.NewSigner(key, gateway)
	s.check(err)
	s.key = tenanttoken.Key{KID: key.KID, Principal: gateway, Public: key.Public(), Scope: tenanttoken.Scope{Gateway: true}, NotAfter: key.NotAfter}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func (s *Sidecar) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Down has it answer nothing, or again.
func (s *Sidecar) Down(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Refuse has it refuse a tenant's events; "" for no more.
func (s *Sidecar) Refuse(tenant string, reason event.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[tenant] = reason
}

// Asked is how often something was asked of it.
func (s *Sidecar) Asked(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

func (s *Sidecar) claims(tenant, txn string) tenanttoken.Claims {
	id, err := identity.ParseTenantID(tenant)
	s.check(err)
	now := time.Now()
	return tenanttoken.Claims{
		Audience: TrustDomain, IssuedAt: now, Expiry: now.Add(5 * time.Minute), Txn: txn,
		Context: tenanttoken.Context{Tenant: id, UID: "uid-" + tenant, Tier: "gold", Cell: "us-1", Epoch: 1, Role: tenanttoken.Owner, Purpose: tenanttoken.Request},
	}
}

// Context is the signed context of a request of a tenant.
func (s *Sidecar) Context(tenant, txn string) string {
	s.t.Helper()
	text, err := s.signer.Sign(s.claims(tenant, txn))
	s.check(err)
	return text
}

// Token is an event's token, as change has it.
func (s *Sidecar) Token(tenant, topic string, change func(*tenanttoken.Event)) string {
	s.t.Helper()
	e := tenanttoken.Event{Claims: s.claims(tenant, "txn-"+tenant), Topic: topic}
	e.Expiry = e.IssuedAt.Add(tenanttoken.EventLifetime)
	if change != nil {
		change(&e)
	}
	text, err := s.signer.SignEvent(e)
	s.check(err)
	return text
}

// ServeHTTP implements http.Handler.
func (s *Sidecar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[r.URL.Path]++
	if s.down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	keys := tenanttoken.NewKeySet(s.key)
	verifier := tenanttoken.NewVerifier(tenanttoken.Options{Audience: TrustDomain})
	switch r.URL.Path {
	case propagation.PathContextKeys:
		answer(w, http.StatusOK, propagation.ContextKeys{TrustDomain: TrustDomain, Keys: keys})
	case event.PathSeal:
		var q event.SealRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		claims, err := verifier.Verify(q.Context, keys, time.Now())
		if err != nil {
			answer(w, http.StatusForbidden, event.Refused{Reason: string(event.Foreign), Detail: err.Error()})
			return
		}
		fresh := *claims
		fresh.IssuedAt, fresh.Expiry = time.Now(), time.Now().Add(tenanttoken.EventLifetime)
		token, err := s.signer.SignEvent(tenanttoken.Event{Claims: fresh, Topic: q.Topic})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, http.StatusOK, event.Sealed{Token: token})
	case event.PathOpen:
		var q event.OpenRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		claims, err := verifier.VerifyEvent(q.Token, q.Topic, keys, time.Now())
		if err != nil {
			answer(w, http.StatusForbidden, event.Refused{Reason: string(event.Foreign), Detail: err.Error()})
			return
		}
		if reason := s.refused[claims.Context.Tenant.String()]; reason != "" {
			answer(w, http.StatusForbidden, event.Refused{Reason: string(reason), Detail: "as the test says"})
			return
		}
		fresh := claims.Claims
		fresh.IssuedAt, fresh.Expiry, fresh.Context.Purpose = time.Now(), time.Now().Add(5*time.Minute), tenanttoken.Job
		text, err := s.signer.Sign(fresh)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, http.StatusOK, event.Opened{Context: text})
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
