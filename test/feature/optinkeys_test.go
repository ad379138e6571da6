package feature

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// teller tells keys as a sidecar does, and answers what is called through it.
type teller struct {
	mu    sync.Mutex
	keys  []tenanttoken.Key
	down  bool
	asked int
}

func (s *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path != propagation.PathContextKeys {
		_, _ = io.WriteString(w, "back")
		return
	}
	s.asked++
	if s.down {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(propagation.ContextKeys{TrustDomain: meshtest.TrustDomain, Keys: tenanttoken.NewKeySet(s.keys...)})
}

func (s *teller) set(down bool, keys ...tenanttoken.Key) (asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.keys = down, keys
	return s.asked
}

// TestOptInKeys: services of other languages that opt in ask for keys as a service in Go does: for one that is new when it is first seen, and not
// for every forgery; those that are known outlive the sidecar, and none signs beyond its scope or its end.
func TestOptInKeys(t *testing.T) {
	edge, err := identity.GatewayID(meshtest.TrustDomain, "edge")
	if err != nil {
		t.Fatal(err)
	}
	tenant := func(name string) identity.TenantID {
		id, err := identity.ParseTenantID(name)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	// key is a key, and a context for acme in us-1 that it signs.
	key := func(scope tenanttoken.Scope, life time.Duration) (tenanttoken.Key, string) {
		t.Helper()
		signing, err := tenanttoken.NewSigningKey(time.Now().Add(life))
		if err != nil {
			t.Fatal(err)
		}
		return tenanttoken.Key{KID: signing.KID, Principal: edge, Public: signing.Public(), Scope: scope, NotAfter: signing.NotAfter}, contextsOf(t, signing)["good"][0]
	}
	every := tenanttoken.Scope{Gateway: true}
	first, good := key(every, time.Hour)
	second, newer := key(every, time.Hour)
	own, ofOwn := key(tenanttoken.Scope{Cell: "us-1", Tenant: tenant("acme")}, time.Hour)
	other, ofOther := key(tenanttoken.Scope{Cell: "us-1", Tenant: tenant("globex")}, time.Hour)
	elsewhere, ofElsewhere := key(tenanttoken.Scope{Cell: "us-2", Tenant: tenant("acme")}, time.Hour)
	none, ofNone := key(tenanttoken.Scope{}, time.Hour)
	ended, ofEnded := key(every, time.Hour)
	ended.NotAfter = time.Now().Add(-time.Second)

	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			sidecar := &teller{}
			server := httptest.NewServer(sidecar)
			defer server.Close()
			at := l.start(t, server.URL, server.URL)
			wants := func(what, signed string, status int) {
				t.Helper()
				if r := meshtest.Do(t, http.DefaultClient, http.MethodGet, at.String()+"/x", http.Header{"Txn-Token": {signed}}, nil); r.Status != status {
					t.Errorf("%s: %d %q, want %d", what, r.Status, r.Body, status)
				}
			}
			rest := func() { <-time.After(1100 * time.Millisecond) } // the sidecar is not asked at once again
			sidecar.set(true)
			wants("without keys", good, http.StatusServiceUnavailable)
			sidecar.set(false, first)
			rest()
			wants("with keys", good, http.StatusOK)
			asked, began := sidecar.set(false, first), time.Now()
			for range 20 {
				_, forged := key(every, time.Hour)
				wants("a forgery", forged, http.StatusForbidden)
			}
			if more := sidecar.set(false, first, second, own, other, elsewhere, none, ended) - asked; more > 1+int(time.Since(began)/time.Second) {
				t.Errorf("20 forgeries have the sidecar asked %d times", more)
			}
			rest()
			wants("by a key that is new", newer, http.StatusOK)
			wants("by a key for that tenant there", ofOwn, http.StatusOK)
			wants("by a key for another tenant", ofOther, http.StatusForbidden)
			wants("by a key for another cell", ofElsewhere, http.StatusForbidden)
			wants("by a key for nothing", ofNone, http.StatusForbidden)
			wants("by a key that ended", ofEnded, http.StatusForbidden)
			sidecar.set(true)
			rest()
			_, forged := key(every, time.Hour)
			wants("a forgery while the sidecar is away", forged, http.StatusForbidden)
			wants("by a known key while the sidecar is away", good, http.StatusOK)
		})
	}
}
