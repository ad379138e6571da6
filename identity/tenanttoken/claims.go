package tenanttoken

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
)

// algorithm is the only one there is (RFC 8037, section 3.1).
const algorithm = "EdDSA"

// Type is the token's "typ" header.
const Type = "txntoken+jwt"

// MaxSize is the longest token that is looked at, in bytes.
const MaxSize = 8 << 10

// Role says what the cell that gets the request is to the tenant.
type Role string

// The roles.
const (
	Owner   Role = "owner"
	Replica Role = "replica" // a copy, made by the mover
)

// Purpose says what the request is part of.
type Purpose string

// The purposes.
const (
	Request Purpose = "request"
	Job     Purpose = "job"
	Export  Purpose = "export"
)

// Context is the "tctx" claim: for which tenant the request is, and where it may go.
type Context struct {
	Tenant  identity.TenantID `json:"tenant"`
	UID     string            `json:"uid"` // of this incarnation of the tenant
	Tier    string            `json:"tier"`
	Cell    string            `json:"cell"`
	Epoch   int64             `json:"epoch"` // of the placement it was decided under; at least 1
	Role    Role              `json:"role"`
	Purpose Purpose           `json:"purpose"`
	Keys    []string          `json:"keys,omitempty"` // see [KeyDigest]
}

// Claims are all of a token's claims.
type Claims struct {
	Issuer   identity.Principal // the signer
	Audience string             // the trust domain
	IssuedAt time.Time          // whole seconds
	Expiry   time.Time          // whole seconds
	Txn      string             // unique to the transaction; kept when a token is exchanged
	Subject  string             // as the client's token named it; for the audit only
	Context  Context

	// Set by [Verifier.Verify]:
	KID    string   // of the key that it is signed by
	Token  string   // itself
	Digest Digest   // of Token
	Proof  string   // by whom it was signed, in words
	Keys   []Digest // Context.Keys, those that are digests

	vouched *vouched
}

// vouched are the IDs that were found to be those of a token's Keys, by their places there: an ID comes again with each request of its
// transaction, and is then not hashed anew.
type vouched [2]atomic.Pointer[string]

// maxVouched is the longest ID that is remembered, in bytes.
const maxVouched = 64

// Vouches reports whether the signer vouches for an ID as one of the transaction's, with the ID's digest.
func (c *Claims) Vouches(id string) (Digest, bool) {
	for i := range min(len(vouched{}), len(c.Keys)) {
		if known := c.vouched[i].Load(); known != nil && *known == id {
			return c.Keys[i], true
		}
	}
	if len(c.Keys) == 0 {
		return Digest{}, false
	}
	digest := DigestOf(id)
	i := slices.Index(c.Keys, digest)
	if 0 <= i && i < len(vouched{}) && len(id) <= maxVouched {
		known := strings.Clone(id)
		c.vouched[i].Store(&known)
	}
	return digest, i >= 0
}

// Digest is the first 128 bits of a SHA-256.
type Digest [16]byte

// DigestOf is the digest of an ID, or of a token.
func DigestOf(id string) Digest {
	var room [1024]byte // most are short enough for it to allocate nothing
	sum := sha256.Sum256(append(room[:0], id...))
	return Digest(sum[:16])
}

// String is the digest in base64url: the form in which it stands in [Context.Keys].
func (d Digest) String() string { return base64.RawURLEncoding.EncodeToString(d[:]) }

// KeyDigest is the form in which a trace or request ID stands in [Context.Keys]. The ID itself stays out of the token.
func KeyDigest(id string) string { return DigestOf(id).String() }

// digests are those of the keys that are digests; others are no ID's.
func digests(keys []string) []Digest {
	list := make([]Digest, 0, len(keys))
	for _, key := range keys {
		if text, err := base64.RawURLEncoding.Strict().DecodeString(key); err == nil && len(text) == len(Digest{}) {
			list = append(list, Digest(text))
		}
	}
	return list
}

type wireHeader struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KID       string `json:"kid"`
}

type wireClaims struct {
	Issuer   identity.Principal `json:"iss"`
	Audience string             `json:"aud"`
	IssuedAt int64              `json:"iat"`
	Expiry   int64              `json:"exp"`
	Txn      string             `json:"txn"`
	Subject  string             `json:"sub"`
	Context  *Context           `json:"tctx"`
}
