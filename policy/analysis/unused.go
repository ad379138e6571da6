package analysis

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

// FindUnused finds the Permits in force that decided no request since a time, or none of a principal that they name; by is whose requests
// each decided. Where several match it is the first by name that decides.
func FindUnused(m *Mesh, by map[string][]identity.Principal, since time.Time) []Finding {
	findings := []Finding{}
	add := func(rule, format string, args ...any) {
		findings = append(findings, Finding{Unused, rule, fmt.Sprintf(format, args...)})
	}
	for i := range m.Policies {
		p := &m.Policies[i]
		if p.Spec.Effect != policy.Permit || p.Spec.Mode == policy.Shadow || p.Canary != nil && !p.Canary.Others {
			continue
		}
		at := since.UTC().Format(time.RFC3339)
		if len(by[p.Name]) == 0 {
			add(p.Name, "it decided no request since %s", at)
			continue
		}
		for j, text := range p.Spec.Principals {
			if pattern, err := identity.ParsePattern(text); err == nil && !slices.ContainsFunc(by[p.Name], pattern.Match) {
				add(p.Name, "principals[%d]: it decided no request of %q since %s", j, text, at)
			}
		}
	}
	return findings
}
