package server

import (
	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Quota divides limits among the members that enforce them.
type Quota interface {
	// Open begins a stream of a member; the newest of one counts. An error ends it.
	Open(principal identity.Principal, member string) (QuotaStream, error)
}

// QuotaStream is one member's stream. Calls come one after the other.
type QuotaStream interface {
	// Hello is the first response.
	Hello() *quota.RateLimitQuotaResponse
	// Report takes a report; an error ends the stream.
	Report(*quota.RateLimitQuotaUsageReports) error
	// Changed is written to when there is something to tell, and closed when the stream is over.
	Changed() <-chan struct{}
	// Next is what to tell now, nil for nothing; an error ends the stream.
	Next() (*quota.RateLimitQuotaResponse, error)
	// Close ends the stream.
	Close()
}

type quotaServer struct {
	quota.UnimplementedRateLimitQuotaServiceServer
	config   Config
	sessions *sessions
}

// StreamRateLimitQuotas implements envoy.service.rate_limit_quota.v3, for members of the mesh and no Envoy.
func (s *quotaServer) StreamRateLimitQuotas(stream quota.RateLimitQuotaService_StreamRateLimitQuotasServer) error {
	session, err := s.sessions.begin(stream.Context())
	if err != nil {
		s.config.Log.Warn("refused a stream", zap.Error(err))
		return err
	}
	defer s.sessions.end(session)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	usages := first.GetBucketQuotaUsages()
	if first.Domain != meshname.QuotaDomain || len(usages) != 1 || usages[0].GetBucketId().GetBucket()[meshname.QuotaMember] == "" {
		return status.Errorf(codes.InvalidArgument, "the first report must be of domain %q and name the member", meshname.QuotaDomain)
	}
	member, err := s.config.Quota.Open(session.principal, usages[0].BucketId.Bucket[meshname.QuotaMember])
	if err != nil {
		return err
	}
	defer member.Close()
	if err := stream.Send(member.Hello()); err != nil {
		return err
	}
	over := take(stream.Recv, member.Report)
	for {
		select {
		case _, open := <-member.Changed():
			if !open {
				return status.Error(codes.Unavailable, "this control plane does not divide limits any more, or the member has a newer stream")
			}
			response, err := member.Next()
			if err != nil {
				return err
			}
			if response == nil {
				continue
			}
			if err := stream.Send(response); err != nil {
				return err
			}
		case err := <-over:
			return err
		case <-session.Done():
			return session.ended()
		}
	}
}
