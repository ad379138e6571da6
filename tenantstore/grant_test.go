package tenantstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// TestGrantLife: a grant is in force once another than who asked has approved what it is now.
func TestGrantLife(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	store := memstore.New()
	writer := tenantstore.NewWriter(store, func() time.Time { return now })
	spec := func(change func(*policy.AccessGrantSpec)) *tenantstore.Object {
		g := &policy.AccessGrantSpec{
			Principal: "spiffe://mesh.example/support", Tenants: policy.TenantSelector{Tiers: []string{"gold"}}, Targets: []policy.Target{{Workload: "*"}}, Reason: "ticket 7", NotAfter: now.Add(time.Hour),
		}
		change(g)
		return &tenantstore.Object{
			APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindAccessGrant, Metadata: tenantstore.Metadata{Name: "g"}, AccessGrant: g,
			Status: tenantstore.Status{Grant: &tenantstore.GrantState{Requester: "nobody", Approver: "forged"}},
		}
	}
	same := func(*policy.AccessGrantSpec) {}
	apply := func(actor string, o *tenantstore.Object) error {
		_, err := writer.Apply(t.Context(), actor, []*tenantstore.Object{o}, tenantstore.ApplyOptions{})
		return err
	}
	get := func() *tenantstore.Object {
		t.Helper()
		snapshot, err := store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindAccessGrant, Name: "g"}]
	}
	inForce := func(when string, want bool) {
		t.Helper()
		if g := get(); tenantstore.GrantInForce(g) != want {
			t.Fatalf("%s: it is in force: %v (%+v)", when, !want, g.Status.Grant)
		}
	}
	refused := func(when, actor string, at int64) {
		t.Helper()
		if _, err := writer.ApproveGrant(t.Context(), actor, "g", at); err == nil {
			t.Fatalf("%s: it is approved", when)
		}
	}
	approve := func(actor string) {
		t.Helper()
		if _, err := writer.ApproveGrant(t.Context(), actor, "g", get().Metadata.Revision); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(apply("alice", spec(same)))
	inForce("asked for, with an approver of its own", false)
	if g := get().Status.Grant; g.Requester != "alice" || g.Approver != "" {
		t.Fatalf("the state is %+v", g)
	}
	refused("by who asked", "alice", 0)
	refused("by who is granted", "spiffe://mesh.example/support", 0)
	refused("by nobody", "", 0)
	if _, err := writer.ApproveGrant(t.Context(), "bob", "g", 77); !errors.Is(err, tenantstore.ErrPrecondition) {
		t.Fatalf("another revision: %v", err)
	}
	approve("bob")
	inForce("approved", true)
	must(apply("carol", spec(same)))
	inForce("applied as it is", true)
	must(apply("carol", spec(func(g *policy.AccessGrantSpec) { g.Targets[0].Workload, g.NotAfter = "*", now.Add(2*time.Hour) })))
	inForce("made longer", false)
	refused("by who made it longer", "carol", 0)
	approve("alice")
	inForce("approved anew", true)
	must(apply("alice", spec(func(g *policy.AccessGrantSpec) { g.Approver = "dora" })))
	refused("by another than it names", "bob", 0)
	approve("dora")
	now = now.Add(3 * time.Hour)
	must(apply("alice", spec(func(g *policy.AccessGrantSpec) { g.NotAfter = now.Add(-time.Minute) })))
	refused("ended", "bob", 0)

	must(apply("alice", spec(func(g *policy.AccessGrantSpec) { g.BreakGlass = true })))
	inForce("break-glass", true)
	if !tenantstore.BreakGlass(get(), now) || tenantstore.BreakGlass(get(), now.Add(5*time.Hour)) {
		t.Error("who looks after break-glass does not see it, or sees it for ever")
	}
	var problems tenantstore.Problems
	if err := apply("alice", spec(func(g *policy.AccessGrantSpec) {
		g.BreakGlass, g.NotAfter = true, now.Add(policy.MaxBreakGlass+time.Minute)
	})); !errors.As(err, &problems) {
		t.Errorf("break-glass for too long: %v", err)
	}
	approve("bob")
	if tenantstore.BreakGlass(get(), now) {
		t.Error("an approved one alarms")
	}
	events, err := store.Events(t.Context(), 0, 100)
	must(err)
	said := map[string]int{}
	for _, e := range events {
		said[e.Detail]++
	}
	if said["approved"] != 4 || said["BREAK GLASS: in force without anybody's approval"] != 1 {
		t.Errorf("the audit says %v", said)
	}
}
