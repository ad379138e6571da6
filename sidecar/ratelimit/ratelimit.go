// Package ratelimit answers Envoy's rate limit protocol (envoy.service.ratelimit.v3) from the same limits, and the same
// counts, as the check, for routes that ask in the domain [Domain], by descriptor: ("tenant", <name>) and, optionally,
// ("class", <class>). A descriptor's hits_addend goes before the request's; none counts as one.
//
// It imports sidecar/policyset, policy and go-control-plane.
package ratelimit

import (
	"context"
	"math"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Domain is the only one there is.
const Domain = "tenantmesh"

// Server answers rate-limit requests. A tenant that is not known is over its limit: it has none.
type Server struct {
	rls.UnimplementedRateLimitServiceServer
	Sets    *policyset.Holder
	Limiter *limit.Limiter // the one that the check counts in
	Now     func() time.Time
}

// ShouldRateLimit implements envoy.service.ratelimit.v3.RateLimitService. What it would not count as it was meant is an
// error (InvalidArgument), and counts nothing.
func (s *Server) ShouldRateLimit(_ context.Context, request *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	if request.Domain != Domain {
		return nil, status.Errorf(codes.InvalidArgument, "domain must be %q (got %q)", Domain, request.Domain)
	}
	asked := make([]limit.Request, len(request.Descriptors))
	for i, descriptor := range request.Descriptors {
		if descriptor.Limit != nil || descriptor.IsNegativeHits {
			return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d] must have no limit and no hits to give back", i)
		}
		for _, entry := range descriptor.Entries {
			switch entry.Key {
			case "tenant":
				if t, ok := s.Sets.Load().Tenant(entry.Value); ok {
					asked[i].UID, asked[i].Limits = t.UID, t.Limits
				}
			case "class":
				asked[i].Class = entry.Value
			default:
				return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d] must be of tenant and class (got %q)", i, entry.Key)
			}
		}
		asked[i].ChargeTenant, asked[i].Hits = asked[i].Class == "", hits(request, descriptor)
	}
	response := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}
	for i := range asked {
		status := s.admit(&asked[i])
		if status.Code != rls.RateLimitResponse_OK {
			response.OverallCode = status.Code
		}
		response.Statuses = append(response.Statuses, status)
	}
	return response, nil
}

func hits(request *rls.RateLimitRequest, descriptor *commonv3.RateLimitDescriptor) int {
	n := uint64(request.HitsAddend)
	if descriptor.HitsAddend != nil {
		n = descriptor.HitsAddend.Value
	}
	return int(min(max(1, n), math.MaxInt32))
}

func (s *Server) admit(request *limit.Request) *rls.RateLimitResponse_DescriptorStatus {
	if request.UID == "" {
		return &rls.RateLimitResponse_DescriptorStatus{Code: rls.RateLimitResponse_OVER_LIMIT}
	}
	verdict := s.Limiter.Admit(s.Now(), request)
	status := &rls.RateLimitResponse_DescriptorStatus{Code: rls.RateLimitResponse_OK}
	if verdict.Reason != policy.Permitted {
		status.Code = rls.RateLimitResponse_OVER_LIMIT
	}
	if level, ok := verdict.Strictest(); ok {
		status.LimitRemaining = uint32(level.Remaining)
		status.DurationUntilReset = durationpb.New(level.Retry)
	}
	return status
}
