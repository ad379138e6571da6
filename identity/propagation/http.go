package propagation

import (
	"errors"
	"net/http"
)

// Middleware lets requests through to next whose tenant context is verified, with the tenant in their context ([From]); the others are refused
// with 403, or with 503 while the mesh's keys are not known.
func Middleware(v *Verifier, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, err := v.Verify(r.Context(), r.Header.Values(HeaderTxnToken))
		switch {
		case err == nil:
			next.ServeHTTP(w, r.WithContext(ctx))
		case errors.Is(err, ErrUnknownKeys):
			w.Header().Set(HeaderRetryAfter, "1")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
}

// Transport sends calls on for the tenant of the request that their context comes from. A call for none is [ErrTenantless], which says where it
// would have gone, and is not sent. Base nil means [http.DefaultTransport].
type Transport struct{ Base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	signed, err := Outbound(r.Context(), r.Method+" "+r.URL.Scheme+"://"+r.URL.Host+r.URL.EscapedPath())
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as http.RoundTripper must, also in errors
		}
		return nil, err
	}
	out := r.Clone(r.Context()) // it must not change what it is given
	out.Header.Set(HeaderTxnToken, signed)
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	return base.RoundTrip(out)
}
