package policyset

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
)

// Issuer is a token issuer.
type Issuer struct {
	Name    string
	Claim   string
	Tenants map[string]bool // "*" for all
	JWKS    string
	keys    *issuerKeys
}

// issuerKeys are an issuer's keys, as long as they are the same.
type issuerKeys struct {
	fewer   bool         // one that was there before is not among them
	fetched atomic.Int64 // when Envoy got them, Unix nanoseconds; 0: not yet
	all     func() map[Thumbprint]bool
}

// Thumbprint is a key's, of SHA-256 (RFC 7638). The zero value is none's.
type Thumbprint [sha256.Size]byte

func thumbprintOf(key *jose.JSONWebKey) (t Thumbprint, err error) {
	sum, err := key.Thumbprint(crypto.SHA256)
	copy(t[:], sum)
	return t, err
}

func thumbprints(jwks string) map[Thumbprint]bool {
	var set jose.JSONWebKeySet
	all := map[Thumbprint]bool{}
	if json.Unmarshal([]byte(jwks), &set) != nil {
		return all
	}
	for i := range set.Keys {
		if t, err := thumbprintOf(&set.Keys[i]); err == nil {
			all[t] = true
		}
	}
	return all
}

// ForEnvoy is the key set as Envoy is to have it: with one more key, whose private half nobody has. Envoy keeps the keys that
// it has when it gets a set of none.
func (i *Issuer) ForEnvoy() ([]byte, error) {
	set := struct {
		Keys []json.RawMessage `json:"keys"`
	}{}
	if err := json.Unmarshal([]byte(i.JWKS), &set); err != nil {
		set.Keys = nil // it verifies nothing
	}
	key, err := nobodys()
	if err != nil {
		return nil, err
	}
	set.Keys = append(set.Keys, key)
	return json.Marshal(set)
}

var nobodys = sync.OnceValues(func() (json.RawMessage, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return json.Marshal(jose.JSONWebKey{Key: &key.PublicKey, KeyID: "nobody", Algorithm: string(jose.ES256), Use: "sig"})
})

// settleTime is how long Envoy may take to verify by keys that it got.
const settleTime = 3 * time.Second

// newIssuer is an issuer in the place of an old one, nil for none.
func newIssuer(m *api.TokenIssuer, old *Issuer) *Issuer {
	i := &Issuer{Name: m.Name, Claim: m.TenantClaim, Tenants: map[string]bool{}, JWKS: m.Jwks, keys: &issuerKeys{
		all: sync.OnceValue(func() map[Thumbprint]bool { return thumbprints(m.Jwks) }),
	}}
	for _, t := range m.Tenants {
		i.Tenants[t] = true
	}
	switch {
	case old == nil:
	case old.JWKS == i.JWKS:
		i.keys = old.keys
	default:
		i.keys.fewer = old.keys.fewer || fewer(old.JWKS, i.JWKS)
	}
	return i
}

// fewer reports whether a key of one set is not in another, as it is spelled there.
func fewer(before, now string) bool {
	var sets [2]struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal([]byte(before), &sets[0]) != nil || json.Unmarshal([]byte(now), &sets[1]) != nil {
		return true
	}
	has := map[string]bool{}
	for _, key := range sets[1].Keys {
		has[string(key)] = true
	}
	for _, key := range sets[0].Keys {
		if !has[string(key)] {
			return true
		}
	}
	return false
}

// Speaks reports whether the issuer may speak for a tenant.
func (i *Issuer) Speaks(tenant identity.TenantID) bool {
	return i.Tenants["*"] || i.Tenants[tenant.String()]
}

// Fetched notes that Envoy got the keys as they are here.
func (i *Issuer) Fetched(now time.Time) { i.keys.fetched.CompareAndSwap(0, now.UnixNano()) }

// Settled reports whether Envoy verifies by no other keys than these: until it does, what it let through by a key that was
// taken away is for [Issuer.Verify].
func (i *Issuer) Settled(now time.Time) bool {
	if !i.keys.fewer {
		return true
	}
	at := i.keys.fetched.Load()
	return at != 0 && now.Sub(time.Unix(0, at)) >= settleTime
}

var (
	errNoBearer = errors.New("the Authorization header is no bearer token alone")
	errNoKey    = errors.New("its key is none of the issuer's any more")
)

// Has reports whether a key is one of the issuer's.
func (i *Issuer) Has(key Thumbprint) bool { return i.keys.all()[key] }

// Verify returns which of the keys signed the bearer token that is the value of an Authorization header, or why none did. What the
// token says is Envoy's to verify.
func (i *Issuer) Verify(authorization string) (Thumbprint, error) {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok {
		return Thumbprint{}, errNoBearer
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(i.JWKS), &set); err != nil {
		return Thumbprint{}, err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	})
	if err != nil {
		return Thumbprint{}, errNoBearer
	}
	header := signed.Signatures[0].Header
	for n := range set.Keys {
		key := &set.Keys[n]
		if key.Algorithm != header.Algorithm || header.KeyID != "" && key.KeyID != "" && key.KeyID != header.KeyID {
			continue
		}
		if _, err := signed.Verify(key.Key); err == nil {
			return thumbprintOf(key)
		}
	}
	return Thumbprint{}, errNoKey
}
