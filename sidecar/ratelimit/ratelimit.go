// Package ratelimit answers Envoy's rate limit protocol (envoy.service.ratelimit.v3) from the same limits as the
// check, for routes that ask by descriptor: ("tenant", <name>) and, optionally, ("class", <class>).
//
// It imports sidecar/policyset, policy and go-control-plane.
package ratelimit

import (
	"context"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Server answers rate-limit requests. A tenant that is not known is over its limit: it has none.
type Server struct {
	rls.UnimplementedRateLimitServiceServer
	Sets    *policyset.Holder
	Limiter *limit.Limiter
	Now     func() time.Time
}

// ShouldRateLimit implements envoy.service.ratelimit.v3.RateLimitService.
func (s *Server) ShouldRateLimit(_ context.Context, request *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	response := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}
	for _, descriptor := range request.GetDescriptors() {
		values := map[string]string{}
		for _, entry := range descriptor.GetEntries() {
			values[entry.Key] = entry.Value
		}
		status := s.admit(values["tenant"], values["class"])
		if status.Code != rls.RateLimitResponse_OK {
			response.OverallCode = status.Code
		}
		response.Statuses = append(response.Statuses, status)
	}
	return response, nil
}

func (s *Server) admit(tenant, class string) *rls.RateLimitResponse_DescriptorStatus {
	t, ok := s.Sets.Load().Tenant(tenant)
	if !ok {
		return &rls.RateLimitResponse_DescriptorStatus{Code: rls.RateLimitResponse_OVER_LIMIT}
	}
	verdict := s.Limiter.Admit(s.Now(), &limit.Request{UID: t.UID, Class: class, Limits: t.Limits, ChargeTenant: class == ""})
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
