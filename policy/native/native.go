package native

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Rules are what Envoy can refuse by itself of the requests to one workload: those that a Forbid matches, and those that no
// Permit does. The zero value refuses everything. What [WellFormed] does not match is refused, too.
type Rules struct {
	Permits, Forbids []Rule
	Detail           Detail
}

// Rule matches requests by all that it says; an empty field matches every request.
type Rule struct {
	Principals []Text // of one
	Methods    []string
	Paths      []Text // of one
}

// Detail is how much of the Permits is in rules.
type Detail string

// The details, from the finest. Rules that would be larger than [MaxSize] have less of it. Forbids are in all of them, unless they
// alone are larger than half of that: whoever may write Permits, and no more, takes no Forbid away by writing many.
const (
	Whole        Detail = "whole"
	ByPrincipal  Detail = "principals"   // a Permit is for all that the workload has
	TrustDomains Detail = "trust domain" // everyone of a trust domain that a Permit is for may have all
)

// MaxSize bounds the rules of a workload, in bytes of what they match: about 1000 rules of 60. Envoy looks at one after the other.
const MaxSize = 64 << 10

// ByWorkload are policies by the workload that they are about, in their order; those about all are under "*" alone.
func ByWorkload(policies []authz.Policy) map[string][]*authz.Policy {
	about := map[string][]*authz.Policy{}
	for i := range policies {
		p := &policies[i]
		for _, t := range p.Spec.Targets {
			if last := about[t.Workload]; len(last) == 0 || last[len(last)-1] != p {
				about[t.Workload] = append(last, p)
			}
		}
	}
	return about
}

// Compile makes the rules of a workload from the policies that are about it or about all; others say nothing of it.
func Compile(workload string, policies ...[]*authz.Policy) Rules {
	permits, forbids := union{}, union{}
	for _, list := range policies {
		for _, p := range list {
			switch {
			case p.Spec.Mode == policy.Shadow:
			case p.Spec.Effect == policy.Permit:
				permits.add(workload, p, false)
			case p.Spec.Effect == policy.Forbid && always(p):
				forbids.add(workload, p, true)
			}
		}
	}
	rules := Rules{Permits: permits.rules(), Forbids: forbids.rules(), Detail: Whole}
	if alone := (Rules{Forbids: rules.Forbids}); alone.size() > MaxSize/2 {
		rules.Forbids = nil
	}
	for rules.size() > MaxSize && rules.Detail != TrustDomains {
		rules = rules.coarser()
	}
	return rules
}

// always reports whether a policy holds for every tenant, and at all times. What is not known here may narrow it.
func always(p *authz.Policy) bool {
	rest := p.Spec
	rest.Effect, rest.Mode, rest.Principals, rest.Targets = "", "", nil, nil
	return reflect.ValueOf(rest).IsZero() && p.NotAfter.IsZero() && p.Canary == nil
}

// union is a set of requests in the making: boxes of principals and targets, by their texts.
type union map[string]*Rule

// add adds a policy's requests to a workload: at least all of them, or with exact, at most.
func (u union) add(workload string, p *authz.Policy, exact bool) {
	principals := principalTexts(p.Spec.Principals, exact)
	if len(principals) == 0 {
		return
	}
	for i := range p.Spec.Targets {
		t := p.Spec.Targets[i].Plain()
		if t.Workload != workload && t.Workload != "*" {
			continue
		}
		for _, match := range matches(&t, exact) {
			match.Principals = principals
			key := match.key(true, false)
			if have := u[key]; have == nil {
				u[key] = &match
			} else if len(have.Paths) > 0 { // else it has them all
				have.Paths = append(have.Paths, match.Paths...)
				if len(match.Paths) == 0 {
					have.Paths = nil
				}
			}
		}
	}
}

