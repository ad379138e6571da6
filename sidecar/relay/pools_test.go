package relay

import (
	"slices"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"

	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
)

// TestPools: a bulkhead's cluster needs no endpoint from elsewhere, and outlives the push that takes it away, unless Envoy
// refused it.
func TestPools(t *testing.T) {
	r := New(t.Context(), Config{ServicePort: 8080})
	push := func(names ...string) (got []string) {
		t.Helper()
		pushed := map[string][]types.Resource{}
		for _, name := range names {
			pushed[policysync.EnvoyTypes[0]] = append(pushed[policysync.EnvoyTypes[0]], &cluster.Cluster{Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS}})
		}
		r.keep(r.pushed)
		r.pushed = pushed
		for _, message := range r.withPools(pushed[policysync.EnvoyTypes[0]]) {
			c := message.(*cluster.Cluster)
			got = append(got, c.Name)
			if whole := c.GetType() == cluster.Cluster_STATIC && c.LoadAssignment.ClusterName == c.Name; whole != isPool(c.Name) {
				t.Errorf("%s is %v", c.Name, c)
			}
		}
		return got
	}
	for _, step := range []struct {
		refused bool
		push    []string
		want    []string
	}{
		{false, []string{"local_service", "local_service/a"}, []string{"local_service", "local_service/a"}},
		{false, []string{"local_service", "local_service/b"}, []string{"local_service", "local_service/a", "local_service/b"}},
		{false, []string{"local_service"}, []string{"local_service", "local_service/a", "local_service/b"}},
		{false, []string{"local_service", "local_service/bad"}, []string{"local_service", "local_service/a", "local_service/b", "local_service/bad"}},
		{true, []string{"local_service"}, []string{"local_service", "local_service/a", "local_service/b"}},
	} {
		r.refused = step.refused
		if got := push(step.push...); !slices.Equal(got, step.want) {
			t.Errorf("after %v: %v, want %v", step.push, got, step.want)
		}
	}
	if err := r.OnDeltaStreamOpen(t.Context(), 1, ""); err != nil {
		t.Fatal(err)
	}
	if got := push("local_service"); !slices.Equal(got, []string{"local_service"}) {
		t.Errorf("a new Envoy gets %v", got)
	}
}
