package ir

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func TestRestrict(t *testing.T) {
	for name, test := range map[string]struct {
		jwks    string
		allowed []string
		want    []string // the algorithms of the keys that are left
	}{
		"by default":            {`{"keys":[{"kty":"RSA"},{"kty":"EC","crv":"P-256"},{"kty":"OKP","crv":"Ed25519"}]}`, nil, []string{"RS256", "ES256", "EdDSA"}},
		"one of two":            {`{"keys":[{"kty":"RSA"},{"kty":"EC","crv":"P-256"}]}`, []string{"ES256"}, []string{"ES256"}},
		"a key for several":     {`{"keys":[{"kty":"RSA"}]}`, []string{"PS256", "RS512"}, []string{"RS512", "PS256"}},
		"a key's own":           {`{"keys":[{"kty":"RSA","alg":"RS384"}]}`, []string{"RS256", "RS384"}, []string{"RS384"}},
		"a key's own, refused":  {`{"keys":[{"kty":"RSA","alg":"RS512"}]}`, nil, nil},
		"an algorithm not its":  {`{"keys":[{"kty":"RSA","alg":"ES256"}]}`, nil, nil},
		"a secret":              {`{"keys":[{"kty":"oct","k":"x"}]}`, []string{"HS256"}, nil},
		"a curve nobody allows": {`{"keys":[{"kty":"EC","crv":"secp256k1"}]}`, nil, nil},
		"one withdrawn":         {`{"keys":[{"kty":"RSA","kid":"gone"},{"kty":"EC","crv":"P-256","kid":"here"}]}`, nil, []string{"ES256"}},
		"no JSON":               {`{`, nil, nil},
	} {
		var set struct {
			Keys []struct{ Alg string }
		}
		if err := json.Unmarshal([]byte(restrict(test.jwks, &tenantstore.TokenIssuerSpec{Algorithms: test.allowed, WithdrawnKeys: []string{"gone"}})), &set); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, key := range set.Keys {
			got = append(got, key.Alg)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
