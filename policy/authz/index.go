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

// index is the part of a set that may have a say about one principal's requests to one workload, whatever their tenant, in
// the set's order.
type index struct{ general []*rule }

// candidates are the rules that may have a say about r, in the set's order.
func (s *Set) candidates(r *Request) candidates {
	if len(s.rules) == 0 {
		return candidates{}
	}
	who := asker{r.Principal, r.Workload}
	var found *index
	if asked := s.asked.Load(); asked != nil {
		found = (*asked)[who]
	}
	if found == nil {
		found = s.index(who)
	}
	return candidates{found.general, s.named[r.Tenant.ID.String()]}
}

func (s *Set) index(who asker) *index {
	// What it was cut from is not kept with it.
	who = asker{who.principal.Clone(), strings.Clone(who.workload)}
	made := &index{}
	for i := range s.rules {
		rule := &s.rules[i]
		if len(rule.tenants.Names) == 0 && rule.concerns(who.principal) &&
			slices.ContainsFunc(rule.targets, func(t target) bool { return t.workload == "*" || t.workload == who.workload }) {
			made.general = append(made.general, rule)
		}
	}
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

// candidates merges two lists, each in the set's order.
type candidates struct{ general, named []*rule }

// next takes the first, nil when there is none left.
func (c *candidates) next() *rule {
	from := &c.general
	if len(*from) == 0 || len(c.named) > 0 && c.named[0].place < (*from)[0].place {
		from = &c.named
	}
	if len(*from) == 0 {
		return nil
	}
	first := (*from)[0]
	*from = (*from)[1:]
	return first
}
