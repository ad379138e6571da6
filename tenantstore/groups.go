package tenantstore

import (
	"slices"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Group is who enforces a limit together.
type Group struct {
	Members []string // IDs, sorted
	Counted []string // those of them whose part is their own
}

// Groups are all groups, by name: members that neither left nor were shut out may serve, and count.
func Groups(objects map[Key]*Object) map[string]Group {
	groups := map[string]Group{meshname.GroupGateways: {}}
	bound := map[string]string{} // workload -> tenant
	for key, o := range objects {
		if key.Kind == KindWorkload && o.Workload.BoundTenant != "" {
			bound[key.Name] = o.Workload.BoundTenant
			groups[meshname.GroupTenant(o.Workload.BoundTenant)] = Group{}
		}
	}
	for key, o := range objects {
		if key.Kind != KindMember || o.Member.Left || o.Member.Fenced {
			continue
		}
		in := []string{meshname.GroupGateways}
		if o.Member.Role != RoleGateway {
			in = []string{meshname.GroupWorkload(o.Member.Cell, o.Member.Workload)}
			if tenant := bound[o.Member.Workload]; tenant != "" {
				in = append(in, meshname.GroupTenant(tenant))
			}
		} else {
			for _, tenant := range bound {
				if group := meshname.GroupTenant(tenant); !slices.Contains(in, group) {
					in = append(in, group)
				}
			}
		}
		for _, name := range in {
			group := groups[name]
			group.Members = append(group.Members, key.Name)
			if slices.Contains(o.Member.Counted, name) {
				group.Counted = append(group.Counted, key.Name)
			}
			groups[name] = group
		}
	}
	for _, group := range groups {
		slices.Sort(group.Members)
		slices.Sort(group.Counted)
	}
	return groups
}
