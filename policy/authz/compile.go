package authz

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

// CostLimit bounds what one condition may cost, in CEL's units (about one a step).
const CostLimit = 10_000

// Policy is one AccessPolicy, or one AccessGrant seen as a policy.
type Policy struct {
	Name     string
	Spec     policy.AccessPolicySpec
	Revision int64
	NotAfter time.Time      // zero: for ever
	Grant    bool           // an AccessGrant's: it permits nothing to whoever gives no reason
	Unproven bool           // of Grant: nobody else approved it
	Canary   *policy.Canary // of a rollout: the tenants that it is for; nil: all
	Change   *Change        // it is not in force, and only watched; nil: it is
}

// FieldProblem is one thing wrong with a spec: where ("targets[0].paths[1]") and what.
type FieldProblem struct{ Field, Text string }

// FieldProblems is all that is wrong with a spec.
type FieldProblems []FieldProblem

func (ps FieldProblems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Field + ": " + p.Text
	}
	return strings.Join(lines, "; ")
}

// Set is policies, compiled. The zero value denies everything. It may be used from many goroutines.
type Set struct {
	rules   []rule            // forbids first, then permits, each by name; shadows among them
	named   map[string]*index // those that name tenants, by each name, in the same order
	watched map[string]int64  // what is only watched, by policy: its revision
	timed   bool              // see [Set.Timed]

	audited map[string]Audited // by the names of those whose uses are recorded; nil: of none

	asked atomic.Pointer[map[asker]*index] // nobody changes a map once it is here
	mu    sync.Mutex                       // of who replaces it
}

type rule struct {
	place      int // in Set.rules
	name       string
	effect     policy.Effect
	shadow     bool
	notAfter   time.Time
	grant      bool
	revision   int64
	principals []identity.Pattern
	tenants    policy.TenantSelector
	canary     *policy.Canary
	change     *Change
	pair       *pair // that it is a part of, if something about it is only watched
	targets    []target
	when       cel.Program // nil: always
}

type target struct {
	workload string
	match    requestMatch
}

// Compile compiles policies; a policy that is wrong is left out of the set and named in the error, which is
// nil when all are good.
func Compile(policies []Policy) (*Set, error) {
	set := &Set{named: map[string]*index{}}
	var wrong []string
	var removals []Policy
	for _, p := range policies {
		r, problems := compileRule(p)
		if len(problems) > 0 {
			wrong = append(wrong, p.Name+": "+problems.Error())
			continue
		}
		if p.Change != nil && p.Change.Removes {
			removals = append(removals, p)
			continue
		}
		set.rules = append(set.rules, r)
		set.audit(&p)
		set.timed = set.timed || !r.notAfter.IsZero() || strings.Contains(p.Spec.When, "time")
	}
	slices.SortStableFunc(set.rules, func(a, b rule) int {
		if a.effect != b.effect {
			return strings.Compare(string(a.effect), string(b.effect)) // "Forbid" < "Permit"
		}
		return strings.Compare(a.name, b.name)
	})
	named := map[string][]*rule{}
	for i := range set.rules {
		rule := &set.rules[i]
		rule.place = i
		for _, name := range slices.Compact(slices.Sorted(slices.Values(rule.tenants.Names))) {
			named[name] = append(named[name], rule)
		}
	}
	for name, rules := range named {
		set.named[name] = newIndex(rules, "")
	}
	set.watchedPairs(removals)
	if len(wrong) > 0 {
		return set, fmt.Errorf("access policies: %s", strings.Join(wrong, "\n"))
	}
	return set, nil
}

// CheckSpec returns all that is wrong with a spec.
func CheckSpec(spec policy.AccessPolicySpec) FieldProblems {
	_, problems := compileRule(Policy{Spec: spec})
	return problems
}

func compileRule(p Policy) (rule, FieldProblems) {
	var problems FieldProblems
	add := func(field, format string, args ...any) {
		problems = append(problems, FieldProblem{field, fmt.Sprintf(format, args...)})
	}
	r := rule{
		name: p.Name, effect: p.Spec.Effect, shadow: p.Spec.Mode == policy.Shadow || p.Change != nil,
		notAfter: p.NotAfter, grant: p.Grant, revision: p.Revision, tenants: p.Spec.Tenants, canary: p.Canary, change: p.Change,
	}
	if p.Spec.Effect != policy.Permit && p.Spec.Effect != policy.Forbid {
		add("effect", "must be %s or %s (got %q)", policy.Permit, policy.Forbid, p.Spec.Effect)
	}
	switch p.Spec.Mode {
	case "", policy.Enforce, policy.Shadow:
	default:
		add("mode", "must be %s or %s (got %q)", policy.Enforce, policy.Shadow, p.Spec.Mode)
	}
	switch p.Spec.Audit {
	case "", policy.AuditAll:
	default:
		add("audit", "must be %s, or not be there (got %q)", policy.AuditAll, p.Spec.Audit)
	}
	if len(p.Spec.Principals) == 0 {
		add("principals", "must name at least one SPIFFE pattern (got none)")
	}
	for i, text := range p.Spec.Principals {
		pattern, err := identity.ParsePattern(text)
		if err != nil {
			add(fmt.Sprintf("principals[%d]", i), "%v", err)
			continue
		}
		r.principals = append(r.principals, pattern)
	}
	if len(p.Spec.Targets) == 0 {
		add("targets", "must name at least one workload (got none)")
	}
	for i, t := range p.Spec.Targets {
		at := fmt.Sprintf("targets[%d].", i)
		if t.Workload == "" {
			add(at+"workload", `must be a workload's name or "*" (got "")`)
		}
		match, wrong := compileTarget(at, t)
		problems = append(problems, wrong...)
		r.targets = append(r.targets, target{t.Workload, match})
	}
	if p.Spec.When != "" {
		program, err := compileCondition(p.Spec.When)
		if err != nil {
			add("when", "must be a CEL condition: %v (got %q)", err, p.Spec.When)
		}
		r.when = program
	}
	return r, problems
}

// GrantPrefix is what the names of policies begin with that are AccessGrants; no AccessPolicy has a "/" in its name.
const GrantPrefix = "grant/"

// AsPolicy is a grant, as the permit that it is until its NotAfter.
func AsPolicy(name string, grant policy.AccessGrantSpec, revision int64) Policy {
	return Policy{Name: GrantPrefix + name, Revision: revision, NotAfter: grant.NotAfter, Grant: true, Unproven: grant.BreakGlass, Spec: policy.AccessPolicySpec{
		Effect: policy.Permit, Principals: []string{grant.Principal}, Tenants: grant.Tenants, Targets: grant.Targets,
	}}
}
