package tenantstore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
)

// What a proxy knows by its name must be one thing: Envoy refuses a list of routes in which a host comes twice, and a
// mesh in which one identity is two workloads cannot tell who calls.

// identities wants a SPIFFE ID that w lists to be no other's by default.
func (v *validation) identities(name string, w *WorkloadSpec) {
	for i, listed := range w.SPIFFEIDs {
		id, err := identity.ParsePrincipal(listed.ID)
		if err != nil {
			continue
		}
		parts := strings.Split(id.Path(), "/")
		if len(parts) != 5 || parts[1] != "cell" || parts[3] != "workload" || parts[2] == listed.Cell && parts[4] == name {
			continue
		}
		other := v.objects[Key{KindWorkload, parts[4]}]
		if other == nil || v.objects[Key{KindCell, parts[2]}] == nil ||
			slices.ContainsFunc(other.Workload.SPIFFEIDs, func(own WorkloadIdentity) bool { return own.Cell == parts[2] }) {
			continue
		}
		v.add(fmt.Sprintf("spec.spiffeIDs[%d].id", i), "must be the only one's; Workload/%s has it in cell %s (got %q)", parts[4], parts[2], listed.ID)
	}
}

// hosts wants the hosts of all that w depends on to differ.
func (v *validation) hosts(w *WorkloadSpec) {
	of := map[string]string{} // Dependency, by host
	for i, name := range w.DependsOn {
		d := v.objects[Key{KindDependency, name}]
		if d == nil || slices.Contains(w.DependsOn[:i], name) {
			continue
		}
		for _, host := range d.Dependency.Hosts {
			host = strings.ToLower(host)
			if other, ok := of[host]; ok && other != name {
				v.add(fmt.Sprintf("spec.dependsOn[%d]", i), "must have no host that another has: Dependency/%s has %q too (got %q)", other, host, name)
			}
			of[host] = name
		}
	}
}

// callable wants what is called by a Dependency's name and hosts to be no Workload.
func (v *validation) callable(name string, d *DependencySpec) {
	if v.objects[Key{KindWorkload, name}] != nil {
		v.add("metadata.name", "must be no Workload's (got %q)", name)
	}
	for i, host := range d.Hosts {
		if v.objects[Key{KindWorkload, strings.ToLower(host)}] != nil {
			v.add(fmt.Sprintf("spec.hosts[%d]", i), "must be no Workload's name (got %q)", host)
		}
	}
}
