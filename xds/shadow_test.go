package xds

import (
	"fmt"
	"testing"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// TestOneIdentityFillsNoReport: whoever holds one workload's identity may join as many members, and has the room of one identity; what
// members said goes a day after them.
func TestOneIdentityFillsNoReport(t *testing.T) {
	m := NewMembers(t.Context(), MembersConfig{Lease: time.Hour})
	peer := func(workload string, member int) *server.Peer {
		id, err := identity.ParsePrincipal("spiffe://mesh.example/cell/us-1/workload/" + workload)
		if err != nil {
			t.Fatal(err)
		}
		return &server.Peer{Principal: id, Hello: &api.Hello{MemberId: fmt.Sprintf("%s-%012x", workload, member)}}
	}
	shadows, used := &api.ShadowReport{}, &api.UseReport{}
	for i := range maxSaid {
		shadows.Entries = append(shadows.Entries, &api.ShadowEntry{Policy: fmt.Sprint(i), Requests: 1})
		used.Entries = append(used.Entries, &api.UseEntry{Policy: fmt.Sprint(i), Requests: 1})
	}
	for member := range 200 {
		m.shadowed(peer("node", member), shadows)
		m.used(peer("node", member), used)
	}
	sums := func() (differences, permits int) {
		for _, s := range m.shadows {
			differences += len(s.differences)
		}
		for _, u := range m.uses {
			permits += len(u.list)
		}
		return differences, permits
	}
	if differences, permits := sums(); differences != maxSaidOf || permits != maxSaidOf {
		t.Errorf("200 members of one identity have %d and %d entries, want %d", differences, permits, maxSaidOf)
	}
	honest := peer("front", 0)
	m.shadowed(honest, shadows)
	m.used(honest, used)
	if s, u := m.shadows[honest.Hello.MemberId], m.uses[honest.Hello.MemberId]; len(s.differences) != maxSaid || len(u.list) != maxSaid || s.lost+u.lost > 0 {
		t.Errorf("another has room for %d and %d", len(s.differences), len(u.list))
	}
	for member := range 200 {
		m.gone[peer("node", member).Hello.MemberId] = time.Unix(1000, 0)
	}
	m.forgetSaid(time.Unix(1000, 0).Add(maxSaidGone))
	if differences, _ := sums(); differences != maxSaidOf+maxSaid {
		t.Errorf("%d entries after a day, want all", differences)
	}
	m.forgetSaid(time.Unix(1001, 0).Add(maxSaidGone))
	if differences, permits := sums(); differences != maxSaid || permits != maxSaid {
		t.Errorf("%d and %d entries of who is there, want %d", differences, permits, maxSaid)
	}
}
