package policy

import (
	"fmt"
	"math"
	"testing"
)

// TestCanary: a share holds about as many as it says, a larger one holds all of a smaller one, and another seed others.
func TestCanary(t *testing.T) {
	const tenants = 12_000
	in := func(c Canary) (set map[string]bool) {
		set = map[string]bool{}
		for i := range tenants {
			if name := fmt.Sprint("tenant-", i); c.Selects(name, "uid-"+name) {
				set[name] = true
			}
		}
		return set
	}
	var before map[string]bool
	for _, percent := range []float64{0, 1, 10, 50, 100} {
		now := in(Canary{Seed: "a", Percent: percent, Names: []string{"tenant-7"}})
		if got, want := float64(len(now)), percent/100*tenants; math.Abs(got-want) > 1+4*math.Sqrt(want) {
			t.Errorf("%v %% of %d are %v", percent, tenants, got)
		}
		for name := range before {
			if !now[name] {
				t.Errorf("%s left the canary at %v %%", name, percent)
			}
		}
		if !now["tenant-7"] {
			t.Errorf("who is listed is not in the canary of %v %%", percent)
		}
		if others := in(Canary{Seed: "a", Percent: percent, Names: []string{"tenant-7"}, Others: true}); len(others)+len(now) != tenants {
			t.Errorf("%d in the canary and %d others are not %d", len(now), len(others), tenants)
		}
		before = now
	}
	both := 0
	other := in(Canary{Seed: "b", Percent: 10})
	for name := range in(Canary{Seed: "a", Percent: 10}) {
		if other[name] {
			both++
		}
	}
	if both > 240 { // 1 % are in both by chance
		t.Errorf("two seeds share %d of their canaries", both)
	}
	all := Canary{Percent: 100}
	if all.Selects("", "") {
		t.Error("a request without a tenant is in the canary")
	}
	if all.Others = true; !all.Selects("", "") {
		t.Error("a request without a tenant is not among the others")
	}
	if n := testing.AllocsPerRun(100, func() { all.Selects("acme", "uid") }); n != 0 {
		t.Errorf("Selects allocates %v times", n)
	}
}
