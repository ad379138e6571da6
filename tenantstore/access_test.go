package tenantstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const bound = `---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: reports}
spec: {boundTenant: acme, spiffeIDs: [{cell: us-1, id: "spiffe://a.example/reports"}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessInvariant
metadata: {name: apart}
spec: {noCrossTenant: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessInvariant
metadata: {name: search}
spec: {onlyFrom: ["spiffe://a.example/gateway/*", "spiffe://a.example/reports"], workload: search}
`

func accessPolicy(name, effect, principal, more string) string {
	return fmt.Sprintf(`
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: %s}
spec: {effect: %s, principals: ["spiffe://a.example/%s"], targets: [{workload: search}]%s}
`, name, effect, principal, more)
}

// TestInvariants: what would break an AccessInvariant is refused, whoever breaks it how; one that is broken stays in nobody's way.
func TestInvariants(t *testing.T) {
	writer, store := newWriter()
	apply := func(text string) error {
		_, err := writer.Apply(t.Context(), "test", decode(t, text), tenantstore.ApplyOptions{})
		return err
	}
	good := func(what, text string) {
		t.Helper()
		if err := apply(text); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	bad := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("%s: %v, want %q", what, err, want)
		}
	}
	good("the mesh", mesh+bound)
	bad("another caller", apply(accessPolicy("p", "Permit", "cell/*/workload/x", "")), "AccessInvariant/search: must hold, and p would allow spiffe://a.example/cell/other/workload/x for acme: GET /other of search")
	bad("another tenant", apply(accessPolicy("p", "Permit", "reports", "")), "AccessInvariant/apart: must hold, and p would allow spiffe://a.example/reports for other")
	good("its tenant", accessPolicy("p", "Permit", "reports", ", tenants: {names: [acme]}"))
	good("a caller that is forbidden", accessPolicy("f", "Forbid", "other", "")+"---"+accessPolicy("q", "Permit", "other", ""))
	_, err := writer.Delete(t.Context(), "test", []tenantstore.Key{{Kind: tenantstore.KindAccessPolicy, Name: "f"}}, tenantstore.ApplyOptions{})
	bad("without the forbid", err, "AccessInvariant/search: must hold, and q would allow")

	good("a tier's policy", accessPolicy("g", "Permit", "reports", ", tenants: {names: [acme], tiers: [gold]}"))
	good("a tenant's tier", strings.ReplaceAll(mesh, "tier: gold", "tier: silver"))

	candidate := decode(t, accessPolicy("p", "Permit", "*", ", tenants: {names: [acme]}"))[0]
	_, err = writer.StartRollout(t.Context(), "test", tenantstore.RolloutRequest{Object: candidate}, false)
	bad("a rollout", err, "AccessInvariant/search: must hold, and p would allow spiffe://a.example/other")
	if _, err = writer.StartRollout(t.Context(), "test", tenantstore.RolloutRequest{Object: decode(t, accessPolicy("p", "Permit", "reports", ", tenants: {names: [acme], tiers: [gold]}"))[0]}, false); err != nil {
		t.Fatal(err)
	}
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := tenantstore.AccessMesh(snapshot.Objects, time.Unix(1e9, 0))
	var names []string
	for _, p := range m.Policies {
		names = append(names, p.Name)
	}
	if want := []string{"f", "g", "gateway-search", "p", "q", "p@canary"}; !slices.Equal(names, want) {
		t.Errorf("the policies are %v, want %v", names, want)
	}
	if got := fmt.Sprint(m.Workloads); got != "[{reports [spiffe://a.example/reports] acme [] false} {search [spiffe://a.example/cell/*/workload/search]  [] true}]" {
		t.Errorf("the workloads are %v", got)
	}
}

// TestBrokenInvariant: one is not taken that does not hold; and one that time broke stays in nobody's way.
func TestBrokenInvariant(t *testing.T) {
	now := time.Unix(1e9, 0)
	_, store := newWriter()
	writer := tenantstore.NewWriter(store, func() time.Time { return now })
	apply := func(text string) error {
		_, err := writer.Apply(t.Context(), "test", decode(t, text), tenantstore.ApplyOptions{})
		return err
	}
	invariant := `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessInvariant
metadata: {name: apart}
spec: {noCrossTenant: true}
`
	permit := accessPolicy("p", "Permit", "support", "")
	grant := `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessGrant
metadata: {name: g}
spec: {principal: "spiffe://a.example/support", tenants: {names: [acme]}, targets: [{workload: search}], reason: r, approver: a, notAfter: "2001-09-10T00:00:00Z"}
`
	if err := apply(mesh + "---" + permit + "---" + grant); err != nil {
		t.Fatal(err)
	}
	if err := apply(invariant); err == nil || !strings.Contains(err.Error(), "AccessInvariant/apart: must hold, and p would allow spiffe://a.example/support for other") {
		t.Fatalf("an invariant that does not hold: %v", err)
	}
	now = time.Date(2001, 9, 10, 0, 0, 0, 0, time.UTC)
	if err := apply(invariant); err != nil {
		t.Fatalf("nobody holds a grant any more: %v", err)
	}
	now = time.Unix(1e9, 0) // as if a grant had begun
	if err := apply(accessPolicy("q", "Forbid", "x", "")); err != nil {
		t.Fatalf("what does not break it: %v", err)
	}
}
