// Package ratelimit answers Envoy's rate limit protocol (envoy.service.ratelimit.v3) from the same limits, and the same
// counts, as the check, for routes that ask in the domain [Domain], by descriptor: ("tenant", <name>) and, optionally,
// ("class", <class>). A descriptor's hits_addend goes before the request's; none counts as one. The answer has the headers of
// the strictest limit for the client.
//
// It imports sidecar/decide, sidecar/policyset, sidecar/quota, sidecar/refusal, policy and go-control-plane.
package ratelimit

import (
	"context"
	"math"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/quota"
	"github.com/tenantmesh/tenantmesh/sidecar/refusal"
)

// Domain is the only one there is.
const Domain = "tenantmesh"

// Server answers rate-limit requests. A tenant that is not known is over its limit: it has none.
type Server struct {
	rls.UnimplementedRateLimitServiceServer
	Sets    *policyset.Holder
	Limiter *limit.Limiter // the one that the check counts in
	Shares  *quota.Shares  // as the check's; nil: limits are whole
	Now     func() time.Time
}

// ShouldRateLimit implements envoy.service.ratelimit.v3.RateLimitService. What it would not count as it was meant is an
// error (InvalidArgument), and counts nothing.
func (s *Server) ShouldRateLimit(_ context.Context, request *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	if request.Domain != Domain {
		return nil, status.Errorf(codes.InvalidArgument, "domain must be %q (got %q)", Domain, request.Domain)
	}
	asked, tenants := make([]limit.Request, len(request.Descriptors)), make([]string, len(request.Descriptors))
	for i, descriptor := range request.Descriptors {
		if descriptor.Limit != nil || descriptor.IsNegativeHits {
			return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d] must have no limit and no hits to give back", i)
		}
		for _, entry := range descriptor.Entries {
			switch entry.Key {
			case "tenant":
				if t, ok := s.Sets.Load().Tenant(entry.Value); ok {
					asked[i].UID, asked[i].Limits, tenants[i] = t.UID, t.Limits, entry.Value
				}
			case "class":
				asked[i].Class = entry.Value
			default:
				return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d] must be of tenant and class (got %q)", i, entry.Key)
			}
		}
		if !s.Shares.Counts(tenants[i], asked[i].Class != "") {
			return nil, status.Errorf(codes.InvalidArgument, "descriptors[%d] must be of a limit that is counted here: a tenant's own at gateways, a class's at sidecars of its workload", i)
		}
		asked[i].ChargeTenant, asked[i].Hits = asked[i].Class == "", hits(request, descriptor)
	}
	response := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}
	var strictest limit.Verdict
	of := &limit.Request{}
	for i := range asked {
		status, verdict := s.admit(tenants[i], &asked[i])
		if status.Code != rls.RateLimitResponse_OK {
			response.OverallCode = status.Code
		}
		response.Statuses = append(response.Statuses, status)
		if i == 0 || stricter(&verdict, &strictest) {
			strictest, of = verdict, &asked[i]
		}
	}
	if level, ok := strictest.Strictest(); ok {
		seconds := int64((level.Refill() + time.Second - 1) / time.Second)
		if level.Exceeded {
			seconds = max(1, seconds)
		}
		answer := decide.Answer{Level: level, Limited: true, Decision: policy.Decision{TenantUID: of.UID, Class: of.Class}}
		if set := s.Sets.Load(); set.Self != nil {
			answer.Decision.Workload = set.Self.Workload
		}
		for _, h := range refusal.LimitHeaders(&answer, seconds) {
			response.ResponseHeadersToAdd = append(response.ResponseHeadersToAdd, &core.HeaderValue{Key: h.Name, Value: h.Value})
		}
		if level.Exceeded {
			response.ResponseHeadersToAdd = append(response.ResponseHeadersToAdd, &core.HeaderValue{Key: propagation.HeaderRetryAfter, Value: strconv.FormatInt(seconds, 10)})
		}
	}
	return response, nil
}

// stricter reports whether x leaves less than y.
func stricter(x, y *limit.Verdict) bool {
	a, ok := x.Strictest()
	b, other := y.Strictest()
	if !ok || !other {
		return ok
	}
	if a.Exceeded != b.Exceeded {
		return a.Exceeded
	}
	if a.Exceeded {
		return a.Retry > b.Retry
	}
	return a.Remaining/a.Of < b.Remaining/b.Of
}

func hits(request *rls.RateLimitRequest, descriptor *commonv3.RateLimitDescriptor) int {
	n := uint64(request.HitsAddend)
	if descriptor.HitsAddend != nil {
		n = descriptor.HitsAddend.Value
	}
	return int(min(max(1, n), math.MaxInt32))
}

func (s *Server) admit(tenant string, request *limit.Request) (*rls.RateLimitResponse_DescriptorStatus, limit.Verdict) {
	if request.UID == "" {
		return &rls.RateLimitResponse_DescriptorStatus{Code: rls.RateLimitResponse_OVER_LIMIT}, limit.Verdict{}
	}
	verdict := s.Shares.Admit(s.Limiter, s.Now(), tenant, request)
	status := &rls.RateLimitResponse_DescriptorStatus{Code: rls.RateLimitResponse_OK}
	if verdict.Reason != policy.Permitted {
		status.Code = rls.RateLimitResponse_OVER_LIMIT
	}
	if level, ok := verdict.Strictest(); ok {
		status.LimitRemaining = uint32(level.Remaining)
		status.DurationUntilReset = durationpb.New(level.Refill())
		status.CurrentLimit = currentLimit(&level)
	}
	return status, verdict
}

// currentLimit is a rate as so many requests a unit: the smallest unit in which it is at least one.
func currentLimit(level *limit.Level) *rls.RateLimitResponse_RateLimit {
	if level.Window <= 0 {
		return nil
	}
	perSecond := level.Of / level.Window.Seconds()
	for _, unit := range []struct {
		name    rls.RateLimitResponse_RateLimit_Unit
		seconds float64
	}{{rls.RateLimitResponse_RateLimit_SECOND, 1}, {rls.RateLimitResponse_RateLimit_MINUTE, 60}, {rls.RateLimitResponse_RateLimit_HOUR, 3600}} {
		if n := perSecond * unit.seconds; n > 0.999 {
			return &rls.RateLimitResponse_RateLimit{Name: level.Kind.String(), RequestsPerUnit: uint32(n + 0.001), Unit: unit.name}
		}
	}
	return nil
}
