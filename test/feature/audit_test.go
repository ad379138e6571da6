package feature

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// trailOf waits until a tenant's trail, which must be as it was recorded, has what is looked for.
func (w *world) trailOf(t *testing.T, tenant string, has func(*trail.Trail) bool) (found *trail.Trail, text string) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-ticker.C {
		var out bytes.Buffer
		if err := w.Admin.Trail(t.Context(), tenant, "", time.Time{}, &out); err != nil {
			t.Fatal(err)
		}
		text = out.String()
		var err error
		if found, err = trail.Read(nil, &out); err != nil || len(found.Problems) > 0 {
			t.Fatalf("the trail of %s: %v, %v", tenant, err, found.Problems)
		}
		if has(found) {
			return found, text
		}
	}
	t.Fatalf("the trail of %s has %+v", tenant, found.Events)
	return nil, ""
}

func count(found *trail.Trail, is func(*trail.Event) bool) (n int) {
	for i := range found.Events {
		if is(&found.Events[i]) {
			n++
		}
	}
	return n
}

// TestGrantAndItsTrail: a grant is used once another has approved it and with a reason, which ends at the sidecar; each use and
// each refusal is in the tenant's own trail, that of an outage of the control plane too, and nothing of it in another's.
func TestGrantAndItsTrail(t *testing.T) {
	w := newWorld(t)
	w.Workload(t, "us-1", "closed", http.HandlerFunc(tell))
	alice := tenantstore.NewWriter(w.Store, time.Now)
	result, err := alice.Apply(t.Context(), "spiffe://mesh.example/alice", []*tenantstore.Object{{
		APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindAccessGrant, Metadata: tenantstore.Metadata{Name: "night"}, AccessGrant: &policy.AccessGrantSpec{
			Principal: "spiffe://mesh.example/cell/us-1/workload/front", Tenants: policy.TenantSelector{Names: []string{"acme"}}, Targets: []policy.Target{{Workload: "closed"}},
			Reason: "ticket 7", NotAfter: time.Now().Add(time.Hour),
		},
	}}, tenantstore.ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, result.Revision)
	call := func(tenant string, status int, more ...string) string {
		t.Helper()
		response := w.call(t, tenant, "http://closed/x", append([]string{"traceparent"}, more...)...)
		if response.Status != status {
			t.Fatalf("%d %q %s, want %d", response.Status, response.Reason(), response.Body, status)
		}
		return response.Body
	}
	const reason = propagation.HeaderPurpose + "=ticket 7: look"
	call("acme", 403, reason) // nobody has approved it
	grant, err := w.Admin.ApproveGrant(t.Context(), "night", 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, grant.Metadata.Revision)
	call("acme", 403)
	if body := call("acme", 200, reason); strings.Contains(strings.ToLower(body), "grant-reason") {
		t.Errorf("the service gets %s", body)
	}
	call("globex", 403, reason)

	refusedAt := func(workload string) func(*trail.Event) bool {
		return func(e *trail.Event) bool {
			return !e.Allowed && e.Workload == workload && e.Reason == "denied_by_policy"
		}
	}
	used := func(e *trail.Event) bool { return e.Allowed && e.Grant == "night" && e.Purpose == "ticket 7: look" }
	_, text := w.trailOf(t, "acme", func(f *trail.Trail) bool { return count(f, refusedAt("closed")) == 2 && count(f, used) == 1 })
	if strings.Contains(text, "globex") {
		t.Errorf("the trail of acme tells of globex: %s", text)
	}
	if _, text = w.trailOf(t, "globex", func(f *trail.Trail) bool { return count(f, refusedAt("closed")) == 1 }); strings.Contains(text, "acme") {
		t.Errorf("the trail of globex tells of acme: %s", text)
	}

	w.StopControl()
	call("acme", 200, reason)
	call("acme", 403)
	w.StartControl(t)
	found, _ := w.trailOf(t, "acme", func(f *trail.Trail) bool { return count(f, refusedAt("closed")) == 3 && count(f, used) == 2 })
	r := found.Report()
	if len(r.Grants) != 1 || r.Grants[0].Count != 2 || len(r.Into) != 1 || r.Into[0].Count != 3 || len(r.Gaps) > 0 || r.Changes < 3 {
		t.Errorf("the report is %+v", r)
	}
}
