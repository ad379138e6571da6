package policyset

import (
	"fmt"
	"math"
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
)

// TestWeights: what was not pushed, or is no weight, weighs as little as there is.
func TestWeights(t *testing.T) {
	for pushed, want := range map[int32]int{0: 1, -1: 1, math.MinInt32: 1, 1: 1, 8: 8, math.MaxInt32: math.MaxInt32} {
		s := with(t, nil, Change{meshname.TypeTenantPolicy, "acme", &api.TenantPolicy{Tenant: "acme", Weight: pushed}})
		if acme, _ := s.Tenant("acme"); acme.Weight != want {
			t.Errorf("weight %d is %d", pushed, acme.Weight)
		}
	}
}

// TestKinds: however many classes there are, each has a kind that admission knows; one name is one class, as the first one is.
func TestKinds(t *testing.T) {
	self := &api.ProxyConfig{Admission: &api.Admission{Min: math.MinInt32, Max: math.MaxInt32}}
	for i := range 100 {
		self.Classes = append(self.Classes, &api.Class{Name: fmt.Sprint("c", i%60), Priority: map[bool]string{true: "batch"}[i < 10]})
	}
	a := admission(self)
	seen := map[uint8]bool{}
	for i := range 60 {
		for _, writes := range []bool{false, true} {
			kind, batch := a.Kind(fmt.Sprint("c", i), writes)
			if seen[kind] = true; kind >= fair.Kinds || kind < 2 || batch != (i < 10) {
				t.Errorf("class %d: kind %d, batch %v", i, kind, batch)
			}
		}
	}
	if len(seen) != fair.Kinds-2 || a.Min != math.MinInt32 || a.Max != math.MaxInt32 {
		t.Errorf("%d kinds, %+v", len(seen), a)
	}
}
