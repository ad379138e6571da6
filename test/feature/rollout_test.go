package feature

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

const anotherGold = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: hooli}
spec: {tier: gold, region: us}
`

// rollOut begins to give an object to acme first, and waits until every sidecar knows.
func (w *world) rollOut(t *testing.T, object string) {
	t.Helper()
	documents, err := tenantstore.DecodeYAML("test", strings.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	applied, err := w.Admin.Rollout(t.Context(), documents[0].Object, adminapi.RolloutInput{Tenants: []string{"acme"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, applied.Revision)
}

// halted waits until a rollout has halted.
func (w *world) halted(t *testing.T, name string) (status adminapi.RolloutStatus) {
	t.Helper()
	until(t, func() bool {
		var err error
		if status, err = w.Admin.RolloutStatus(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		return status.Rollout.State == tenantstore.Halted
	})
	return status
}

// did waits until what a verb did is enforced.
func (w *world) did(t *testing.T, applied adminapi.Applied, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, applied.Revision)
}

// refused sends requests, and counts those that the tenant's rate refuses.
func (w *world) refused(t *testing.T, tenant string, requests int) (n int) {
	t.Helper()
	for range requests {
		switch r := w.Get(t, w.gateway.URL+"/front/x", tenant); r.Status {
		case http.StatusOK:
		case http.StatusTooManyRequests:
			want(t, tenant, r, 429, "rate_limited")
			n++
		default:
			t.Fatalf("%s is answered %d %s", tenant, r.Status, r.Reason())
		}
	}
	return n
}

// TestTierRollout: a tier that is far too small reaches one tenant, hurts it alone, halts by itself, and is taken back.
func TestTierRollout(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects+anotherGold)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	w.rollOut(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tier
metadata: {name: gold}
spec: {limits: {requestsPerSecond: 0.01, burst: 2, concurrency: 100}}
`)
	if n := w.refused(t, "acme", 60); n < 50 {
		t.Errorf("the canary has %d of 60 requests refused", n)
	}
	if n := w.refused(t, "hooli", 60); n != 0 {
		t.Errorf("another tenant of the tier has %d of 60 requests refused", n)
	}
	status := w.halted(t, "tier-gold")
	if !strings.Contains(status.Rollout.Why, "requests are refused, and 0.0 % of the others'") || status.Percent != 0 {
		t.Errorf("it is halted at %v %% because %q", status.Percent, status.Rollout.Why)
	}
	applied, err := w.Admin.AbortRollout(t.Context(), "tier-gold")
	w.did(t, applied, err)
	if n := w.refused(t, "acme", 20); n != 0 {
		t.Errorf("after the abort %d of 20 requests are refused", n)
	}
}

// TestPolicyRollout: a changed policy is for the canary, the old one for the others, until it is for all. To forbid at
// once needs no rollout, and waits for none. What the canary's requests end with in the service counts too.
func TestPolicyRollout(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects+anotherGold)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/new/broken" {
			rw.WriteHeader(http.StatusInternalServerError)
		}
		tell(rw, r)
	}))
	get := func(tenant, path string) meshtest.Response {
		return w.Get(t, w.gateway.URL+"/front"+path, tenant)
	}
	w.rollOut(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: front, paths: ["/new/**"]}]}
`)
	want(t, "the canary's new path", get("acme", "/new/1"), 200, "")
	want(t, "the canary's old path", get("acme", "/x"), 403, "denied_by_policy")
	want(t, "another's old path", get("hooli", "/x"), 200, "")
	decision, err := w.Admin.Explain(t.Context(), get("acme", "/x").Header.Get("x-tenantmesh-decision"))
	if text, _ := json.Marshal(decision.Rules); err != nil || !strings.Contains(string(text), `"gateways@canary"`) || !strings.Contains(string(text), `"why":"canary"`) {
		t.Errorf("explain says %s, %v", text, err)
	}
	for range 60 {
		want(t, "the new path, where it is broken", get("acme", "/new/broken"), 500, "")
		want(t, "another's request", get("hooli", "/x"), 200, "")
	}
	status := w.halted(t, "accesspolicy-gateways")
	if !strings.Contains(status.Rollout.Why, "requests are answered with errors, and 0.0 % of the others'") {
		t.Errorf("it is halted because %q", status.Rollout.Why)
	}
	w.Apply(t, `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: stop}
spec: {effect: Forbid, principals: ["spiffe://mesh.example/**"], targets: [{workload: front, paths: ["/new/**"]}]}
`)
	want(t, "what is forbidden meanwhile", get("acme", "/new/1"), 403, "denied_by_policy")
	for range 3 { // 10, 50, 100 %
		applied, err := w.Admin.PromoteRollout(t.Context(), "accesspolicy-gateways")
		w.did(t, applied, err)
	}
	want(t, "everyone's old path", get("hooli", "/x"), 403, "denied_by_policy")
	if all, err := w.Admin.Rollouts(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("rollouts that go on: %+v, %v", all, err)
	}
}
