package authz

import (
	"maps"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
)

// asker is whom and what an index is for.
type asker struct {
	principal identity.Principal
	workload  string
}

// maxAskers bounds the indexes that a set keeps: principals are proven, so there are as many as the mesh has.
const maxAskers = 4096

// index is rules in the set's order, and where there are many also by the path segments with which all begins that they match.
type index struct {
	rules  []*rule
	byPath *node // nil: they are few
}

// Bounds of an index by paths.
const (
	few      = 16 // rules, for which no other index is made
	maxDepth = 3  // segments
)

// node is a place in a tree of path segments. A rule is in each to which a pattern of its own leads, as far as it says which segments.
type node struct {
	rules []*rule
	below map[string]*node
}

// newIndex is an index of rules about a workload, or with "" about whichever.
func newIndex(rules []*rule, workload string) *index {
	made := &index{rules: rules}
	if len(rules) <= few {
		return made
	}
	made.byPath = &node{}
	for _, r := range rules {
		for i := range r.targets {
			t := &r.targets[i]
			if workload != "" && t.workload != "*" && t.workload != workload {
				continue
			}
			if len(t.match.paths) == 0 {
				made.byPath.add(r)
			}
			for _, p := range t.match.paths {
				made.byPath.at(p).add(r)
			}
		}
	}
	return made
}

// at is where a pattern's own segments end.
func (n *node) at(p PathPattern) *node {
	for depth, segment := range p.segments {
		if segment == "*" || depth == maxDepth {
			break
		}
		if n.below == nil {
			n.below = map[string]*node{}
		}
		if n.below[segment] == nil {
			n.below[segment] = &node{}
		}
		n = n.below[segment]
	}
	return n
}

func (n *node) add(r *rule) {
	if last := len(n.rules) - 1; last < 0 || n.rules[last] != r {
		n.rules = append(n.rules, r)
	}
}

// candidates are the rules that may have a say about r, in the set's order.
func (s *Set) candidates(r *Request) (c candidates) {
	if len(s.rules) == 0 {
		return c
	}
	c.about(s.general(r), r.Path)
	c.about(s.named[r.Tenant.ID.String()], r.Path)
	return c
}

// near are the rules about r's principal, workload and tenant, whatever its path, in the set's order.
func (s *Set) near(r *Request) (c candidates) {
	for _, i := range []*index{s.general(r), s.named[r.Tenant.ID.String()]} {
		if i != nil {
			c.add(i.rules)
		}
	}
	return c
}

// general are the rules about r's principal and workload that name no tenants.
func (s *Set) general(r *Request) *index {
	who := asker{r.Principal, r.Workload}
	if asked := s.asked.Load(); asked != nil {
		if found := (*asked)[who]; found != nil {
			return found
		}
	}
	return s.index(who)
}

func (s *Set) index(who asker) *index {
	// What it was cut from is not kept with it.
	who = asker{who.principal.Clone(), strings.Clone(who.workload)}
	var about []*rule
	for i := range s.rules {
		rule := &s.rules[i]
		if len(rule.tenants.Names) == 0 && rule.concerns(who.principal) &&
			slices.ContainsFunc(rule.targets, func(t target) bool { return t.workload == "*" || t.workload == who.workload }) {
			about = append(about, rule)
		}
	}
	made := newIndex(about, who.workload)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[asker]*index{}
	if asked := s.asked.Load(); asked != nil && len(*asked) < maxAskers { // else it begins anew
		maps.Copy(next, *asked)
	}
	next[who] = made
	s.asked.Store(&next)
	return made
}

// candidates merges lists, each in the set's order.
type candidates struct {
	lists [2 * (maxDepth + 1)][]*rule
	n     int
}

func (c *candidates) add(rules []*rule) {
	if len(rules) > 0 {
		c.lists[c.n] = rules
		c.n++
	}
}

// about adds the rules of an index that may be about a path.
func (c *candidates) about(i *index, path string) {
	switch {
	case i == nil:
		return
	case i.byPath == nil:
		c.add(i.rules)
		return
	}
	n := i.byPath
	c.add(n.rules)
	rest, more := strings.CutPrefix(path, "/")
	for more {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if n = n.below[segment]; n == nil {
			return
		}
		c.add(n.rules)
	}
}

// next takes the first, nil when there is none left. A rule may be in several lists.
func (c *candidates) next() *rule {
	at := -1
	for i := range c.n {
		if len(c.lists[i]) > 0 && (at < 0 || c.lists[i][0].place < c.lists[at][0].place) {
			at = i
		}
	}
	if at < 0 {
		return nil
	}
	first := c.lists[at][0]
	for i := at; i < c.n; i++ {
		if len(c.lists[i]) > 0 && c.lists[i][0] == first {
			c.lists[i] = c.lists[i][1:]
		}
	}
	return first
}
