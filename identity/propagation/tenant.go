package propagation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

// Tenant is whom a request is for, as a signed context says that was verified here.
type Tenant struct {
	ID      identity.TenantID
	UID     string // of this incarnation
	Tier    string
	Cell    string
	Txn     string // of the transaction
	context string // the signed context itself
}

type tenantKey struct{}

// From is the tenant that a request is for; false where none was proven.
func From(ctx context.Context) (Tenant, bool) {
	t, ok := ctx.Value(tenantKey{}).(Tenant)
	return t, ok
}

// Errors of what comes in, and of what goes out.
var (
	// ErrMissing means that a request brings no tenant context, or several.
	ErrMissing = errors.New("the request must carry one tenant context")
	// ErrRefused means that its context is forged, foreign or over.
	ErrRefused = errors.New("the tenant context is not accepted")
	// ErrUnknownKeys means that nobody says by which keys to verify.
	ErrUnknownKeys = errors.New("the mesh's keys are not known")
	// ErrTenantless means that a call goes out for no tenant.
	ErrTenantless = errors.New("tenantless outbound call")
)

// Keys say by which keys contexts are verified, and for which trust domain they must be. fresh asks for them as they are now.
type Keys interface {
	Keys(ctx context.Context, fresh bool) (trustDomain string, keys tenanttoken.KeySet, err error)
}

// Verifier verifies contexts. It may be used from many goroutines. Use [NewVerifier].
type Verifier struct {
	keys Keys
	now  func() time.Time

	mu       sync.Mutex
	audience string
	verifier *tenanttoken.Verifier
}

// NewVerifier returns a verifier by keys, which [Sidecar] has from the sidecar beside a service.
func NewVerifier(keys Keys) *Verifier { return &Verifier{keys: keys, now: time.Now} }

// Verify returns ctx with the tenant of the contexts that a request brings, of which there must be one. The header that names a tenant is
// looked at nowhere: anybody could have written it.
func (v *Verifier) Verify(ctx context.Context, contexts []string) (context.Context, error) {
	if len(contexts) != 1 {
		return nil, fmt.Errorf("%w (got %d)", ErrMissing, len(contexts))
	}
	var claims *tenanttoken.Claims
	for _, fresh := range []bool{false, true} { // a key may be newer than those that are known
		trustDomain, keys, err := v.keys.Keys(ctx, fresh)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnknownKeys, err)
		}
		if claims, err = v.of(trustDomain).Verify(contexts[0], keys, v.now()); err == nil {
			break
		} else if fresh || !errors.Is(err, tenanttoken.ErrForeign) {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	c := &claims.Context
	return context.WithValue(ctx, tenantKey{}, Tenant{c.Tenant, c.UID, c.Tier, c.Cell, claims.Txn, claims.Token}), nil
}

func (v *Verifier) of(trustDomain string) *tenanttoken.Verifier {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifier == nil || v.audience != trustDomain {
		v.audience, v.verifier = trustDomain, tenanttoken.NewVerifier(tenanttoken.Options{Audience: trustDomain})
	}
	return v.verifier
}

// Outbound is the context that a call goes out with, for the tenant of the request that it is made for; where says what is called. It is
// [ErrTenantless] for none.
func Outbound(ctx context.Context, where string) (signed string, err error) {
	t, ok := From(ctx)
	if !ok {
		return "", fmt.Errorf("%w: %s, in a context that no request's is the parent of", ErrTenantless, where)
	}
	return t.context, nil
}
