package decide

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"sync"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// login is an issuer's key: the key set that it is in, and a bearer token that it signed. What the token says is what tests say that
// Envoy verified.
type login struct{ jwks, bearer string }

func newLogin(kid string) (login, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return login{}, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		return login{}, err
	}
	token, err := jwt.Signed(signer).Claims(map[string]any{"sub": "alice"}).Serialize()
	if err != nil {
		return login{}, err
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: kid, Algorithm: "ES256"}}})
	return login{string(jwks), "Bearer " + token}, err
}

// logins are the key that issuer "login" has, and the one that comes in its place.
var logins = sync.OnceValue(func() (keys [2]login) {
	for i, kid := range []string{"first", "second"} {
		var err error
		if keys[i], err = newLogin(kid); err != nil {
			panic(err)
		}
	}
	return keys
})
