package ratelimit

import (
	"context"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Connections is the rate limit service for the Envoy beside: it answers, too, whether a captured connection may be made.
type Connections struct {
	rls.RateLimitServiceServer
	Decider interface {
		Decide(*decide.Request) decide.Answer
	}
}

// ShouldRateLimit implements the protocol. A connection that may not be made is over its limit.
func (c *Connections) ShouldRateLimit(ctx context.Context, request *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	if request.Domain != meshname.DomainConnections {
		return c.RateLimitServiceServer.ShouldRateLimit(ctx, request)
	}
	asked := decide.Request{Listener: meshname.ListenerCaptured}
	if d := request.Descriptors; len(d) == 1 && len(d[0].Entries) == 1 && d[0].Entries[0].Key == meshname.ExtensionTarget {
		asked.Target = d[0].Entries[0].Value
	}
	code := rls.RateLimitResponse_OVER_LIMIT
	if c.Decider.Decide(&asked).Decision.Allowed {
		code = rls.RateLimitResponse_OK
	}
	return &rls.RateLimitResponse{OverallCode: code}, nil
}
