package server

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
)

// session is one open stream: it ends when its principal is not any more what it was when it began.
type session struct {
	context.Context
	cancel    context.CancelCauseFunc
	principal identity.Principal
	subject   Subject
}

// ended is why the session ended, nil when the client ended it.
func (s *session) ended() error {
	if cause := context.Cause(s); cause != nil && !errors.Is(cause, io.EOF) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// sessions are the open streams, of both services.
type sessions struct {
	directory Directory
	admission *rate.Limiter

	mu   sync.Mutex
	open map[*session]struct{}
}

// begin finds out who calls, by the certificate of the connection.
func (s *sessions) begin(ctx context.Context) (*session, error) {
	principal, err := svid.PeerPrincipal(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	// Only after it is known who calls, so that a stranger takes nobody's place.
	waiting, cancel := context.WithTimeout(ctx, admissionTime)
	defer cancel()
	if err := s.admission.Wait(waiting); err != nil {
		return nil, status.Error(codes.Unavailable, "too many sidecars connect at once: come again a little later")
	}
	s.mu.Lock() // so that a change of the directory is seen here, or ends what began here
	defer s.mu.Unlock()
	subject, ok := s.directory.Lookup(principal)
	if !ok {
		return nil, stranger(principal)
	}
	begun := &session{principal: principal, subject: subject}
	begun.Context, begun.cancel = context.WithCancelCause(ctx)
	s.open[begun] = struct{}{}
	return begun, nil
}

// admissionTime is how long a new stream waits for its turn before it is sent away.
const admissionTime = 5 * time.Second

func stranger(principal identity.Principal) error {
	return status.Errorf(codes.PermissionDenied, "%s is no gateway and no workload of this mesh: apply a Cell and a Workload that name it", principal)
}

func (s *sessions) end(ended *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, ended)
	ended.cancel(nil)
}

// follow ends sessions whose principal is gone, or is another by now, until ctx ends.
func (s *sessions) follow(ctx context.Context) {
	for {
		changed := s.directory.Changed()
		s.check()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (s *sessions) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for begun := range s.open {
		if now, ok := s.directory.Lookup(begun.principal); !ok {
			begun.cancel(stranger(begun.principal))
		} else if !now.equal(begun.subject) {
			begun.cancel(status.Errorf(codes.Unavailable, "%s is another in this mesh than when it connected: connect again", begun.principal))
		}
	}
}

func (s Subject) equal(other Subject) bool {
	return s.Role == other.Role && s.Cell == other.Cell && s.Workload == other.Workload && slices.Equal(s.Audiences, other.Audiences)
}

// take passes on each message that a stream receives, until there is none or one is not taken, and then says why: nil at
// the stream's end. It ends with the stream, and that with the call that it is of.
func take[M any](receive func() (M, error), pass func(M) error) <-chan error {
	over := make(chan error, 1)
	go func() {
		for {
			message, err := receive()
			if err == nil {
				err = pass(message)
			}
			if errors.Is(err, io.EOF) {
				err = nil
			} else if err == nil {
				continue
			}
			over <- err
			return
		}
	}()
	return over
}
