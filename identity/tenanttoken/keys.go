package tenanttoken

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tenantmesh/tenantmesh/identity"
)

// Scope bounds what a key may sign. A gateway's key signs for any tenant; a sidecar's only for one tenant in
// one cell, and both must be said.
type Scope struct {
	Gateway bool
	Cell    string
	Tenant  identity.TenantID
}

func (s Scope) allows(c Context) bool {
	return s.Gateway || (s.Cell != "" && s.Cell == c.Cell && !s.Tenant.IsZero() && s.Tenant == c.Tenant)
}

// Key is the public half of a signing key, as it is pushed to every sidecar.
type Key struct {
	KID       string
	Principal identity.Principal // "iss" must be exactly this
	Public    ed25519.PublicKey
	Scope     Scope
	NotAfter  time.Time // no token under it lives longer
}

// KeySet is an immutable set of keys. The zero value is empty.
type KeySet struct{ keys map[string]Key }

// NewKeySet returns the set of keys; of two with one KID the last counts.
func NewKeySet(keys ...Key) KeySet {
	set := KeySet{make(map[string]Key, len(keys))}
	for _, key := range keys {
		set.keys[key.KID] = key
	}
	return set
}

// Lookup returns the key of that ID.
func (s KeySet) Lookup(kid string) (Key, bool) {
	key, ok := s.keys[kid]
	return key, ok
}

// Len is the number of keys.
func (s KeySet) Len() int { return len(s.keys) }

// SigningKey is a private key and the time until which it signs.
type SigningKey struct {
	KID      string
	Private  ed25519.PrivateKey
	NotAfter time.Time
}

// Public is the public half.
func (k SigningKey) Public() ed25519.PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// NewSigningKey makes a key whose KID is its public half's digest, so no two signers share one.
func NewSigningKey(notAfter time.Time) (SigningKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SigningKey{}, err
	}
	return SigningKey{KeyID(public), private, notAfter.UTC().Truncate(time.Second)}, nil
}

// KeyID is the ID of a public key: the first 128 bits of its SHA-256 in hex, fit for an object's name.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return fmt.Sprintf("%x", sum[:16])
}

type keyFile struct {
	Seed     string    `json:"seed"` // base64url
	NotAfter time.Time `json:"notAfter"`
}

// Ages reports whether a key of that lifetime has less than a third of it to go: time for the next one, so that
// both overlap.
func (k SigningKey) Ages(lifetime time.Duration, now time.Time) bool {
	return k.NotAfter.Sub(now) <= lifetime/3
}

// LoadKey returns the key that path holds; the error is fs.ErrNotExist when there is no file.
func LoadKey(path string) (SigningKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return SigningKey{}, err
	}
	var file keyFile
	if err := json.Unmarshal(text, &file); err != nil {
		return SigningKey{}, fmt.Errorf("%s must hold a signing key: %w", path, err)
	}
	seed, err := base64.RawURLEncoding.DecodeString(file.Seed)
	if err != nil || len(seed) != ed25519.SeedSize {
		return SigningKey{}, fmt.Errorf("%s: seed must be %d bytes in base64url (got %d)", path, ed25519.SeedSize, len(seed))
	}
	private := ed25519.NewKeyFromSeed(seed)
	return SigningKey{KeyID(private.Public().(ed25519.PublicKey)), private, file.NotAfter}, nil
}

// LoadOrCreateKey returns the key that path holds, unless it ages, or else a fresh one that it writes there (0600,
// atomically).
func LoadOrCreateKey(path string, lifetime time.Duration, now time.Time) (SigningKey, error) {
	key, err := LoadKey(path)
	if err == nil && !key.Ages(lifetime, now) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, err = NewSigningKey(now.Add(lifetime))
	if err != nil {
		return SigningKey{}, err
	}
	text, err := json.Marshal(keyFile{base64.RawURLEncoding.EncodeToString(key.Private.Seed()), key.NotAfter})
	if err != nil {
		return SigningKey{}, err
	}
	return key, writeSecret(path, text)
}

func writeSecret(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Signer signs contexts under one key, as one principal.
type Signer struct {
	header    string // encoded
	key       SigningKey
	principal identity.Principal
}

// NewSigner returns a signer for key; principal is its "iss".
func NewSigner(key SigningKey, principal identity.Principal) (*Signer, error) {
	header, err := json.Marshal(wireHeader{algorithm, Type, key.KID})
	if err != nil {
		return nil, err
	}
	return &Signer{base64.RawURLEncoding.EncodeToString(header), key, principal}, nil
}

// Sign returns the token for claims, whose Issuer is set to the signer's principal: a compact JWS (RFC 7515, section
// 7.1). The expiry may not be after the key's.
func (s *Signer) Sign(claims Claims) (string, error) {
	if claims.Expiry.After(s.key.NotAfter) {
		return "", fmt.Errorf("expiry must not be after the key's %v (got %v)", s.key.NotAfter, claims.Expiry)
	}
	return s.sign(s.header, wireClaims{
		s.principal, claims.Audience, claims.IssuedAt.Unix(), claims.Expiry.Unix(), claims.Txn, claims.Subject, &claims.Context,
	})
}

func (s *Signer) sign(header string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	token := make([]byte, 0, len(header)+base64.RawURLEncoding.EncodedLen(len(payload))+base64.RawURLEncoding.EncodedLen(ed25519.SignatureSize)+2)
	token = append(append(token, header...), '.')
	token = base64.RawURLEncoding.AppendEncode(token, payload)
	signature := ed25519.Sign(s.key.Private, token)
	return string(base64.RawURLEncoding.AppendEncode(append(token, '.'), signature)), nil
}
