package feature

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestPoliciesOfOthers: a sidecar has the policies about its workload on its disk, and no others; one that is turned from
// one workload to another, or to all, is in force there when apply returns.
func TestPoliciesOfOthers(t *testing.T) {
	w := newWorld(t)
	closed := func(target string) string {
		return `
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nothing}
spec: {effect: Forbid, principals: ["spiffe://mesh.example/**"], targets: [{workload: "` + target + `", paths: [/nothing]}]}
`
	}
	has := func(s *meshtest.Sidecar) bool {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(s.Dir, "last-good-state.json"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), `"nothing":`)
	}
	answer := func() [2]int {
		t.Helper()
		return [2]int{w.Get(t, w.gateway.URL+"/front/nothing", "acme").Status, w.call(t, "acme", "http://back/nothing", "traceparent").Status}
	}
	for _, test := range []struct {
		target      string
		front, back bool
	}{{"closed", false, false}, {"back", false, true}, {"front", true, false}, {"*", true, true}, {"back", false, true}} {
		w.Apply(t, closed(test.target))
		for deadline := time.After(5 * time.Second); has(w.front) != test.front || has(w.back) != test.back; { // the disk follows
			select {
			case <-deadline:
				t.Fatalf("a policy about %s: front has it: %v, back has it: %v", test.target, has(w.front), has(w.back))
			case <-time.After(20 * time.Millisecond):
			}
		}
		want := [2]int{http.StatusOK, http.StatusOK}
		for i, in := range []bool{test.front, test.back} {
			if in {
				want[i] = http.StatusForbidden
			}
		}
		got := answer()
		// Of what is open again, Envoy says that it has it before each of its workers does.
		for deadline := time.Now().Add(5 * time.Second); got != want && narrower(want, got) && time.Now().Before(deadline); got = answer() {
		}
		if got != want {
			t.Errorf("a policy about %s: front and back answer %v, want %v", test.target, got, want)
		}
	}
}

// narrower reports whether all that is refused by want is by got.
func narrower(want, got [2]int) bool {
	for i := range want {
		if want[i] == http.StatusForbidden && got[i] != http.StatusForbidden {
			return false
		}
	}
	return true
}
