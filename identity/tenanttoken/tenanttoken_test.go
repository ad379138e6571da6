package tenanttoken

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type world struct {
	key    SigningKey
	keys   KeySet
	signer *Signer
	claims Claims
}

func newWorld(t testing.TB) world {
	t.Helper()
	key, err := NewSigningKey(now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return worldOf(t, key)
}

func worldOf(t testing.TB, key SigningKey) world {
	t.Helper()
	gateway, err := identity.GatewayID("mesh.example", "edge")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := NewSigner(key, gateway)
	if err != nil {
		t.Fatal(err)
	}
	tenant, _ := identity.ParseTenantID("acme")
	return world{key, NewKeySet(Key{key.KID, gateway, key.Public(), Scope{Gateway: true}, key.NotAfter}), signer, Claims{
		Audience: "mesh.example", IssuedAt: now, Expiry: now.Add(5 * time.Minute), Txn: "txn-1", Subject: "alice",
		Context: Context{tenant, "uid-1", "gold", "us-1", 7, Owner, Request, []string{KeyDigest("trace")}},
	}}
}

func (w world) sign(t testing.TB) string {
	t.Helper()
	token, err := w.signer.Sign(w.claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// raw signs header and payload as they are written.
func (w world) raw(header, payload string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(w.key.Private, []byte(text)))
}

func (w world) payload(t testing.TB) string {
	t.Helper()
	part, err := base64.RawURLEncoding.DecodeString(strings.Split(w.sign(t), ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(part)
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	v := NewVerifier(Options{Audience: "mesh.example"})
	for range 2 { // the second time from the cache
		claims, err := v.Verify(w.sign(t), w.keys, now.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if claims.Context.Tenant.String() != "acme" || claims.Context.Epoch != 7 || claims.Txn != "txn-1" || claims.Issuer.String() != "spiffe://mesh.example/gateway/edge" {
			t.Errorf("claims = %+v", claims)
		}
	}
	if _, err := v.Verify(w.sign(t), w.keys, w.claims.Expiry); !errors.Is(err, ErrExpired) {
		t.Errorf("at its exp a cached token gives %v, want ErrExpired", err)
	}
	if _, err := v.Verify(w.sign(t), KeySet{}, now); !errors.Is(err, ErrForeign) {
		t.Errorf("without its key a cached token gives %v, want ErrForeign", err)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	header := func(more string) string {
		return fmt.Sprintf(`{"alg":"EdDSA","typ":"txntoken+jwt","kid":%q%s}`, w.key.KID, more)
	}
	change := func(f func(*Claims)) string {
		changed := w
		f(&changed.claims)
		return changed.sign(t)
	}
	swap := func(old, new string) string { return w.raw(header(""), strings.Replace(w.payload(t), old, new, 1)) }
	if _, err := NewVerifier(Options{Audience: "mesh.example"}).Verify(w.raw(header(""), w.payload(t)), w.keys, now); err != nil {
		t.Fatalf("the raw form must be good before it is spoilt: %v", err)
	}
	for name, test := range map[string]struct {
		token string
		want  error
	}{
		"empty":            {"", ErrMalformed},
		"two tokens":       {w.sign(t) + "," + w.sign(t), ErrMalformed},
		"over 8 KiB":       {strings.Repeat("a", MaxSize+1), ErrMalformed},
		"alg none":         {w.raw(`{"alg":"none","typ":"txntoken+jwt","kid":"`+w.key.KID+`"}`, w.payload(t)), ErrMalformed},
		"alg HMAC":         {w.raw(`{"alg":"HS256","typ":"txntoken+jwt","kid":"`+w.key.KID+`"}`, w.payload(t)), ErrMalformed},
		"unknown kid":      {w.raw(`{"alg":"EdDSA","typ":"txntoken+jwt","kid":"x"}`, w.payload(t)), ErrForeign},
		"no kid":           {w.raw(`{"alg":"EdDSA","typ":"txntoken+jwt"}`, w.payload(t)), ErrMalformed},
		"jku":              {w.raw(header(`,"jku":"https://x"`), w.payload(t)), ErrMalformed},
		"x5u":              {w.raw(header(`,"x5u":"https://x"`), w.payload(t)), ErrMalformed},
		"jwk":              {w.raw(header(`,"jwk":{}`), w.payload(t)), ErrMalformed},
		"x5c":              {w.raw(header(`,"x5c":[]`), w.payload(t)), ErrMalformed},
		"crit":             {w.raw(header(`,"crit":["exp"]`), w.payload(t)), ErrMalformed},
		"header twice":     {w.raw(header(`,"alg":"EdDSA"`), w.payload(t)), ErrMalformed},
		"member twice":     {swap(`"aud"`, `"sub":"eve","aud"`), ErrMalformed},
		"member by case":   {swap(`"aud"`, `"Iss":"spiffe://mesh.example/x","aud"`), ErrMalformed},
		"inner twice":      {swap(`"uid"`, `"tenant":"globex","uid"`), ErrMalformed},
		"unknown claim":    {swap(`"aud"`, `"more":1,"aud"`), ErrMalformed},
		"wrong typ":        {w.raw(strings.Replace(header(""), "txntoken+jwt", "JWT", 1), w.payload(t)), ErrMalformed},
		"wrong aud":        {change(func(c *Claims) { c.Audience = "other.example" }), ErrForeign},
		"no exp":           {swap(fmt.Sprintf(`"exp":%d`, w.claims.Expiry.Unix()), `"exp":0`), ErrMalformed},
		"absurd exp":       {change(func(c *Claims) { c.Expiry = now.Add(50 * time.Minute) }), ErrMalformed},
		"iat ahead":        {change(func(c *Claims) { c.IssuedAt = now.Add(31 * time.Second) }), ErrForeign},
		"expired":          {change(func(c *Claims) { c.IssuedAt, c.Expiry = now.Add(-2*time.Minute), now.Add(-time.Minute) }), ErrExpired},
		"iss not signer's": {swap("gateway/edge", "gateway/else"), ErrForeign},
		"altered":          {strings.Replace(w.sign(t), ".e", ".f", 1), nil},
		"no tenant":        {swap(`"tenant":"acme"`, `"tenant":""`), ErrMalformed},
		"role":             {swap(`"owner"`, `"king"`), ErrMalformed},
		"purpose":          {swap(`"request"`, `"fun"`), ErrMalformed},
		"epoch":            {swap(`"epoch":7`, `"epoch":0`), ErrMalformed},
	} {
		claims, err := NewVerifier(Options{Audience: "mesh.example"}).Verify(test.token, w.keys, now)
		if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
			t.Errorf("%s: claims %v, error %v; want %v", name, claims, err, test.want)
		}
	}
}

func TestScope(t *testing.T) {
	w := newWorld(t)
	key, _ := w.keys.Lookup(w.key.KID)
	other, _ := identity.ParseTenantID("globex")
	for name, test := range map[string]struct {
		scope Scope
		good  bool
	}{
		"gateway":      {Scope{Gateway: true}, true},
		"own":          {Scope{Cell: "us-1", Tenant: w.claims.Context.Tenant}, true},
		"other cell":   {Scope{Cell: "eu-1", Tenant: w.claims.Context.Tenant}, false},
		"other tenant": {Scope{Cell: "us-1", Tenant: other}, false},
		"none":         {Scope{}, false},
	} {
		key.Scope = test.scope
		_, err := NewVerifier(Options{Audience: "mesh.example"}).Verify(w.sign(t), NewKeySet(key), now)
		if (err == nil) != test.good {
			t.Errorf("%s: %v, want good %v", name, err, test.good)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	w := newWorld(t)
	v := NewVerifier(Options{Audience: "mesh.example", MaxCache: 8})
	for i := range 50 {
		w.claims.Txn = fmt.Sprint(i)
		if _, err := v.Verify(w.sign(t), w.keys, now); err != nil {
			t.Fatal(err)
		}
		if n := len(v.fresh) + len(v.former); n > 8 {
			t.Fatalf("%d tokens are remembered, want at most 8", n)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "signing.json")
	first, err := LoadOrCreateKey(path, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	same, err := LoadOrCreateKey(path, time.Hour, now.Add(30*time.Minute))
	if err != nil || same.KID != first.KID {
		t.Errorf("half way: key %q, %v; want %q", same.KID, err, first.KID)
	}
	next, err := LoadOrCreateKey(path, time.Hour, now.Add(50*time.Minute))
	if err != nil || next.KID == first.KID {
		t.Errorf("near its end: key %q, %v; want another than %q", next.KID, err, first.KID)
	}
}

func FuzzVerify(f *testing.F) {
	// One key in every process that fuzzes: what is found in one is looked at by the others.
	key := SigningKey{Private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), NotAfter: now.Add(time.Hour)}
	key.KID = KeyID(key.Public())
	w := worldOf(f, key)
	good := w.sign(f)
	f.Add(good)
	f.Add(w.raw(`{"alg":"none"}`, `{}`))
	f.Add("..")
	v := NewVerifier(Options{Audience: "mesh.example"})
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := v.Verify(token, w.keys, now)
		if err == nil && token != good {
			text, _ := json.Marshal(claims)
			t.Errorf("%q was accepted as %s", token, text)
		}
	})
}
