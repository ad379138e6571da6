package authz

import "slices"

// Overlaps reports whether some request is of both classes, by method and path.
func (c *Class) Overlaps(other *Class) bool {
	return c.match.overlaps(other.match)
}

func (m requestMatch) overlaps(other requestMatch) bool {
	if len(m.methods) > 0 && len(other.methods) > 0 && !slices.ContainsFunc(m.methods, func(method string) bool { return slices.Contains(other.methods, method) }) {
		return false
	}
	return len(m.paths) == 0 || len(other.paths) == 0 || slices.ContainsFunc(m.paths, func(p PathPattern) bool {
		return slices.ContainsFunc(other.paths, p.overlaps)
	})
}

// overlaps reports whether some path matches both.
func (p PathPattern) overlaps(other PathPattern) bool {
	for i := range min(len(p.segments), len(other.segments)) {
		a, b := p.segments[i], other.segments[i]
		if a != b && (a != "*" || b == "") && (b != "*" || a == "") {
			return false
		}
	}
	switch {
	case len(p.segments) < len(other.segments):
		return p.open
	case len(p.segments) > len(other.segments):
		return other.open
	default:
		return true
	}
}
