package feature

import (
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// shadow has a change of a policy watched, and waits until every sidecar does.
func (w *world) shadow(t *testing.T, object string, removes bool) {
	t.Helper()
	documents, err := tenantstore.DecodeYAML("test", strings.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	applied, err := w.Admin.Rollout(t.Context(), documents[0].Object, adminapi.RolloutInput{Shadow: true, Removes: removes}, false)
	w.did(t, applied, err)
}

// differences waits until the sidecars have reported so many requests, and returns them by policy, outcome, tenant, workload, method and route.
func (w *world) differences(t *testing.T, requests int64) (got map[string]int64, report tenantstore.ShadowReport) {
	t.Helper()
	until(t, func() bool {
		var err error
		if report, err = w.Admin.Shadow(t.Context()); err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		got = map[string]int64{}
		for _, d := range report.Differences {
			sum += d.Requests
			got[strings.Join([]string{d.Policy, d.Outcome, d.Tenant, d.Workload, d.Method, d.Route}, " ")] = d.Requests
		}
		return sum >= requests
	})
	return got, report
}

const fewerPaths = `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: front, paths: ["/new/**", "/call"]}]}
`

// TestShadow: changes of policies and policies in Shadow mode decide nothing, what they would do is reported from the sidecars, with an
// example that can be explained, and a change is in force once it is promoted.
func TestShadow(t *testing.T) {
	w := newWorld(t)
	w.shadow(t, fewerPaths, false)
	w.shadow(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: front-back}
spec: {effect: Permit, principals: ["spiffe://mesh.example/any"], targets: [{workload: "*"}]}
`, true)
	w.Apply(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: secrets}
spec: {effect: Permit, mode: Shadow, principals: ["spiffe://mesh.example/**"], targets: [{workload: front, methods: [GET]}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-globex}
spec: {effect: Forbid, mode: Shadow, principals: ["spiffe://mesh.example/**"], tenants: {names: [globex]}, targets: [{workload: front, paths: ["/new/*"]}]}
`)
	for range 3 {
		want(t, "a path that the change leaves out", w.Get(t, w.gateway.URL+"/front/x/y", "acme"), 200, "")
	}
	want(t, "a path that it keeps", w.Get(t, w.gateway.URL+"/front/new/1", "acme"), 200, "")
	want(t, "one that another would forbid", w.Get(t, w.gateway.URL+"/front/new/1", "globex"), 200, "")
	want(t, "one that is forbidden", w.Get(t, w.gateway.URL+"/front/secret/1", "acme"), 403, "denied_by_policy")
	want(t, "a call whose policy is to go", w.call(t, "acme", "http://back/z", "traceparent"), 200, "")
	got, report := w.differences(t, 5)
	for what, requests := range map[string]int64{
		"gateways refuse acme front GET /**":       3,
		"no-globex refuse globex front GET /new/*": 1,
		"front-back refuse acme back GET /**":      1,
	} {
		if got[what] != requests {
			t.Errorf("%s: %d requests, want %d", what, got[what], requests)
		}
	}
	if len(got) != 3 || len(report.Watched) != 4 || report.Members < 2 || report.Lost != 0 {
		t.Errorf("%+v", report)
	}
	until(t, func() bool {
		uses, err := w.Admin.PolicyUses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, u := range uses.Uses {
			got[u.Policy] += u.Principal
		}
		return got["gateways"] == "spiffe://mesh.example/gateway/edge" && got["front-back"] == "spiffe://mesh.example/cell/us-1/workload/front" && len(got) == 2
	})
	for _, d := range report.Differences {
		decision, err := w.Admin.Explain(t.Context(), d.Decision)
		if err != nil || decision.Tenant != d.Tenant || decision.Path != d.Path || decision.Principal != d.Principal || !decision.Allowed {
			t.Errorf("the example of %+v: %+v, %v", d, decision, err)
		}
	}

	applied, err := w.Admin.PromoteRollout(t.Context(), "accesspolicy-gateways")
	w.did(t, applied, err)
	// Shadow mode's Permit stands beside it now, and would allow what it does not.
	want(t, "a path that it left out", w.Get(t, w.gateway.URL+"/front/x/y", "acme"), 403, "denied_by_policy")
	want(t, "a path that it keeps", w.Get(t, w.gateway.URL+"/front/new/1", "acme"), 200, "")
	until(t, func() bool {
		got, _ := w.differences(t, 1)
		return got["secrets allow acme front GET /**"] == 1 && got["gateways refuse acme front GET /**"] == 0
	})
	applied, err = w.Admin.PromoteRollout(t.Context(), "accesspolicy-front-back")
	w.did(t, applied, err)
	want(t, "a call whose policy is gone", w.call(t, "acme", "http://back/z", "traceparent"), 403, "denied_by_policy")
	for _, s := range []*meshtest.Sidecar{w.front, w.back} {
		if n := metric(t, s, "tenantmesh_native_refusals_total"); n != 0 {
			t.Errorf("Envoy's own rules refused %v requests that were allowed", n)
		}
	}
}
