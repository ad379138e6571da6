package tenanttoken

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// Sorts of refusal. Every error of [Verifier.Verify] is one of them and says more in its text.
var (
	// ErrMalformed means that the token is not one that any signer of a mesh makes.
	ErrMalformed = errors.New("malformed tenant context")
	// ErrForeign means that no key in force signed the token for this place.
	ErrForeign = errors.New("foreign tenant context")
	// ErrExpired means that the token was good once.
	ErrExpired = errors.New("expired tenant context")
)

// Options of a [Verifier]; zero fields take the defaults named there.
type Options struct {
	Audience    string        // the trust domain; required
	Skew        time.Duration // how far clocks may be apart; default 30 s
	MaxLifetime time.Duration // longest exp - iat; default 15 min
	MaxCache    int           // tokens remembered, at most, of about 1 KiB each; default 32768
}

// Verifier verifies tokens, and remembers those that it found good.
type Verifier struct {
	options Options

	mu            sync.Mutex
	fresh, former map[string]*verified // by the token; two generations: at most MaxCache entries together
}

type verified struct {
	claims Claims
	kid    string
}

// NewVerifier returns a verifier for options.
func NewVerifier(options Options) *Verifier {
	if options.Skew == 0 {
		options.Skew = 30 * time.Second
	}
	if options.MaxLifetime == 0 {
		options.MaxLifetime = 15 * time.Minute
	}
	if options.MaxCache == 0 {
		options.MaxCache = 32768
	}
	return &Verifier{options: options, fresh: map[string]*verified{}}
}

// Verify returns the claims of token if a key of keys signed them inside its scope and they hold at now.
// The claims are shared with other callers: do not change them.
func (v *Verifier) Verify(token string, keys KeySet, now time.Time) (*Claims, error) {
	if len(token) > MaxSize {
		return nil, fmt.Errorf("%w: must be at most %d bytes (got %d)", ErrMalformed, MaxSize, len(token))
	}
	found, fresh := v.lookup(token)
	if found == nil {
		var err error
		if found, err = v.parse(token, keys); err != nil {
			return nil, err
		}
		found.claims.Token, found.claims.Digest = strings.Clone(token), DigestOf(token)
		found.claims.Proof = "context signed by " + found.claims.Issuer.String()
	}
	// What may change between two uses of one token is looked at every time: its key, and the clock.
	key, ok := keys.Lookup(found.kid)
	if !ok {
		return nil, fmt.Errorf("%w: no key %q is in force", ErrForeign, found.kid)
	}
	if err := v.check(&found.claims, key, v.options.MaxLifetime, now); err != nil {
		return nil, err
	}
	if !fresh {
		v.remember(found)
	}
	return &found.claims, nil
}

func (v *Verifier) parse(token string, keys KeySet) (*verified, error) {
	var wire wireClaims
	kid, err := open(token, Type, keys, &wire)
	if err != nil {
		return nil, err
	}
	return wire.claims(kid)
}

