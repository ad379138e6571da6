package analysis

import (
	"maps"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
)

// trait is something about a tenant that selectors select by, beside its name.
type trait string

// The traits, and labels.
const (
	byTier      trait = " tier" // first of all
	byResidency trait = "residency"
	labelled          = "with label "
)

func byLabel(name string) trait { return trait(labelled + name) }

// of are the values of it that a selector selects; none: all.
func (t trait) of(selector *policy.TenantSelector) []string {
	if t == byTier {
		return selector.Tiers
	}
	value, ok := selector.Residency, selector.Residency != ""
	if label, is := t.label(); is {
		value, ok = selector.Labels[label]
	}
	if !ok {
		return nil
	}
	return []string{value}
}

// with is a selector that selects one value of it, too.
func (t trait) with(selector policy.TenantSelector, value string) policy.TenantSelector {
	label, ok := t.label()
	switch {
	case ok:
		selector.Labels = maps.Clone(selector.Labels)
		if selector.Labels == nil {
			selector.Labels = map[string]string{}
		}
		selector.Labels[label] = value
	case t == byTier:
		selector.Tiers = []string{value}
	default:
		selector.Residency = value
	}
	return selector
}

func (t trait) label() (name string, ok bool) { return strings.CutPrefix(string(t), labelled) }

// describe notes a tenant's value of it in a request.
func (t trait) describe(r *Request, value string) {
	label, ok := t.label()
	switch {
	case ok:
		r.Labels[label] = value
	case t == byTier:
		r.Tier = value
	default:
		r.Residency = value
	}
}
