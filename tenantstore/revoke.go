package tenantstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// MaxRevocations bounds the transactions that are revoked at once: whoever has more to revoke suspends the tenant, or
// forbids the principal.
const MaxRevocations = 1000

// RevocationSpec is the spec of kind Revocation, whose name is the transaction's ID ("txn").
type RevocationSpec struct {
	Actor  string    `json:"actor"` // who revoked it
	Reason string    `json:"reason,omitempty"`
	Until  time.Time `json:"until"` // by then its contexts have ended by themselves, and it is forgotten
}

// RevokeToken has the contexts of a transaction refused everywhere until the last of them has ended by itself. It fails with
// [Problems] when txn is none, or too many are revoked.
func (w *Writer) RevokeToken(ctx context.Context, actor, txn, reason string) (Result, error) {
	key := Key{KindRevocation, txn}
	if len(txn) != 32 || strings.Trim(txn, "0123456789abcdef") != "" {
		return Result{}, Problems{{Object: key.String(), Text: fmt.Sprintf("must be the txn of a tenant context, 32 hexadecimal digits (got %q)", txn)}}
	}
	return w.transact(ctx, ApplyOptions{}, func(t *draft) {
		now := w.now()
		t.forgetRevoked(now)
		if n := len(keysOf(t.few, KindRevocation)); n >= MaxRevocations && t.objects[key] == nil {
			t.err = Problems{{Object: key.String(), Text: fmt.Sprintf("must be one of at most %d that are revoked at once: suspend the tenant, or forbid the principal", MaxRevocations)}}
			return
		}
		t.put(&Object{Kind: KindRevocation, Metadata: Metadata{Name: txn}, Revocation: &RevocationSpec{
			Actor: actor, Reason: reason, Until: now.Add(meshname.ContextTime).UTC().Truncate(time.Second),
		}})
		t.audit(actor, now)
	})
}

// ForgetRevocations removes the revocations that are of no use any more.
func (w *Writer) ForgetRevocations(ctx context.Context) error {
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) { t.forgetRevoked(w.now()) })
	return err
}

// forgetRevoked removes the revocations that have ended, without a word in the audit: their end was said when they began.
func (t *draft) forgetRevoked(now time.Time) {
	for _, key := range slices.Clone(keysOf(t.few, KindRevocation)) {
		if !now.Before(t.objects[key].Revocation.Until) {
			t.remove(key)
		}
	}
}

// Lapse is how long what an object of a kind gave holds at a sidecar that is cut off when that is taken away: a grant, a token
// issuer's keys, a context. grants and issuers are the sidecar's own bounds in seconds; 0: the defaults. false: for as long as it
// is cut off.
func Lapse(kind Kind, grants, issuers float64) (time.Duration, bool) {
	seconds := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	switch kind {
	case KindAccessGrant:
		return cmp.Or(seconds(grants), meshname.GrantTime), true
	case KindTokenIssuer:
		return cmp.Or(seconds(issuers), meshname.IssuerTime), true
	case KindRevocation:
		return meshname.ContextTime, true
	default:
		return 0, false
	}
}
