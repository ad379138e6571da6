package authz

import "github.com/tenantmesh/tenantmesh/policy"

// Change says that a policy is not in force, and only watched: how another one would be.
type Change struct {
	Of      string // the policy that it is the next version of; it need not exist yet
	Removes bool   // there would be none any more; the spec is the one that there is
}

// Difference is a request that would have come out in another way if something that is only watched were in force: a policy in
// Shadow mode, or a [Change], each alone.
type Difference struct {
	Policy   string
	Revision int64  // of what is watched
	Allowed  bool   // it is refused, and would be allowed; false: the other way round
	Route    string // the path pattern that makes the difference
}

// anyRoute is the route of a rule that looks at no path.
const anyRoute = "/**"

// pair is something that is only watched.
type pair struct {
	name     string
	revision int64
	before   *rule // in force; nil: none is
	after    *rule // nil: there would be none
}

// watchedPairs finds what is only watched among the rules, which do not move any more.
func (s *Set) watchedPairs(removals []Policy) {
	s.watched = map[string]int64{}
	inForce := map[string]*rule{}
	for i := range s.rules {
		if r := &s.rules[i]; r.change == nil {
			inForce[r.name] = r
		}
	}
	watch := func(p *pair) {
		for _, r := range []*rule{p.before, p.after} {
			if r != nil {
				r.pair, s.watched[p.name] = p, p.revision
			}
		}
	}
	for _, p := range removals {
		watch(&pair{p.Change.Of, p.Revision, inForce[p.Change.Of], nil})
	}
	for i := range s.rules {
		if r := &s.rules[i]; r.change != nil {
			watch(&pair{r.change.Of, r.revision, inForce[r.change.Of], r})
		}
	}
	for i := range s.rules {
		if r := &s.rules[i]; r.shadow && r.pair == nil {
			watch(&pair{r.name, r.revision, nil, r})
		}
	}
}

// Watched are the policies about which something is only watched, and the revision of that. It is not to be changed.
func (s *Set) Watched() map[string]int64 {
	if s == nil {
		return nil
	}
	return s.watched
}

// Differences tells each difference that something that is only watched makes of a request. It costs what judging the request by
// every policy about it does.
func (s *Set) Differences(r *Request, tell func(Difference)) {
	if len(s.watched) == 0 {
		return
	}
	var few [16]*rule
	matched, count := few[:0], [2]int{}
	var activation map[string]any
	for candidates := s.candidates(r); ; {
		rule := candidates.next()
		if rule == nil {
			break
		}
		if !rule.holds(r, &activation) {
			continue
		}
		matched = append(matched, rule)
		if !rule.watches(r) {
			count[rule.forbids()]++
		}
	}
	allowed := count[1] == 0 && count[0] > 0
	for i, rule := range matched {
		p := rule.pair
		if p == nil || among(matched[:i], p) {
			continue
		}
		then := count
		for _, m := range matched[i:] {
			if m == p.before && !m.watches(r) {
				then[m.forbids()]--
			}
			if m == p.after {
				then[m.forbids()]++
			}
		}
		if would := then[1] == 0 && then[0] > 0; would != allowed {
			tell(Difference{p.name, p.revision, would, rule.route(r)})
		}
	}
}

func among(rules []*rule, p *pair) bool {
	for _, r := range rules {
		if r.pair == p {
			return true
		}
	}
	return false
}

// holds reports whether the rule matches, with its condition.
func (r *rule) holds(request *Request, activation *map[string]any) bool {
	if r.why(request) != "" {
		return false
	}
	if r.when == nil {
		return true
	}
	if *activation == nil {
		*activation = request.activation()
	}
	return r.matches(evaluate(r.when, *activation))
}

// forbids is 1 for a Forbid, 0 for a Permit.
func (r *rule) forbids() int {
	if r.effect == policy.Forbid {
		return 1
	}
	return 0
}

// route is the pattern by which the rule, which matches, is about the request's path.
func (r *rule) route(request *Request) string {
	for i := range r.targets {
		t := &r.targets[i]
		if t.workload != "*" && t.workload != request.Workload || t.match.why(request.Method, request.Path) != "" {
			continue
		}
		for _, p := range t.match.paths {
			if p.Match(request.Path) {
				return p.text
			}
		}
		return anyRoute
	}
	return anyRoute
}
