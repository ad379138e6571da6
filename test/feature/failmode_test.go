package feature

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestFailModes: a tenant whose limits are none, though nobody should be able to write such, is held to the safe ones or
// refused, as its tier says, and comes back with its limits; other tiers are served as before.
func TestFailModes(t *testing.T) {
	w := newWorld(t)
	front := w.gateway.URL + "/front/x"
	// What the admin API would refuse goes to the store around it.
	bronze := func(limits policy.Limits, mode policy.OnUnknown) {
		t.Helper()
		snapshot, err := w.Store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		revision, err := w.Store.Apply(t.Context(), tenantstore.Transaction{Expect: snapshot.Revision, Put: []*tenantstore.Object{{
			APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindTier, Metadata: tenantstore.Metadata{Name: policy.TierBronze, UID: "bronze"},
			Tier: &policy.TierSpec{Limits: limits, FailMode: policy.FailMode{LimitsUnknown: mode}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		w.Enforced(t, revision)
	}
	broken, good := policy.Limits{RequestsPerSecond: -5, Burst: -5, Concurrency: -5}, policy.Limits{RequestsPerSecond: policy.Unlimited, Concurrency: policy.Unlimited}
	for _, test := range []struct {
		what   string
		limits policy.Limits
		mode   policy.OnUnknown
		after  int // requests at once that pass; 0: all
		status int
		reason string
	}{
		{"unknown, and safe by default", broken, "", policy.SafeLimits().Burst, 429, "rate_limited"},
		{"known again", good, "", 0, 0, ""},
		{"unknown, and refused", broken, policy.RefuseUnknown, 0, 503, "enforcement_unavailable"},
		{"known, where it would be refused", good, policy.RefuseUnknown, 0, 0, ""},
	} {
		bronze(test.limits, test.mode)
		passed := 0
		for range 60 {
			r := w.Get(t, front, "globex")
			if r.Status == 200 {
				passed++
				continue
			}
			want(t, test.what, r, test.status, test.reason)
			if r.Header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", test.what)
			}
			break
		}
		if test.status == 0 && passed < 60 || test.status != 0 && (passed < test.after || passed >= 60) {
			t.Errorf("%s: %d requests passed", test.what, passed)
		}
		want(t, test.what+", another tier", w.Get(t, front, "acme"), 200, "")
	}
}
