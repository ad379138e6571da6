package translator

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
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
