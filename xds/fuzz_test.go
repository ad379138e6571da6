package xds

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// FuzzResources: whatever the store takes becomes resources that Envoy's own rules accept, no two under one name, and the
// same again from the same objects.
func FuzzResources(f *testing.F) {
	for _, seed := range []string{
		"apiVersion: tenantmesh.dev/v1alpha1\nkind: Cell\nmetadata: {name: us-1}\nspec: {region: us}\n---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Workload\nmetadata: {name: front}\nspec: {expose: [{host: docs.example, pathPrefix: /front, stripPrefix: true}], dependsOn: [back, mail], classes: [{name: exports, methods: [POST], paths: [\"/*/export\"], bulkhead: {maxConnections: 2}}]}\n---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Workload\nmetadata: {name: back}\nspec: {protocol: grpc}\n---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Dependency\nmetadata: {name: mail}\nspec: {hosts: [mail.example], port: 443, tls: true}\n",
		"apiVersion: tenantmesh.dev/v1alpha1\nkind: TokenIssuer\nmetadata: {name: login}\nspec: {issuer: \"https://login.test\", audiences: [a], jwks: {inline: '{\"keys\":[]}'}, tenants: [\"*\"]}\n---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme, labels: {a: b}}\nspec: {tier: gold, region: us, limits: {requestsPerSecond: 5, burst: 7}}\n---\napiVersion: tenantmesh.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {effect: Permit, principals: [\"spiffe://mesh.example/**\"], targets: [{workload: \"*\", paths: [\"/a/**\"]}]}\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		documents, err := tenantstore.DecodeYAML("f", strings.NewReader(text))
		if err != nil {
			return
		}
		objects := map[tenantstore.Key]*tenantstore.Object{}
		for _, d := range documents {
			objects[d.Object.Key()] = d.Object
		}
		if problems := tenantstore.Validate(objects, slices.Collect(maps.Keys(objects))); len(problems) > 0 {
			return
		}
		translate := func() []translator.Resource {
			mesh := ir.Build(tenantstore.Snapshot{Revision: 1, Objects: objects}, ir.Options{TrustDomain: "mesh.example"})
			resources := translator.Translate(mesh)
			for key := range objects {
				if tenant, ok := ir.BuildTenant(objects, map[string]policy.TierSpec{}, key.Name); key.Kind == tenantstore.KindTenant && ok {
					resources = append(resources, translator.Tenant(tenant)...)
				}
			}
			return resources
		}
		first := map[[3]string]proto.Message{}
		for _, r := range translate() {
			key := [3]string{r.TypeURL, r.Audience, r.Name}
			if other := first[key]; other != nil && !proto.Equal(other, r.Message) {
				t.Errorf("two resources are %v", key)
			}
			first[key] = r.Message
			if v, ok := r.Message.(interface{ ValidateAll() error }); ok {
				if err := v.ValidateAll(); err != nil {
					t.Errorf("%v: %v", key, err)
				}
			}
		}
		for _, r := range translate() {
			if !proto.Equal(first[[3]string{r.TypeURL, r.Audience, r.Name}], r.Message) {
				t.Errorf("%s %s is another the second time", r.TypeURL, r.Name)
			}
		}
	})
}
