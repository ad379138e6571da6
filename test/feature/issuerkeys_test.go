package feature

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestIssuerKeysRotate: an issuer's key is replaced under load, with overlap: no request is lost, and the old key is refused
// from the moment at which its end is enforced.
func TestIssuerKeysRotate(t *testing.T) {
	w := newWorld(t)
	w.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	keys := map[string]*ecdsa.PrivateKey{}
	publish := func(kids ...string) {
		t.Helper()
		set := jose.JSONWebKeySet{}
		for _, kid := range kids {
			if keys[kid] == nil {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				keys[kid] = key
			}
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: &keys[kid].PublicKey, KeyID: kid, Algorithm: "ES256", Use: "sig"})
		}
		text, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		w.Apply(t, fmt.Sprintf("apiVersion: tenantmesh.dev/v1alpha1\nkind: TokenIssuer\nmetadata: {name: rotates}\nspec: {issuer: 'https://rotates.test', audiences: [test], jwks: {inline: %q}, tenants: [globex]}\n", text))
	}
	bearer := func(kid string) http.Header {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: keys[kid]}, (&jose.SignerOptions{}).WithHeader("kid", kid))
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(map[string]any{"iss": "https://rotates.test", "aud": "test", "sub": "x", "tenant": "globex", "exp": time.Now().Add(time.Hour).Unix()}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return http.Header{"Authorization": {"Bearer " + token}}
	}
	get := func(by http.Header) meshtest.Response {
		return meshtest.Do(t, nil, http.MethodGet, w.gateway.URL+"/front/x", by, nil)
	}
	publish("a")
	var by atomic.Pointer[http.Header]
	use := func(kid string) {
		header := bearer(kid)
		// Each of an Envoy's workers has it within 7 s; a connection is one worker's.
		began, anew := time.Now(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		until(t, func() bool {
			for range 16 {
				if meshtest.Do(t, anew, http.MethodGet, w.gateway.URL+"/front/x", header, nil).Status != http.StatusOK {
					return false
				}
			}
			return true
		})
		t.Logf("key %s is taken everywhere after %v", kid, time.Since(began).Round(10*time.Millisecond))
		by.Store(&header)
	}
	use("a")
	var stop atomic.Bool
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() && !t.Failed() {
				if r := get(*by.Load()); r.Status != http.StatusOK {
					decision, _ := w.Admin.Explain(t.Context(), r.Header.Get("x-tenantmesh-decision"))
					t.Errorf("%d %s: %s", r.Status, r.Reason(), decision.Detail)
				}
				sent.Add(1)
			}
		})
	}
	for _, next := range []struct{ old, now string }{{"a", "b"}, {"b", "c"}} {
		publish(next.old, next.now)
		use(next.now)
		had := sent.Load()
		until(t, func() bool { return sent.Load() > had+20 || t.Failed() }) // none by the old one is on its way
		publish(next.now)
		want(t, "by the old key", get(bearer(next.old)), 401, "unauthenticated_tenant")
		had = sent.Load()
		until(t, func() bool { return sent.Load() > had+100 || t.Failed() })
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d requests", sent.Load())
}
