package feature

import (
	"regexp"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// backWith is workload back with a tenancy.
func backWith(tenancy string) string {
	return `
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: back}
spec: {tenancy: ` + tenancy + `}
`
}

// TestCoverage: how each call's tenant was proven is counted on both sides; a workload that observes lets calls without a proof in, and is
// turned to require only once those are few, or by force.
func TestCoverage(t *testing.T) {
	w := newWorld(t)
	for _, forward := range []string{"traceparent", "x-request-id", "txn-token"} {
		want(t, forward, w.call(t, "acme", "http://back/x/1", forward), 200, "")
	}
	want(t, "nothing", w.call(t, "acme", "http://back/x/2"), 403, "context_missing")
	// calls waits until so many calls of front, and to back, are known.
	calls := func(of, to int64) (front, back tenantstore.WorkloadCoverage, all []tenantstore.CoveredCalls) {
		t.Helper()
		until(t, func() bool {
			report, err := w.Admin.Coverage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all = report.Calls
			for _, c := range report.Workloads {
				switch {
				case c.Workload == "front" && !c.Inbound:
					front = c
				case c.Workload == "back" && c.Inbound:
					back = c
				}
			}
			return front.Requests >= of && back.Requests >= to
		})
		return front, back, all
	}
	front, back, all := calls(4, 3)
	if front.Requests != 4 || front.Proven != 0.75 || front.Refused != 1 || front.Proofs["traceparent"] != 1 || front.Proofs["x-request-id"] != 1 || front.Proofs["context"] != 1 {
		t.Errorf("of front: %+v", front)
	}
	if back.Requests != 3 || back.Proven != 1 || back.Proofs["context"] != 3 {
		t.Errorf("to back: %+v", back)
	}
	example := ""
	for _, c := range all {
		if c.Workload == "front" && c.Proof == tenantstore.NoProof {
			if c.Peer != "workload/back" || c.Method != "GET" || c.Route != "/x/*" || c.Path != "/x/2" || !c.Refused {
				t.Errorf("without a proof: %+v", c)
			}
			example = c.Decision
		}
	}
	if d, err := w.Admin.Explain(t.Context(), example); err != nil || d.Reason.String() != "context_missing" {
		t.Errorf("the example is %+v, %v", d, err)
	}
	out, err := command(t, w.Mesh, "coverage front --at-least 99")
	if err == nil || !strings.Contains(err.Error(), "75.0% of the calls of front are proven") || !regexp.MustCompile(`(?m)^front +of it +4 +75\.0% .*\n(?s:.*)without a proof(?s:.*)workload/back +GET +/x/2 +1 +refused +`+example).MatchString(out) {
		t.Errorf("%v:\n%s", err, out)
	}

	w.Apply(t, backWith("observe"))
	observed := want(t, "nothing, observed", w.call(t, "acme", "http://back/x/3"), 200, "")
	if observed.Header.Get("x-tenant-id") != "" {
		t.Errorf("back is told of tenant %q", observed.Header.Get("x-tenant-id"))
	}
	if _, back, _ = calls(5, 4); back.Proven != 0.75 || back.Refused != 0 {
		t.Errorf("to back, observed: %+v", back)
	}
	documents, err := tenantstore.DecodeYAML("", strings.NewReader(backWith("require")))
	if err != nil {
		t.Fatal(err)
	}
	require := []*tenantstore.Object{documents[0].Object}
	if _, err := w.Admin.Apply(t.Context(), require, false); err == nil || !strings.Contains(err.Error(), "must stay observe while less than 99% of the calls have a proven tenant (got 75.0% of 4)") {
		t.Errorf("require at three quarters: %v", err)
	}
	forced, err := w.Admin.ApplyAnyway(t.Context(), require, false)
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, forced.Revision)
	want(t, "nothing, required", w.call(t, "acme", "http://back/x/4"), 403, "context_missing")
}
