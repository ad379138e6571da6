package analysis

import "strconv"

// Change is what a change of policies changes for requests.
type Change struct {
	Allowed []Class `json:"allowed"` // newly: Rules permit it now; Forbids forbade it, or nothing permitted it
	Refused []Class `json:"refused"` // newly: Rules permitted it; Forbids forbid it now, or nothing permits it any more
}

// Empty reports whether the policies are equivalent: no request is judged in another way, whatever the conditions say.
func (c *Change) Empty() bool { return len(c.Allowed)+len(c.Refused) == 0 }

// Diff compares the policies of two meshes, of one Now. Where they say different things of a tenant, each has it its own way; a
// tenant that only one of them knows is for both as that one has it.
func Diff(before, after *Mesh) (Change, error) {
	s := newSpace(before, after)
	a, err := s.world(before, "was")
	if err != nil {
		return Change{}, err
	}
	b, err := s.world(after, "is")
	if err != nil {
		return Change{}, err
	}
	return Change{Allowed: append([]Class{}, s.classes(s.more(b, a))...), Refused: append([]Class{}, s.classes(s.more(a, b))...)}, nil
}

// more is what w allows and other does not.
func (s *space) more(w, other *world) (found []verdict) {
	had, permitted := boxKeys(other.permits), all(other.permits)
	forbade, forbidden := boxKeys(w.forbids), all(w.forbids)
	for _, permit := range w.permits {
		var fresh []box
		for _, b := range permit.boxes {
			if !had[b.key(-1)] {
				fresh = append(fresh, b)
			}
		}
		for _, b := range s.withoutAll(s.withoutAll(fresh, permitted), forbidden) {
			found = append(found, verdict{b, []string{permit.name}, nil})
		}
		for _, forbid := range other.forbids {
			var gone []box
			for _, b := range forbid.boxes {
				if !forbade[b.key(-1)] {
					gone = append(gone, b)
				}
			}
			for _, b := range s.withoutAll(s.meetAll(permit.boxes, gone), forbidden) {
				found = append(found, verdict{b, []string{permit.name}, []string{forbid.name}})
			}
		}
	}
	return found
}

// boxKeys are the keys of rules' boxes.
func boxKeys(rules []rule) map[string]bool {
	keys := map[string]bool{}
	for _, b := range all(rules) {
		keys[b.key(-1)] = true
	}
	return keys
}

// keyOf is the same for equal lists only.
func keyOf(list []string) string {
	var key []byte
	for _, name := range list {
		key = strconv.AppendQuote(key, name)
	}
	return string(key)
}
