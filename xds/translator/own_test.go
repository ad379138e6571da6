package translator_test

import (
	"maps"
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

const bound = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: reports}
spec: {boundTenant: acme, dependsOn: [front], spiffeIDs: [{cell: us-1, id: "spiffe://mesh.example/reports"}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: batch}
spec: {boundTenant: acme}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: web}
spec: {dependsOn: [front]}
`

// TestBindingsTravel: a sidecar knows of its peers which are bound to a tenant, whatever the number of tenants and of others that are.
func TestBindingsTravel(t *testing.T) {
	resources := translate(t, []byte(bound))
	config, ok := resources["cell/us-1/workload/front|ProxyConfig|self"].Message.(*api.ProxyConfig)
	if !ok {
		t.Fatal(names(resources))
	}
	if want := map[string]string{"spiffe://mesh.example/reports": "acme"}; !maps.Equal(config.BoundPeers, want) {
		t.Errorf("the bound peers are %v, want %v", config.BoundPeers, want)
	}
}

// TestSelectorsTravel: what a policy selects is the same where it is enforced; and a sidecar that does not know a selector, for which the
// policy would be about more, does not take it.
func TestSelectorsTravel(t *testing.T) {
	everyone := []string{"spiffe://mesh.example/**"}
	targets := []policy.Target{{Workload: "front", GRPC: []policy.GRPC{{Service: "a.B", Methods: []string{"C"}}}}}
	for name, test := range map[string]struct {
		tenants policy.TenantSelector
		older   bool // one that does not know takes it, too
		allowed func(own, tenant, residency string) bool
	}{
		"all":       {policy.TenantSelector{}, true, func(_, _, _ string) bool { return true }},
		"own":       {policy.TenantSelector{Own: true}, false, func(own, tenant, _ string) bool { return own != "" && own == tenant }},
		"residency": {policy.TenantSelector{Residency: "eu"}, false, func(_, tenant, residency string) bool { return tenant != "" && residency == "eu" }},
	} {
		p := ir.Policy{Name: "p", Spec: policy.AccessPolicySpec{Effect: policy.Permit, Principals: everyone, Tenants: test.tenants, Targets: targets}}
		mesh := &ir.Mesh{Policies: []ir.Policy{p}}
		set := policiesOf(t, mesh, []string{translator.AudienceWorkloads("front")})
		for _, own := range []string{"", "acme", "globex"} {
			for _, tenant := range []string{"", "acme", "globex"} {
				for _, residency := range []string{"", "eu"} {
					for _, path := range []string{"/a.B/C", "/a.B/D"} {
						r := &authz.Request{Principal: principalOf(t, "spiffe://mesh.example/x"), Workload: "front", Method: "POST", Path: path}
						if tenant != "" {
							r.Tenant = authz.Tenant{ID: tenantOf(t, tenant), Residency: residency}
						}
						r.Own = tenantOf(t, own)
						want := path == "/a.B/C" && test.allowed(own, tenant, residency)
						if _, allowed := set.Allowed(r); allowed != want {
							t.Errorf("%s: of %q for %q in %q at %s: allowed %v", name, own, tenant, residency, path, allowed)
						}
					}
				}
			}
		}
		for _, resource := range translator.Translate(mesh) {
			message, ok := resource.Message.(*api.AccessPolicy)
			if !ok {
				continue
			}
			message.KnownEffect = "" // as one reads it that does not know of it
			_, err := (*policyset.Set)(nil).With([]policyset.Change{{TypeURL: resource.TypeURL, Name: resource.Name, Message: message}}, 1)
			if (err == nil) != test.older {
				t.Errorf("%s: an older sidecar: %v", name, err)
			}
		}
	}
}

func principalOf(t *testing.T, id string) identity.Principal {
	t.Helper()
	p, err := identity.ParsePrincipal(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tenantOf(t *testing.T, name string) (id identity.TenantID) {
	t.Helper()
	if err := id.UnmarshalText([]byte(name)); err != nil {
		t.Fatal(err)
	}
	return id
}
