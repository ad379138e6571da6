package adminapi

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Role is what a caller may do.
type Role string

// The roles that the control plane's flags give. Those that RoleBindings give are in [tenantstore.BoundRole].
const (
	Operator Role = "operator" // everything
	Auditor  Role = "auditor"  // reads everything
	Sidecar  Role = "sidecar"  // reads what is pushed to it
)

// caller is who calls.
type caller struct {
	name      string             // for the audit: a SPIFFE ID, or "uid:<n>"
	role      Role               // "" for none
	principal identity.Principal // zero for a user of this machine
	scope     *tenantstore.Scope // nil: it may do this by its role, whatever it is about
}

type callerKey struct{}

func actor(ctx context.Context) string {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.name
}

// guarded lets a caller do what its role may.
func (s *server) guarded(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(callerKey{}).(caller)
		_, operation := mux.Handler(r)
		open := opened[operation]
		switch {
		case !ok:
		case c.role == Operator, c.role == Auditor && r.Method == http.MethodGet, c.role == Sidecar && open.sidecars:
			mux.ServeHTTP(w, r)
			return
		case len(open.bound) > 0:
			snapshot, err := s.Store.Snapshot(r.Context())
			if err != nil {
				http.Error(w, "the store did not answer", http.StatusServiceUnavailable)
				return
			}
			scope := tenantstore.ScopeOf(snapshot.Objects, c.principal)
			if slices.ContainsFunc(open.bound, scope.Has) {
				c.scope = &scope
				mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
				return
			}
		}
		http.Error(w, "this caller's role may not do this", http.StatusForbidden)
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
			ctx = context.WithValue(ctx, callerKey{}, caller{name: person(credential), role: Operator})
		}
	})
	return ctx
}

// person names who is at the other end of the socket: the user that logged in, whoever they have become since by sudo or su, so that nobody
// has two names; without a login, such as a service's, the user that it is.
func person(peer *unix.Ucred) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", peer.Pid))
	if err == nil {
		if login, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil && uint32(login) != noLogin {
			return fmt.Sprintf("uid:%d", login)
		}
	}
	return fmt.Sprintf("uid:%d", peer.Uid)
}

// noLogin is the login uid of who has not logged in (audit_setloginuid(3)).
const noLogin = math.MaxUint32

// socketUsers are the users of this machine that [ConnContext] makes operators.
func socketUsers() []string {
	users := []string{"uid:0"}
	if own := os.Getuid(); own != 0 {
		users = append(users, fmt.Sprintf("uid:%d", own))
	}
	return users
}

// Roles says which SPIFFE IDs have which role.
type Roles map[Role][]identity.Pattern

// Authenticated gives callers over mTLS the first role, in the order operator, auditor, sidecar, that has their
// SPIFFE ID. What RoleBindings give them is looked up when it is asked for.
func Authenticated(roles Roles, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		principal, err := svid.RequestPrincipal(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		c := caller{name: principal.String(), principal: principal}
		for _, role := range []Role{Operator, Auditor, Sidecar} {
			if slices.ContainsFunc(roles[role], func(p identity.Pattern) bool { return p.Match(principal) }) {
				c.role = role
				break
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}
