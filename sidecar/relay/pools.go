package relay

import (
	"maps"
	"slices"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
)

// A bulkhead comes and goes under load, and a request that its route names a cluster for which Envoy has not, or not yet,
// is refused. So its cluster has its endpoint in it, which makes it good at once, before the routes that come after it;
// and one that is not pushed any more stays until Envoy starts anew: the routes that name it go after it.

// pools are the clusters of bulkheads among those that were pushed, by name.
func pools(pushed map[string][]types.Resource) map[string]*cluster.Cluster {
	found := map[string]*cluster.Cluster{}
	for _, message := range pushed[policysync.EnvoyTypes[0]] {
		if c, ok := message.(*cluster.Cluster); ok && isPool(c.Name) {
			found[c.Name] = c
		}
	}
	return found
}

func isPool(name string) bool { return strings.HasPrefix(name, meshname.ClusterPool("")) }

// keep keeps the pools of what was pushed before, but for those that Envoy may have refused.
func (r *Relay) keep(before map[string][]types.Resource) {
	if !r.refused {
		maps.Copy(r.kept, pools(before))
	}
	r.refused = false
}

// withPools are the clusters that Envoy gets: those of bulkheads lead to the service.
func (r *Relay) withPools(clusters []types.Resource) []types.Resource {
	all := maps.Clone(r.kept)
	maps.Copy(all, pools(r.pushed))
	list := slices.DeleteFunc(slices.Clone(clusters), func(message types.Resource) bool {
		c, ok := message.(*cluster.Cluster)
		return ok && isPool(c.Name)
	})
	for _, name := range slices.Sorted(maps.Keys(all)) {
		c := proto.Clone(all[name]).(*cluster.Cluster)
		c.ClusterDiscoveryType, c.EdsClusterConfig = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}, nil
		c.LoadAssignment = r.localService(name)
		list = append(list, c)
	}
	return list
}
