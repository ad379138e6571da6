package cli

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

const gateways = `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*", "spiffe://mesh.example/ops/*"], targets: [{workload: front, paths: ["/front/documents/*"]}]}
`

const watched = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: others}
spec: {effect: Permit, mode: Shadow, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: front}]}
---` + gateways

// TestShadows runs testdata/shadows against a mesh in which requests were counted.
func TestShadows(t *testing.T) {
	m := meshtest.Start(t, mesh+watched)
	gateway := m.Gateway(t)
	m.Workload(t, "us-1", "front", http.NotFoundHandler())
	documents, err := tenantstore.DecodeYAML("test", strings.NewReader(gateways))
	if err != nil {
		t.Fatal(err)
	}
	applied, err := m.Admin.Rollout(t.Context(), documents[0].Object, adminapi.RolloutInput{Shadow: true, Removes: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	m.Enforced(t, applied.Revision)
	for path, want := range map[string]int{"/documents/1": 404, "/documents/2": 404, "/other": 403} {
		if got := m.Get(t, gateway.URL+"/front"+path, "acme"); got.Status != want {
			t.Fatalf("%s: %d %s", path, got.Status, got.Body)
		}
	}
	counted := func() bool {
		report, err := m.Admin.Shadow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		uses, err := m.Admin.PolicyUses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, d := range report.Differences {
			sum += d.Requests
		}
		return sum == 3 && len(uses.Uses) == 1
	}
	for deadline := time.After(30 * time.Second); !counted(); {
		select {
		case <-deadline:
			t.Fatal("the sidecar does not report what it counted")
		case <-time.After(50 * time.Millisecond):
		}
	}
	scripts(t, m, "shadows", "")
}
