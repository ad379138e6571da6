package analysis

import (
	"slices"
	"strconv"
)

// The dimensions of every space; those after are conditions. What comes first is where boxes are told apart first.
const (
	ofWorkload = iota
	ofPrincipal
	ofTenant
	ofMethod
	ofPath
	ofTime
	ofCondition
)

// constraint is what a box has of one dimension.
type constraint struct {
	dimension int
	set       *set
}

// box is a product of sets: the requests that keep each constraint, which are sorted by their dimensions. A dimension without one is
// not constrained, and a constraint is never all nor none of its dimension. Nobody changes a box.
type box []constraint

// of is what the box has of a dimension.
func (s *space) of(b box, dimension int) *set {
	if i, ok := b.find(dimension); ok {
		return b[i].set
	}
	return s.dimensions[dimension].full
}

func (b box) find(dimension int) (int, bool) {
	return slices.BinarySearchFunc(b, dimension, func(c constraint, d int) int { return c.dimension - d })
}

// with is b, with another set in a dimension.
func (s *space) with(b box, dimension int, set *set) box {
	i, ok := b.find(dimension)
	before, after := b[:i], b[i:]
	if ok {
		after = b[i+1:]
	}
	if set == s.dimensions[dimension].full {
		return slices.Concat(before, after)
	}
	return slices.Concat(before, box{{dimension, set}}, after)
}

// meet is what is in both; false when there is nothing.
func (s *space) meet(a, b box) (box, bool) {
	for _, c := range b {
		both := s.combine(and, s.of(a, c.dimension), c.set)
		if both == s.none {
			return nil, false
		}
		a = s.with(a, c.dimension, both)
	}
	return a, true
}

// inside reports whether all of a is in b.
func (s *space) inside(a, b box) bool {
	return !slices.ContainsFunc(b, func(c constraint) bool { return !s.within(s.of(a, c.dimension), c.set) })
}

// without is a, but for what is in b, as boxes that share nothing.
func (s *space) without(a, b box) (left []box) {
	if _, ok := s.meet(a, b); !ok {
		return []box{a}
	}
	for _, c := range b {
		have := s.of(a, c.dimension)
		if out := s.combine(minus, have, c.set); out != s.none {
			left = append(left, s.with(a, c.dimension, out))
		}
		a = s.with(a, c.dimension, s.combine(and, have, c.set))
	}
	return left
}

// withoutAll is what of the boxes is in none of cut.
func (s *space) withoutAll(boxes, cut []box) []box {
	for _, c := range cut {
		if len(boxes) == 0 {
			return nil
		}
		var left []box
		for _, b := range boxes {
			left = append(left, s.without(b, c)...)
		}
		boxes = left
	}
	return boxes
}

// meetAll is what is in one of a and one of b.
func (s *space) meetAll(a, b []box) (both []box) {
	for _, x := range a {
		for _, y := range b {
			if z, ok := s.meet(x, y); ok {
				both = append(both, z)
			}
		}
	}
	return both
}

// key is the same for equal boxes only; except leaves a dimension out, -1 none.
func (b box) key(except int) string {
	var key []byte
	for _, c := range b {
		if c.dimension != except {
			key = append(strconv.AppendInt(key, int64(c.dimension), 10), '=')
			key = append(strconv.AppendInt(key, int64(c.set.id), 10), ' ')
		}
	}
	return string(key)
}

// merge says the same with fewer boxes: those that differ in one dimension alone become one, and one within another goes.
func (s *space) merge(boxes []box) []box {
	for changed := true; changed; {
		changed = false
		for dimension := range s.dimensions {
			var merged []box
			at := map[string]int{}
			for _, b := range boxes {
				key := b.key(dimension)
				if i, ok := at[key]; ok {
					merged[i] = s.with(merged[i], dimension, s.combine(or, s.of(merged[i], dimension), s.of(b, dimension)))
					changed = true
					continue
				}
				at[key] = len(merged)
				merged = append(merged, b)
			}
			boxes = merged
		}
	}
	var kept []box
	for i, b := range boxes {
		if !slices.ContainsFunc(boxes[i+1:], func(other box) bool { return s.inside(b, other) }) &&
			!slices.ContainsFunc(kept, func(other box) bool { return s.inside(b, other) }) {
			kept = append(kept, b)
		}
	}
	return kept
}