// matches are what a target selects of the requests to its workload, without principals: at least that, or with exact, at most.
// A part that is not known here may narrow it.
func matches(t *policy.Target, exact bool) []Rule {
	plain := t.Plain()
	t = &plain
	rest := plain
	rest.Workload, rest.Methods, rest.Paths = "", nil, nil
	if exact && !reflect.ValueOf(rest).IsZero() {
		return nil
	}
	rule := Rule{Methods: sorted(t.Methods)}
	for _, path := range t.Paths {
		pattern, err := authz.ParsePathPattern(path)
		if err != nil {
			continue // it matches nothing
		}
		if texts, same := pathText(pattern); same || !exact {
			rule.Paths = append(rule.Paths, texts...)
		}
	}
	if len(t.Paths) > 0 && len(rule.Paths) == 0 {
		return nil
	}
	return []Rule{rule}
}

func principalTexts(patterns []string, exact bool) (texts []Text) {
	for _, text := range sorted(patterns) {
		pattern, err := identity.ParsePattern(text)
		if err != nil {
			continue // it matches nobody
		}
		if text, same := idText(pattern); same || !exact {
			texts = append(texts, text)
		}
	}
	return texts
}

// rules are the boxes, those of the same target as one, in an order of their own.
func (u union) rules() []Rule {
	byTarget := map[string]*Rule{}
	for _, rule := range u {
		rule.Paths = distinct(rule.Paths)
		key := rule.key(false, true)
		if have := byTarget[key]; have != nil {
			have.Principals = distinct(slices.Concat(have.Principals, rule.Principals))
		} else {
			rule.Principals = distinct(rule.Principals)
			byTarget[key] = rule
		}
	}
	list := make([]Rule, 0, len(byTarget))
	for _, rule := range byTarget {
		list = append(list, *rule)
	}
	slices.SortFunc(list, func(a, b Rule) int { return strings.Compare(a.key(true, true), b.key(true, true)) })
	return list
}

// key tells rules apart by their methods, and by what else is asked for.
func (r *Rule) key(principals, paths bool) string {
	key := strings.Join(r.Methods, " ")
	for _, part := range []struct {
		in    bool
		texts []Text
	}{{principals, r.Principals}, {paths, r.Paths}} {
		key += "\n"
		for i := 0; part.in && i < len(part.texts); i++ {
			t := &part.texts[i]
			key += t.Exact + "\x00" + t.Prefix + "\x00" + t.Regex + "\x01"
		}
	}
	return key
}

func (rs *Rules) size() (bytes int) {
	for _, rule := range slices.Concat(rs.Permits, rs.Forbids) {
		for _, method := range rule.Methods {
			bytes += len(method)
		}
		for _, t := range slices.Concat(rule.Principals, rule.Paths) {
			bytes += t.size()
		}
	}
	return bytes
}

// coarser are rules that refuse less, and are smaller.
func (rs *Rules) coarser() Rules {
	var principals []Text
	for _, rule := range rs.Permits {
		principals = append(principals, rule.Principals...)
	}
	if rs.Detail == Whole {
		return Rules{Permits: []Rule{{Principals: distinct(principals)}}, Forbids: rs.Forbids, Detail: ByPrincipal}
	}
	for i, t := range principals {
		principals[i] = Text{Prefix: trustDomain(t)}
	}
	return Rules{Permits: []Rule{{Principals: distinct(principals)}}, Forbids: rs.Forbids, Detail: TrustDomains}
}

// trustDomain is how all SPIFFE IDs of a text's trust domain begin.
func trustDomain(t Text) string {
	const scheme = "spiffe://"
	text := t.Exact + t.Prefix + strings.ReplaceAll(t.Regex, `\.`, ".") // one is set
	domain, _, _ := strings.Cut(strings.TrimPrefix(text, scheme), "/")
	return scheme + domain + "/"
}

func sorted(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

func distinct(texts []Text) []Text {
	list := slices.SortedFunc(slices.Values(texts), func(a, b Text) int {
		return cmp.Or(strings.Compare(a.Exact, b.Exact), strings.Compare(a.Prefix, b.Prefix), strings.Compare(a.Regex, b.Regex))
	})
	return slices.Compact(list)
}