// open finds the payload of a token of a type, which a key of keys signed.
func open(token, typ string, keys KeySet, into any) (kid string, err error) {
	kid, payload, signature, err := split(token, typ)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	key, ok := keys.Lookup(kid)
	if !ok {
		return "", fmt.Errorf("%w: no key %q is in force", ErrForeign, kid)
	}
	// RFC 7515, section 5.2, for the one algorithm there is (RFC 8037, section 3.1).
	if !ed25519.Verify(key.Public, []byte(token[:strings.LastIndexByte(token, '.')]), signature) {
		return "", fmt.Errorf("%w: the signature does not match key %q", ErrForeign, kid)
	}
	if err := decodeStrict(payload, into); err != nil {
		return "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return kid, nil
}

func (wire *wireClaims) claims(kid string) (*verified, error) {
	if wire.Context == nil || wire.Context.Tenant.IsZero() || wire.Context.UID == "" || wire.Context.Cell == "" ||
		wire.Context.Epoch < 1 || wire.Txn == "" || wire.Issuer.IsZero() {
		return nil, fmt.Errorf("%w: iss, txn and tctx with tenant, uid, cell and epoch must be set", ErrMalformed)
	}
	if wire.Context.Role != Owner && wire.Context.Role != Replica {
		return nil, fmt.Errorf("%w: tctx.role must be %s or %s (got %q)", ErrMalformed, Owner, Replica, wire.Context.Role)
	}
	switch wire.Context.Purpose {
	case Request, Job, Export:
	default:
		return nil, fmt.Errorf("%w: tctx.purpose must be request, job or export (got %q)", ErrMalformed, wire.Context.Purpose)
	}
	return &verified{kid: kid, claims: Claims{
		Issuer: wire.Issuer, Audience: wire.Audience, IssuedAt: time.Unix(wire.IssuedAt, 0), Expiry: time.Unix(wire.Expiry, 0),
		Txn: wire.Txn, Subject: wire.Subject, Context: *wire.Context, KID: kid, Keys: digests(wire.Context.Keys), vouched: &vouched{},
	}}, nil
}

func (v *Verifier) check(claims *Claims, key Key, maxLifetime time.Duration, now time.Time) error {
	switch {
	case claims.Audience != v.options.Audience:
		return fmt.Errorf("%w: aud must be %q (got %q)", ErrForeign, v.options.Audience, claims.Audience)
	case claims.Issuer != key.Principal:
		return fmt.Errorf("%w: iss must be the key's signer %s (got %s)", ErrForeign, key.Principal, claims.Issuer)
	case !key.Scope.allows(claims.Context):
		return fmt.Errorf("%w: %s may not sign for tenant %s in cell %s", ErrForeign, key.Principal, claims.Context.Tenant, claims.Context.Cell)
	case !claims.Expiry.After(claims.IssuedAt) || claims.Expiry.Sub(claims.IssuedAt) > maxLifetime:
		return fmt.Errorf("%w: exp must be after iat by at most %v (got %v)", ErrMalformed, maxLifetime, claims.Expiry.Sub(claims.IssuedAt))
	case claims.IssuedAt.After(now.Add(v.options.Skew)):
		return fmt.Errorf("%w: iat must not be in the future (got %v)", ErrForeign, claims.IssuedAt.UTC())
	case !now.Before(claims.Expiry), !now.Before(key.NotAfter):
		return fmt.Errorf("%w: it ended at %v", ErrExpired, claims.Expiry.UTC())
	}
	return nil
}

// lookup finds a token that was found good, nil for none; fresh: it need not be remembered anew.
func (v *Verifier) lookup(token string) (found *verified, fresh bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if found, ok := v.fresh[token]; ok {
		return found, true
	}
	return v.former[token], false
}

func (v *Verifier) remember(found *verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.fresh[found.claims.Token]; ok {
		return
	}
	if len(v.fresh) >= max(1, v.options.MaxCache/2) {
		v.fresh, v.former = make(map[string]*verified, len(v.fresh)), v.fresh
	}
	v.fresh[found.claims.Token] = found
}

// split refuses what RFC 8725 warns of, and returns the token's key ID, and its payload, which nobody may believe yet.
func split(token, typ string) (kid string, payload, signature []byte, err error) {
	parts := strings.Split(token, ".")
	if strings.ContainsAny(token, "\r\n") { // base64 would step over them
		return "", nil, nil, errors.New("must not hold a line's end")
	}
	if len(parts) != 3 {
		return "", nil, nil, fmt.Errorf("must be one compact JWS of three parts (got %d)", len(parts))
	}
	var texts [3][]byte
	for i, part := range parts {
		if texts[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return "", nil, nil, errors.New("must be base64url without padding")
		}
	}
	var header wireHeader
	if err := decodeStrict(texts[0], &header); err != nil {
		return "", nil, nil, err
	}
	if header.Algorithm != algorithm {
		return "", nil, nil, fmt.Errorf("alg must be EdDSA (got %q)", header.Algorithm)
	}
	if header.Type != typ {
		return "", nil, nil, fmt.Errorf("typ must be %s (got %q)", typ, header.Type)
	}
	if header.KID == "" {
		return "", nil, nil, errors.New("kid must be set")
	}
	return header.KID, texts[1], texts[2], nil
}

// decodeStrict refuses members that are not known, exactly as they are spelled, and those that are there twice: other
// parsers take the first, or the last.
func decodeStrict(text []byte, into any) error {
	return json.Unmarshal(text, into, json.RejectUnknownMembers(true))
}
