package analysis

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Check is a sort of finding.
type Check string

// The checks.
const (
	Shadowed Check = "shadowed" // the rule changes nothing: others say it, or forbid all that it permits
	Never    Check = "never"    // it names what there is none of
	Wider    Check = "wider"    // it permits calls that nobody has registered
	Ending   Check = "ending"   // a grant has ended, or soon will
	Unused   Check = "unused"   // nobody was permitted anything by it, of all or of a principal that it names
)

// Finding is something about a rule that its author may not know.
type Finding struct {
	Check Check  `json:"check"`
	Rule  string `json:"rule"`
	Text  string `json:"text"`
}

// Lint looks at each rule. Grants that end within that time are findings. What the mesh does not know (it has no tenants, no
// workloads) is not held against a rule.
func Lint(m *Mesh, within time.Duration) ([]Finding, error) {
	s := newSpace(m)
	w, err := s.world(m, "")
	if err != nil {
		return nil, err
	}
	l := &linter{s, w, []Finding{}}
	for i := range m.Policies {
		p := &m.Policies[i]
		l.ending(p, within)
		l.never(p)
	}
	l.shadowed(w.forbids, "forbids", "forbidden")
	l.shadowed(w.permits, "permits", "permitted")
	for _, permit := range w.permits {
		l.forbidden(permit)
		l.wider(permit)
	}
	slices.SortStableFunc(l.findings, func(a, b Finding) int { return strings.Compare(a.Rule, b.Rule) })
	return l.findings, nil
}

type linter struct {
	*space
	*world
	findings []Finding
}

func (l *linter) add(check Check, rule, format string, args ...any) {
	l.findings = append(l.findings, Finding{check, rule, fmt.Sprintf(format, args...)})
}

func (l *linter) ending(p *authz.Policy, within time.Duration) {
	switch left := p.NotAfter.Sub(l.now); {
	case p.NotAfter.IsZero() || left > within:
	case left <= 0:
		l.add(Ending, p.Name, "it ended at %s: delete it", p.NotAfter.Format(time.RFC3339))
	default:
		l.add(Ending, p.Name, "it ends at %s, in %v", p.NotAfter.Format(time.RFC3339), left.Round(time.Minute))
	}
}

// never finds the parts that match nothing there is.
func (l *linter) never(p *authz.Policy) {
	m, spec := l.mesh, &p.Spec
	if len(m.Workloads) > 0 {
		for i, t := range spec.Targets {
			if t.Workload != "*" && !slices.ContainsFunc(m.Workloads, func(w Workload) bool { return w.Name == t.Workload }) {
				l.add(Never, p.Name, "targets[%d].workload: there is no workload %q", i, t.Workload)
			}
		}
		for i, text := range spec.Principals {
			if who := l.pattern(text); !slices.ContainsFunc(l.registered(), func(known *set) bool { return l.combine(and, known, who) != l.none }) {
				l.add(Never, p.Name, "principals[%d]: no workload's ID, nor one of a gateway or the control plane, is of %q", i, text)
			}
		}
	}
	for i, tier := range spec.Tenants.Tiers {
		if len(m.Tiers) > 0 && !slices.Contains(m.Tiers, tier) {
			l.add(Never, p.Name, "tenants.tiers[%d]: there is no tier %q", i, tier)
		}
	}
	if spec.Tenants.Own && len(m.Workloads) > 0 {
		who := l.principals(spec.Principals)
		if !slices.ContainsFunc(l.world.owners, func(o owner) bool { return l.combine(and, o.who, who) != l.none }) {
			l.add(Never, p.Name, "tenants.own: no workload of its principals is bound to a tenant")
		}
	}
	if len(m.Tenants) == 0 {
		return
	}
	none := !slices.ContainsFunc(m.Tenants, func(t authz.Tenant) bool { return authz.SelectsTenant(&spec.Tenants, &t) })
	for i, name := range spec.Tenants.Names {
		if !slices.ContainsFunc(m.Tenants, func(t authz.Tenant) bool { return t.ID.String() == name }) {
			l.add(Never, p.Name, "tenants.names[%d]: there is no tenant %q", i, name)
			none = false // that is why
		}
	}
	if none {
		l.add(Never, p.Name, "tenants: there is no tenant that it selects")
	}
}

// registered are the principals that may be: those of workloads, and by the default scheme (design, section 4) those of gateways and the
// control plane, in any trust domain.
func (l *linter) registered() []*set {
	list := []*set{l.gateways(), l.anyWord(l.oneOf(l.unit, "control"))}
	for i := range l.mesh.Workloads {
		list = append(list, l.principals(l.mesh.Workloads[i].Principals))
	}
	return list
}

func (l *linter) gateways() *set { return l.anyWord(l.oneOf(l.anyWord(l.unit), "gateway")) }

// shadowed finds rules that the others of their effect make needless.
func (l *linter) shadowed(rules []rule, verb, done string) {
	for i, r := range rules {
		left := r.boxes
		var by []string
		for j, other := range rules {
			if i == j || len(left) == 0 {
				continue
			}
			if next := l.withoutAll(left, other.boxes); len(next) == 0 || len(l.meetAll(left, other.boxes)) > 0 {
				left, by = next, append(by, other.name)
			}
		}
		if len(left) == 0 {
			l.add(Shadowed, r.name, "all that it %s is %s by %s", verb, done, strings.Join(by, ", "))
		}
	}
}

// forbidden finds a permit that forbids leave nothing of.
func (l *linter) forbidden(permit rule) {
	left := permit.boxes
	var by []string
	for _, forbid := range l.forbids {
		if len(left) > 0 && len(l.meetAll(left, forbid.boxes)) > 0 {
			left, by = l.withoutAll(left, forbid.boxes), append(by, forbid.name)
		}
	}
	if len(left) == 0 {
		l.add(Shadowed, permit.name, "all that it permits is forbidden by %s", strings.Join(by, ", "))
	}
}

// wider finds calls that a permit permits and no Workload has registered: of a workload to what it does not depend on, of
// gateways to what is not exposed. A grant is governed by itself.
func (l *linter) wider(permit rule) {
	if isGrant(&permit) {
		return
	}
	var calls []string
	permits := func(who *set, to string) bool {
		call, _ := l.meet(l.target(nil, &policy.Target{Workload: to}), l.with(nil, ofPrincipal, who))
		return len(l.meetAll(permit.boxes, []box{call})) > 0
	}
	for i := range l.mesh.Workloads {
		to := &l.mesh.Workloads[i]
		if !to.Exposed && permits(l.gateways(), to.Name) {
			calls = append(calls, "gateways to "+to.Name+", which is not exposed")
		}
		for j := range l.mesh.Workloads {
			from := &l.mesh.Workloads[j]
			if i != j && !slices.Contains(from.DependsOn, to.Name) && permits(l.principals(from.Principals), to.Name) {
				calls = append(calls, from.Name+" to "+to.Name)
			}
		}
	}
	if len(calls) > 0 {
		l.add(Wider, permit.name, "it permits calls that no workload depends on: %s", strings.Join(calls, "; "))
	}
}
