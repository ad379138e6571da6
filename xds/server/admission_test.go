package server

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestAdmission: when all sidecars come back at once, they are taken at a bounded rate; who is sent away gets in later.
func TestAdmission(t *testing.T) {
	const streams, rate = 300, 100
	cache := NewCache()
	connect := serve(t, cache, directory{"w": {Role: "sidecar", Audiences: []string{"us"}}}, func(c *Config) { c.Admission = rate })
	check(t, cache.Apply(1, []Resource{tenantIn("us", "acme", 1)}, nil))
	client := discovery.NewAggregatedDiscoveryServiceClient(connect(t, "w").conn)
	var group errgroup.Group
	var mu sync.Mutex
	var sent atomic.Int64
	var admitted []time.Time
	for range streams {
		group.Go(func() error {
			for {
				stream, err := client.DeltaAggregatedResources(t.Context())
				if err == nil {
					if err = stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/tenantmesh.v1alpha1.TenantPolicy"}); err == nil {
						_, err = stream.Recv()
					}
				}
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					admitted = append(admitted, time.Now())
					return nil
				}
				if status.Code(err) != codes.Unavailable {
					return err
				}
				sent.Add(1)
			}
		})
	}
	check(t, group.Wait())
	// A second's worth may come at once; the rest takes its time.
	if took := admitted[len(admitted)-1].Sub(admitted[0]); took < time.Second {
		t.Errorf("%d streams were taken in %v, at a rate of %d a second", streams, took, rate)
	}
	t.Logf("%d streams were sent away once, and got in", sent.Load())
}
