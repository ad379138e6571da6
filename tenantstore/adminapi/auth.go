package adminapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
)

// Role is what a caller may do.
type Role string

// The roles.
const (
	Operator Role = "operator" // everything
	Auditor  Role = "auditor"  // reads everything
	Sidecar  Role = "sidecar"  // reads what is pushed to it
)

// caller is who calls.
type caller struct {
	name string // for the audit: a SPIFFE ID, or "uid:<n>"
	role Role
}

type callerKey struct{}

func actor(ctx context.Context) string {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.name
}

// guarded lets a caller do what its role may.
func (s *server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(callerKey{}).(caller)
		reads := r.Method == http.MethodGet
		switch {
		case ok && c.role == Operator, ok && c.role == Auditor && reads:
		case ok && c.role == Sidecar && reads && r.URL.Path == SidecarResources:
		default:
			http.Error(w, "this caller's role may not do this", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ConnContext notes the peer's user of a Unix socket: use it as http.Server.ConnContext.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	_ = raw.Control(func(fd uintptr) {
		credential, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && (int(credential.Uid) == os.Getuid() || credential.Uid == 0) {
			ctx = context.WithValue(ctx, callerKey{}, caller{fmt.Sprintf("uid:%d", credential.Uid), Operator})
		}
	})
	return ctx
}

// Roles says which SPIFFE IDs have which role.
type Roles map[Role][]identity.Pattern

// Authenticated gives callers over mTLS the first role, in the order operator, auditor, sidecar, that has their
// SPIFFE ID.
func Authenticated(roles Roles, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		principal, err := svid.RequestPrincipal(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		for _, role := range []Role{Operator, Auditor, Sidecar} {
			if slices.ContainsFunc(roles[role], func(p identity.Pattern) bool { return p.Match(principal) }) {
				r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{principal.String(), role}))
				break
			}
		}
		next.ServeHTTP(w, r)
	})
}
