package adversarial

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// token is a client's token that is not as it should be. Header and Claims change a good one's, null takes one out; with
// JSON and HeaderJSON the text is as it is, with {exp} in it.
type token struct {
	Header, Claims   map[string]any
	HeaderJSON, JSON string
	Key              string // who signs: "" the issuer, other: somebody else, hmac: the issuer's public key as a secret, none: nobody
	Before, After    string // around the token in the header's value
	Scheme           string // "" is "Bearer "
}

func (t *token) build(test testing.TB, w *world, tenant string) string {
	header := map[string]any{"alg": "ES256", "typ": "JWT", "kid": "test"}
	claims := map[string]any{
		"iss": "https://login.test", "aud": "test", "sub": "alice", "tenant": tenant, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for into, changes := range map[*map[string]any]map[string]any{&header: t.Header, &claims: t.Claims} {
		for name, value := range changes {
			if text, ok := value.(string); ok && strings.HasPrefix(text, "x*") { // a long one
				var n int
				_, _ = fmt.Sscanf(text, "x*%d", &n)
				value = strings.Repeat("x", n)
			}
			if (*into)[name] = value; value == nil {
				delete(*into, name)
			}
		}
	}
	encode := func(value any, text string) string {
		if text == "" {
			marshalled, err := json.Marshal(value)
			if err != nil {
				test.Fatal(err)
			}
			text = string(marshalled)
		}
		text = strings.ReplaceAll(text, "{exp}", fmt.Sprint(time.Now().Add(time.Hour).Unix()))
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	input := encode(header, t.HeaderJSON) + "." + encode(claims, t.JSON)
	scheme := t.Scheme
	if scheme == "" {
		scheme = "Bearer "
	}
	return scheme + t.Before + input + "." + base64.RawURLEncoding.EncodeToString(t.sign(test, w, input)) + t.After
}

func (t *token) sign(test testing.TB, w *world, input string) []byte {
	key := w.IssuerKey()
	switch t.Key {
	case "none":
		return nil
	case "hmac":
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			test.Fatal(err)
		}
		mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		mac.Write([]byte(input))
		return mac.Sum(nil)
	case "zero": // CVE-2022-21449: r = s = 0
		return make([]byte, 64)
	case "other":
		key = w.stranger(test)
	}
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		test.Fatal(err)
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

// stranger is an attacker's own key.
func (w *world) stranger(test testing.TB) *ecdsa.PrivateKey {
	w.off.mu.Lock()
	defer w.off.mu.Unlock()
	if w.off.stranger == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			test.Fatal(err)
		}
		w.off.stranger = key
	}
	return w.off.stranger
}

// tenantContext is a tenant context, as the gateway would sign it but for what is said.
type tenantContext struct {
	Tenant, UID, Cell, Audience, Issuer string
	Role, Purpose                       string
	Epoch                               *int64
	Age, Life                           string // durations; default 0 and 5m
	Key                                 string // "" the gateway's, other: somebody's own
	Spoil                               string // "signature", "payload", "none": what is changed after it was signed
	Txn                                 string // default one of its own
}

func (c *tenantContext) build(test testing.TB, w *world) string {
	or := func(value, otherwise string) string {
		if value == "" {
			return otherwise
		}
		return value
	}
	duration := func(text string, otherwise time.Duration) time.Duration {
		if text == "" {
			return otherwise
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			test.Fatal(err)
		}
		return d
	}
	tenant := or(c.Tenant, "acme")
	id, err := identity.ParseTenantID(tenant)
	if err != nil {
		test.Fatal(err)
	}
	issued := time.Now().Add(-duration(c.Age, 0))
	claims := tenanttoken.Claims{
		Audience: or(c.Audience, meshtest.TrustDomain), IssuedAt: issued, Expiry: issued.Add(duration(c.Life, 5*time.Minute)), Txn: or(c.Txn, rand.Text()), Subject: "alice",
		Context: tenanttoken.Context{
			Tenant: id, UID: or(c.UID, w.uids[tenant]), Tier: "gold", Cell: or(c.Cell, "us-1"), Epoch: 1,
			Role: tenanttoken.Role(or(c.Role, "owner")), Purpose: tenanttoken.Purpose(or(c.Purpose, "request")),
		},
	}
	if c.Epoch != nil {
		claims.Context.Epoch = *c.Epoch
	}
	signer := w.signer
	if c.Key != "" || c.Issuer != "" {
		signer = w.forger(test, c.Key, or(c.Issuer, "spiffe://mesh.example/gateway/edge"))
	}
	text, err := signer.Sign(claims)
	if err != nil {
		test.Fatal(err)
	}
	parts := strings.Split(text, ".")
	switch c.Spoil {
	case "signature":
		flipped, _ := base64.RawURLEncoding.DecodeString(parts[2])
		flipped[0] ^= 1
		parts[2] = base64.RawURLEncoding.EncodeToString(flipped)
	case "payload":
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), `"acme"`, `"globex"`, 1)))
	case "none":
		parts[0], parts[2] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"txntoken+jwt","kid":"x"}`)), ""
	}
	return strings.Join(parts, ".")
}

// forger signs as issuer with a key of its own, or with the gateway's.
func (w *world) forger(test testing.TB, key, issuer string) *tenanttoken.Signer {
	id, err := identity.ParsePrincipal(issuer)
	if err != nil {
		test.Fatal(err)
	}
	signing := w.SigningKeyOf(test, w.gateway)
	if key != "" {
		signing = w.off.forged(test)
	}
	signer, err := tenanttoken.NewSigner(signing, id)
	if err != nil {
		test.Fatal(err)
	}
	return signer
}
