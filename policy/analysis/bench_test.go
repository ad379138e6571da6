package analysis

import (
	"fmt"
	"testing"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// many is a mesh of n policies, a tenth of them forbids, over a hundred workloads in ten cells and as many tenants as policies. Each
// variant is another one wherever a policy has a choice.
func many(n, variant int) *Mesh {
	m := &Mesh{Now: noon}
	for i := range n {
		m.Tenants = append(m.Tenants, authz.Tenant{ID: tenantID(fmt.Sprint("tenant-", i)), Tier: []string{"bronze", "silver", "gold"}[i%3]})
		p := authz.Policy{Name: fmt.Sprintf("p%05d", i), Spec: policy.AccessPolicySpec{
			Effect: policy.Permit, Principals: []string{fmt.Sprintf("spiffe://mesh.example/cell/*/workload/w%d", i%100), fmt.Sprintf("spiffe://mesh.example/cell/c%d/*/w%d", i%10, (i+variant)%100)},
			Targets: []policy.Target{{Workload: fmt.Sprint("w", (i/10+variant)%100), Methods: []string{"GET", "PUT"}, Paths: []string{fmt.Sprintf("/rows%d/**", i%37), "/*/export"}}},
		}}
		switch i % 10 {
		case 0:
			p.Spec.Effect, p.Spec.Principals, p.Spec.Targets[0].Workload = policy.Forbid, []string{fmt.Sprintf("spiffe://mesh.example/cell/c%d/**", i%7)}, "*"
			p.Spec.Targets[0].Paths = []string{fmt.Sprintf("/rows%d/secret", i%37)}
		case 1:
			p.Spec.Tenants.Tiers = []string{"gold"}
		case 2, 3, 4:
			p.Spec.Tenants.Names = []string{fmt.Sprint("tenant-", i)}
		case 5:
			p.Spec.When = `tenant.residency == "eu"`
		}
		m.Policies = append(m.Policies, p)
	}
	return m
}

// BenchmarkDiff compares sets of policies: the same, one that differs in one policy, and one that differs in almost all.
func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{100, 1000} {
		before := many(n, 0)
		one := many(n, 0)
		one.Policies[n/2].Spec.Principals[0] = "spiffe://mesh.example/cell/**"
		for name, after := range map[string]*Mesh{"same": many(n, 0), "one": one, "most": many(n, 1)} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					change, err := Diff(before, after)
					if err != nil || change.Empty() != (name == "same") {
						b.Fatal(err, len(change.Allowed), len(change.Refused))
					}
				}
			})
		}
	}
}

// BenchmarkProve proves what a write to the store proves.
func BenchmarkProve(b *testing.B) {
	m := many(1000, 0)
	for i := range 100 {
		m.Workloads = append(m.Workloads, Workload{Name: fmt.Sprint("w", i), Principals: []string{fmt.Sprintf("spiffe://mesh.example/cell/*/workload/w%d", i)}})
	}
	m.Workloads[7].BoundTenant = "tenant-7"
	for b.Loop() {
		if proof, err := Prove(m, &Invariant{"", spec{NoCrossTenant: true}}); err != nil || proof.Outcome != Broken {
			b.Fatal(err, proof.Outcome)
		}
	}
}

func BenchmarkAsk(b *testing.B) {
	m := many(1000, 0)
	for b.Loop() {
		if answer, err := Ask(m, &Query{Tenant: tenantID("tenant-2")}); err != nil || len(answer.Allowed) == 0 {
			b.Fatal(err)
		}
	}
}
