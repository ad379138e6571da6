package translator

import (
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushosts "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
)

// breaker is nil where nothing is said: the sidecar has the defaults.
func breaker(b policy.Breaker) *api.Breaker {
	if b == (policy.Breaker{}) {
		return nil
	}
	return &api.Breaker{Failures: int32(b.Failures), Share: b.Share, Window: duration(b.Window), Wait: duration(b.Wait), MaxWait: duration(b.MaxWait)}
}

// duration is nil for one that is not said; one that is was validated.
func duration(text string) *durationpb.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil
	}
	return durationpb.New(d)
}

// toWorkload forwards to a workload. What it has certainly not seen is sent again, to another of its sidecars where there
// is one; how much of that there may be is the cluster's retry budget.
func toWorkload(cell, workload string) *route.RouteAction {
	action := forward(meshname.ClusterWorkload(cell, workload))
	action.RetryPolicy = &route.RetryPolicy{
		RetryOn: "connect-failure,refused-stream", NumRetries: wrapperspb.UInt32(1), HostSelectionRetryMaxAttempts: 3,
		RetryHostPredicate: []*route.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &route.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: packed(&previoushosts.PreviousHostsPredicate{})},
		}},
	}
	return action
}

// bulkhead is the service beside the Envoy, for the requests of one class: connections of its own, and bounds of its own
// where they are said.
func bulkhead(protocol, class string, connections, pending, requests int) *cluster.Cluster {
	c := localService(protocol)
	c.Name = meshname.ClusterPool(class)
	bounds := c.CircuitBreakers.Thresholds[0]
	for _, b := range []struct {
		field **wrapperspb.UInt32Value
		said  int
	}{{&bounds.MaxConnections, connections}, {&bounds.MaxPendingRequests, pending}, {&bounds.MaxRequests, requests}} {
		if b.said > 0 {
			*b.field = wrapperspb.UInt32(uint32(b.said))
		}
	}
	return c
}
