package policyset

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// TestIssuerKeys: from when a key is taken away until Envoy verifies without it, tokens are verified here too.
func TestIssuerKeys(t *testing.T) {
	keys := map[string]*ecdsa.PrivateKey{}
	for _, kid := range []string{"a", "b"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[kid] = key
	}
	jwks := func(kids ...string) string {
		set := jose.JSONWebKeySet{}
		for _, kid := range kids {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: &keys[kid].PublicKey, KeyID: kid, Algorithm: "ES256"})
		}
		text, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	bearer := func(kid string, says ...string) string {
		options := &jose.SignerOptions{}
		for _, s := range says {
			options = options.WithHeader("kid", s)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: keys[kid]}, options)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(map[string]any{"sub": "x"}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + token
	}
	now := time.Unix(1000, 0)
	var s *Set
	push := func(jwks string) *Issuer {
		t.Helper()
		change := Change{TypeURL: meshname.TypeTokenIssuer, Name: "login"}
		if jwks != "" {
			change.Message = &api.TokenIssuer{Name: "login", Jwks: jwks, Tenants: []string{"*"}}
		}
		s = with(t, s, change)
		return s.Issuers["login"]
	}
	if i := push(jwks("a")); !i.Settled(now) {
		t.Error("at first Envoy has what is here")
	}
	if i := push(jwks("a", "b")); !i.Settled(now) {
		t.Error("a key more takes nothing away")
	}
	i := push(jwks("b"))
	if i.Settled(now) {
		t.Error("Envoy has key a still")
	}
	for name, test := range map[string]struct {
		value string
		good  bool
	}{
		"by the key that is there": {bearer("b", "b"), true}, "that names no key": {bearer("b"), true}, "by the one that went": {bearer("a", "a"), false},
		"by the one that went, nameless": {bearer("a"), false}, "by the one that went, under the other's name": {bearer("a", "b"), false}, "no token": {"Bearer x", false}, "no bearer": {bearer("b")[7:], false}, "nothing": {"", false},
	} {
		if key, err := i.Verify(test.value); (err == nil) != test.good || i.Has(key) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if i.Fetched(now); i.Settled(now) || !i.Settled(now.Add(settleTime)) {
		t.Error("Envoy has a moment to verify by what it got, and then does")
	}
	if i := push(jwks("b")); !i.Settled(now.Add(settleTime)) {
		t.Error("the same keys are the same")
	}
	for _, text := range []string{jwks("a", "b"), `{"keys":[]}`, "no keys"} {
		var set jose.JSONWebKeySet
		served, err := (&Issuer{JWKS: text}).ForEnvoy()
		if err != nil || json.Unmarshal(served, &set) != nil || len(set.Keys) == 0 || set.Keys[len(set.Keys)-1].KeyID != "nobody" {
			t.Errorf("Envoy gets %s for %s, %v", served, text, err)
		}
	}
	push("")
	if i := push(jwks("a")); i.Settled(now.Add(time.Hour)) {
		t.Error("an issuer that comes back has another key than Envoy may know")
	}
}
