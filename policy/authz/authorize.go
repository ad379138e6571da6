package authz

import (
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

// Tenant is what policies can see of a tenant. The zero value is "no tenant", which only policies without a
// tenant selector match.
type Tenant struct {
	ID        identity.TenantID
	UID       string // of its incarnation
	Tier      string
	Residency string
	Labels    map[string]string
}

// Request is what is judged.
type Request struct {
	Principal identity.Principal // who asks: the peer
	Own       identity.TenantID  // the tenant that the principal is bound to by registration; zero: none
	Tenant    Tenant             // for whom
	Workload  string             // what is asked
	Method    string
	Path      string // without query, see [SplitPath], as [Canonical] has it
	Now       time.Time
	Purpose   string // why an AccessGrant is used: without one, none is
	Lapsed    bool   // the policies are too old to know whether an exception still holds: no grant does, and a Forbid in Shadow mode forbids
}

// Diagnostic says how a judgement came about.
type Diagnostic struct {
	Allowed bool
	Rule    string // that decided; "" when nothing matched
	Results []policy.RuleResult
}

// Allowed judges the request as [Set.Authorize] does, and returns only what decided. Without a condition to
// evaluate it allocates nothing, once it was asked for the principal and the workload.
func (s *Set) Allowed(r *Request) (rule string, allowed bool) {
	var activation map[string]any
	for candidates := s.candidates(r); ; {
		rule := candidates.next()
		if rule == nil {
			return "", false
		}
		if rule.watches(r) || rule.why(r) != "" {
			continue
		}
		if rule.when != nil {
			if activation == nil {
				activation = r.activation()
			}
			if holds, err := evaluate(rule.when, activation); !rule.matches(holds, err) {
				continue
			}
		}
		// Forbids come first, so the first match decides.
		return rule.name, rule.effect == policy.Permit
	}
}

// Authorize judges the request and says of every policy what it had to do with it.
func (s *Set) Authorize(r *Request) Diagnostic {
	var d Diagnostic
	judge := judge{request: r}
	decided := false
	for i := range s.rules {
		rule := &s.rules[i]
		result := judge.result(rule)
		if result.Matched && !rule.watches(r) && !decided {
			decided, d.Rule, d.Allowed = true, rule.name, rule.effect == policy.Permit
		}
		d.Results = append(d.Results, result)
	}
	return d
}

// Nearest says what the policies had to do with the request of which it is most worth to know, at most so many: first those
// about the principal, the workload and the tenant, then others. It costs what they do, however many policies there are.
func (s *Set) Nearest(r *Request, most int) []policy.RuleResult {
	judge := judge{request: r}
	results := make([]policy.RuleResult, 0, min(most, len(s.rules)))
	near := map[*rule]bool{}
	for candidates := s.near(r); len(results) < most; {
		rule := candidates.next()
		if rule == nil {
			break
		}
		near[rule] = true
		results = append(results, judge.result(rule))
	}
	for i := range s.rules {
		if len(results) >= most {
			break
		}
		if rule := &s.rules[i]; !near[rule] {
			results = append(results, judge.result(rule))
		}
	}
	return results
}

// judge judges one request by one rule after the other.
type judge struct {
	request    *Request
	activation map[string]any // made when a condition needs it
}

func (j *judge) result(rule *rule) policy.RuleResult {
	result := policy.RuleResult{Rule: rule.name, Effect: rule.effect, Why: rule.why(j.request)}
	if rule.shadow {
		result.Mode = policy.Shadow
	}
	result.Matched = result.Why == ""
	if !result.Matched || rule.when == nil {
		return result
	}
	if j.activation == nil {
		j.activation = j.request.activation()
	}
	holds, err := evaluate(rule.when, j.activation)
	result.Matched = rule.matches(holds, err)
	switch {
	case err != nil:
		result.Why = "when: " + err.Error()
	case !holds:
		result.Why = "when"
	}
	return result
}

// Len is the number of policies.
func (s *Set) Len() int { return len(s.rules) }

// Timed reports whether the same request may be judged otherwise later: a policy ends, or has a condition about the time.
func (s *Set) Timed() bool { return s.timed }

// watches reports whether the rule only looks on. That a Forbid does is an exception, and lapses like one; a change that nobody
// has put in force is none.
func (r *rule) watches(request *Request) bool {
	return r.shadow && (r.effect == policy.Permit || r.change != nil || !request.Lapsed)
}

// concerns reports whether the rule is for a principal.
func (r *rule) concerns(principal identity.Principal) bool {
	return slices.ContainsFunc(r.principals, func(p identity.Pattern) bool { return p.Match(principal) })
}

// why returns the first part that does not match, "" when all but the condition match.
func (r *rule) why(request *Request) string {
	if !r.notAfter.IsZero() && (request.Lapsed || !request.Now.Before(r.notAfter)) {
		return "notAfter"
	}
	if !r.concerns(request.Principal) {
		return "principals"
	}
	if field := whyTenant(&r.tenants, &request.Tenant); field != "" {
		return field
	}
	if r.tenants.Own && (request.Own.IsZero() || request.Own != request.Tenant.ID) {
		return "tenants.own"
	}
	if r.canary != nil && !r.canary.Selects(request.Tenant.ID.String(), request.Tenant.UID) {
		return "canary"
	}
	reason := "targets"
	for i := range r.targets {
		if r.targets[i].workload != "*" && r.targets[i].workload != request.Workload {
			continue
		}
		if reason = r.targets[i].match.why(request.Method, request.Path); reason == "" {
			if r.grant && request.Purpose == "" {
				return "reason"
			}
			return ""
		}
	}
	return reason
}

// SelectsTenant reports whether a selector selects a tenant, as somebody's own where it is for own ones.
func SelectsTenant(selector *policy.TenantSelector, tenant *Tenant) bool {
	return whyTenant(selector, tenant) == ""
}

func whyTenant(selector *policy.TenantSelector, tenant *Tenant) string {
	if len(selector.Names) > 0 && !slices.Contains(selector.Names, tenant.ID.String()) {
		return "tenants.names"
	}
	if len(selector.Tiers) > 0 && !slices.Contains(selector.Tiers, tenant.Tier) {
		return "tenants.tiers"
	}
	if selector.Residency != "" && selector.Residency != tenant.Residency {
		return "tenants.residency"
	}
	if selector.Own && tenant.ID.IsZero() {
		return "tenants.own"
	}
	for name, value := range selector.Labels {
		if got, ok := tenant.Labels[name]; !ok || got != value {
			return "tenants.labels"
		}
	}
	return ""
}

// matches says what a condition's outcome means: an error counts against the caller.
func (r *rule) matches(holds bool, err error) bool {
	if err != nil {
		return r.effect == policy.Forbid
	}
	return holds
}
