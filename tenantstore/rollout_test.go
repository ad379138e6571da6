package tenantstore_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const goldTier = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tier
metadata: {name: gold}
spec: {limits: {requestsPerSecond: 5, burst: 9}}
`

const secondTenant = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: globex}
spec: {tier: gold, region: us}
`

// rolled is a store with a rollout of goldTier to acme first.
func rolled(t *testing.T) (*tenantstore.Writer, tenantstore.Store) {
	t.Helper()
	w, store := newWriter()
	if _, err := w.Apply(t.Context(), "uid:0", decode(t, mesh+secondTenant), tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StartRollout(t.Context(), "uid:0", tenantstore.RolloutRequest{Object: decode(t, goldTier)[0], Tenants: []string{"acme"}}, false); err != nil {
		t.Fatal(err)
	}
	return w, store
}

func rate(t *testing.T, store tenantstore.Store, tenant string) float64 {
	t.Helper()
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: tenant}]
	return tenantstore.EffectiveLimits(tenantstore.TiersFor(snapshot.Objects, tenantstore.Tiers(snapshot.Objects), o), o.Tenant).RequestsPerSecond
}

func TestRollout(t *testing.T) {
	w, store := rolled(t)
	if a, g := rate(t, store, "acme"), rate(t, store, "globex"); a != 5 || g != 200 {
		t.Errorf("acme has %v, globex %v", a, g)
	}
	o := get(t, store, tenantstore.KindRollout, "tier-gold")
	if _, err := w.HaltRollout(t.Context(), "control", "tier-gold", o.Metadata.Revision, "it hurts"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.PromoteRollout(t.Context(), "control", "tier-gold", o.Metadata.Revision); !errors.Is(err, tenantstore.ErrPrecondition) {
		t.Errorf("a step from a revision that is gone: %v", err)
	}
	if r := get(t, store, tenantstore.KindRollout, "tier-gold").Rollout; r.State != tenantstore.Halted || r.Why != "it hurts" || r.Percent() != 0 {
		t.Errorf("halted is %+v", r)
	}
	for _, percent := range []float64{10, 50} {
		if _, err := w.PromoteRollout(t.Context(), "uid:0", "tier-gold", 0); err != nil {
			t.Fatal(err)
		}
		if r := get(t, store, tenantstore.KindRollout, "tier-gold").Rollout; r.Percent() != percent || r.State != tenantstore.Progressing || r.Why != "" {
			t.Errorf("at %v %% it is %+v", percent, r)
		}
	}
	if _, err := w.PromoteRollout(t.Context(), "uid:0", "tier-gold", 0); err != nil {
		t.Fatal(err)
	}
	if get(t, store, tenantstore.KindRollout, "tier-gold") != nil || get(t, store, tenantstore.KindTier, "gold") == nil || rate(t, store, "globex") != 5 {
		t.Error("the last step has not applied the tier")
	}
	events, err := store.Events(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var details []string
	for _, e := range events {
		if e.Object == "Rollout/tier-gold" {
			details = append(details, e.Action+" "+e.Detail)
		}
	}
	want := "create Tier/gold to 0 % of the tenants|update halted: it hurts|update Tier/gold to 10 % of the tenants|update Tier/gold to 50 % of the tenants|delete Tier/gold to 100 % of the tenants"
	if got := strings.Join(details, "|"); got != want {
		t.Errorf("the audit says %s", got)
	}
}

func TestAbortRollout(t *testing.T) {
	w, store := rolled(t)
	if _, err := w.AbortRollout(t.Context(), "uid:0", "tier-gold"); err != nil {
		t.Fatal(err)
	}
	if rate(t, store, "acme") != 200 || get(t, store, tenantstore.KindTier, "gold") != nil {
		t.Error("the abort left something behind")
	}
	if _, err := w.AbortRollout(t.Context(), "uid:0", "tier-gold"); !errors.Is(err, tenantstore.ErrNotFound) {
		t.Errorf("a second abort: %v", err)
	}
}

// TestRolloutHoldsItsObject: nothing is written beside a rollout, but a deletion does not wait, and ends it.
func TestRolloutHoldsItsObject(t *testing.T) {
	w, store := rolled(t)
	if _, err := w.Apply(t.Context(), "uid:0", decode(t, goldTier), tenantstore.ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "tenantmesh rollout abort tier-gold") {
		t.Errorf("an apply beside a rollout: %v", err)
	}
	narrow := decode(t, strings.Replace(policyOf(mesh), "workload: search", "workload: search, methods: [GET]", 1))[0]
	if _, err := w.StartRollout(t.Context(), "uid:0", tenantstore.RolloutRequest{Object: narrow}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Delete(t.Context(), "uid:0", []tenantstore.Key{{Kind: tenantstore.KindWorkload, Name: "search"}}, tenantstore.ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "Rollout/accesspolicy-gateway-search: spec.targets[0].workload") {
		t.Errorf("what a candidate names may be deleted: %v", err)
	}
	if _, err := w.Apply(t.Context(), "uid:0", decode(t, policyOf(mesh)), tenantstore.ApplyOptions{}); err != nil {
		t.Errorf("the object as it is cannot be applied: %v", err)
	}
	if _, err := w.Delete(t.Context(), "uid:0", []tenantstore.Key{narrow.Key()}, tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if get(t, store, tenantstore.KindRollout, "accesspolicy-gateway-search") != nil {
		t.Error("the rollout outlives its object")
	}
}

func policyOf(text string) string {
	return text[strings.LastIndex(text, "---")+4:]
}

func TestRolloutProblems(t *testing.T) {
	w, _ := rolled(t)
	silver := strings.Replace(goldTier, "gold", "silver", 1)
	tenant := strings.TrimPrefix(secondTenant, "\n---")
	for name, test := range map[string]struct {
		text    string
		request tenantstore.RolloutRequest
		want    string
	}{
		"again":           {goldTier, tenantstore.RolloutRequest{}, "must not be in a rollout"},
		"a tenant":        {tenant, tenantstore.RolloutRequest{}, "one tenant is its own canary"},
		"a workload":      {strings.Split(mesh, "---")[2], tenantstore.RolloutRequest{}, "must be Tier or AccessPolicy to carry"},
		"a new tier":      {strings.Replace(goldTier, "gold", "lead", 1), tenantstore.RolloutRequest{}, "a new one has no tenants"},
		"no change":       {policyOf(mesh), tenantstore.RolloutRequest{}, "must change something"},
		"wrong":           {strings.Replace(silver, "burst: 9", "burst: -9", 1), tenantstore.RolloutRequest{}, "spec.limits.burst: must be from 1"},
		"shrinking":       {silver, tenantstore.RolloutRequest{Steps: []float64{10, 5, 100}}, "percentages that grow"},
		"zero":            {silver, tenantstore.RolloutRequest{Steps: []float64{0, 100}}, "percentages that grow"},
		"no end":          {silver, tenantstore.RolloutRequest{Steps: []float64{1, 10}}, "the last is 100"},
		"at once":         {silver, tenantstore.RolloutRequest{Steps: []float64{100}}, "must be 2 to 20"},
		"in haste":        {silver, tenantstore.RolloutRequest{Every: 1}, "at least 10 seconds"},
		"unknown tenants": {silver, tenantstore.RolloutRequest{Tenants: []string{"nobody"}}, "rollout.tenants[0]: must name a Tenant that exists"},
	} {
		test.request.Object = decode(t, test.text)[0]
		var problems tenantstore.Problems
		if _, err := w.StartRollout(t.Context(), "uid:0", test.request, true); !errors.As(err, &problems) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := w.StartRollout(t.Context(), "uid:0", tenantstore.RolloutRequest{Object: decode(t, silver)[0]}, true); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestRolloutFigures(t *testing.T) {
	_, store := rolled(t)
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rollout := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindRollout, Name: "tier-gold"}]
	began := rollout.Rollout.Began
	type served struct{ requests, refused, errors int64 }
	for name, test := range map[string]struct {
		canary, others, before served
		want                   string
	}{
		"quiet":            {served{100, 0, 0}, served{100, 0, 0}, served{}, ""},
		"refused":          {served{100, 40, 0}, served{200, 2, 0}, served{}, "40.0 % of the canary's 100 requests are refused, and 1.0 % of the others' 200"},
		"errors":           {served{100, 0, 10}, served{100, 0, 1}, served{}, "answered with errors"},
		"too few":          {served{49, 49, 0}, served{100, 0, 0}, served{}, ""},
		"too few others":   {served{100, 90, 0}, served{49, 0, 0}, served{}, ""},
		"within 5 points":  {served{100, 5, 0}, served{100, 0, 0}, served{}, ""},
		"within by half":   {served{100, 60, 0}, served{100, 45, 0}, served{}, ""},
		"it always was so": {served{100, 40, 0}, served{100, 0, 0}, served{100, 38, 0}, ""},
		"worse than ever":  {served{100, 60, 0}, served{100, 0, 0}, served{100, 38, 0}, "60.0 %"},
	} {
		sum := func(_ string, since, until time.Time) (list []ledger.UsageRecord) {
			add := func(tenant string, at time.Time, s served) {
				uid := "another incarnation"
				if o := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: tenant}]; o != nil {
					uid = o.Metadata.UID
				}
				if !at.Before(since) && at.Before(until) {
					list = append(list, ledger.UsageRecord{Minute: at, Tenant: tenant, TenantUID: uid, Requests: s.requests, Refused: s.refused, Errors: s.errors})
				}
			}
			add("acme", began.Truncate(time.Minute), test.canary)
			add("acme", began.Truncate(time.Minute).Add(-time.Minute), test.before)
			add("globex", began.Truncate(time.Minute), test.others)
			add("nobody", began.Truncate(time.Minute), served{1e6, 1e6, 0})
			return list
		}
		f := tenantstore.FiguresOf(snapshot.Objects, rollout, sum, began.Add(time.Second))
		if got := f.Trouble(); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q of %+v", name, got, test.want, f)
		}
		if f.Canary.Tenants != 1 || f.Others.Tenants != 1 {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestRolloutFiguresOfOldUsage: what was before a rollout that has lasted long is known by the hour, then by the day; time
// that is partly the rollout's is not before it.
func TestRolloutFiguresOfOldUsage(t *testing.T) {
	_, store := rolled(t)
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rollout := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindRollout, Name: "tier-gold"}].Clone()
	uid := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: "acme"}].Metadata.UID
	rollout.Rollout.Began = time.Date(2026, 1, 2, 3, 4, 30, 0, time.UTC)
	for _, span := range []time.Duration{time.Hour, 24 * time.Hour} {
		during := rollout.Rollout.Began.Truncate(span)
		sum := func(_ string, since, until time.Time) (list []ledger.UsageRecord) {
			for at, requests := range map[time.Time]int64{during.Add(-2 * span): 1, during.Add(-span): 100, during: 1000} {
				if !at.Before(since) && at.Before(until) {
					list = append(list, ledger.UsageRecord{Minute: at, Span: span, Tenant: "acme", TenantUID: uid, Requests: requests})
				}
			}
			return list
		}
		if f := tenantstore.FiguresOf(snapshot.Objects, rollout, sum, rollout.Rollout.Began.Add(time.Hour)); f.Before.Requests != 100 {
			t.Errorf("by %v: %d requests before, want 100", span, f.Before.Requests)
		}
	}
}

// TestRolloutKeepsItsForm: the store writes objects as JSON.
func TestRolloutKeepsItsForm(t *testing.T) {
	_, store := rolled(t)
	o := get(t, store, tenantstore.KindRollout, "tier-gold")
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var back tenantstore.Object
	if err := json.Unmarshal(text, &back); err != nil || !back.Equal(o) || back.Rollout.Candidate.Tier.Limits.Burst != 9 {
		t.Errorf("%v: %s", err, text)
	}
}
