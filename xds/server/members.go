package server

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
)

// Peer is a member that reports: who it is, and how to answer it.
type Peer struct {
	Principal identity.Principal
	Subject   Subject
	Hello     *api.Hello
	Counted   int64 // sequence of its newest batch of usage that was counted; set by [Members.Joined]

	mu     sync.Mutex
	stream api.MemberService_ReportServer
	ended  context.CancelCauseFunc
}

// Fence ends the member's stream.
func (p *Peer) Fence() {
	p.ended(status.Error(codes.PermissionDenied, "the member was fenced by an operator"))
}

// Send sends a message to the member. It may be called from many goroutines.
func (p *Peer) Send(message *api.ControlMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stream.Send(message)
}

// Members is told of what members report. Calls for one member come one after the other.
type Members interface {
	// Joined is called first; an error ends the stream.
	Joined(ctx context.Context, peer *Peer) error
	// Reported is called for each message after the first; an error ends the stream.
	Reported(ctx context.Context, peer *Peer, report *api.MemberReport) error
	// Fresh reports whether the store was reached just now: what is published is as new as it can be.
	Fresh() bool
	// Gone is called when the stream of a member that joined has ended.
	Gone(peer *Peer)
}

type memberServer struct {
	api.UnimplementedMemberServiceServer
	config   Config
	sessions *sessions
}

// Report implements the member service.
func (s *memberServer) Report(stream api.MemberService_ReportServer) error {
	session, err := s.sessions.begin(stream.Context())
	if err != nil {
		s.config.Log.Warn("refused a stream", zap.Error(err))
		return err
	}
	defer s.sessions.end(session)
	principal, subject := session.principal, session.subject
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello.GetMemberId() == "" {
		return status.Error(codes.InvalidArgument, "the first report must be a hello with a member ID")
	}
	peer := &Peer{Principal: principal, Subject: subject, Hello: hello, stream: stream, ended: session.cancel}
	if err := s.config.Members.Joined(stream.Context(), peer); err != nil {
		return err
	}
	defer s.config.Members.Gone(peer)
	err = peer.Send(&api.ControlMessage{Message: &api.ControlMessage_Welcome{Welcome: &api.Welcome{
		Principal: principal.String(), Role: subject.Role, Cell: subject.Cell, Workload: subject.Workload, UsageSequence: peer.Counted,
	}}})
	if err != nil {
		return err
	}
	pulse := time.NewTicker(pulseInterval)
	defer pulse.Stop()
	over := take(stream.Recv, func(report *api.MemberReport) error { return s.config.Members.Reported(stream.Context(), peer, report) })
	for {
		select {
		case <-pulse.C:
			if !s.config.Members.Fresh() {
				continue
			}
			if err := peer.Send(&api.ControlMessage{Message: &api.ControlMessage_Pulse{Pulse: &api.Pulse{}}}); err != nil {
				return err
			}
		case err := <-over:
			return err
		case <-session.Done():
			return session.ended()
		}
	}
}

// pulseInterval is how often a member hears that what it has is as new as it can be.
const pulseInterval = 2 * time.Second
