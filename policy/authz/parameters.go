package authz

import (
	"slices"
	"strings"
)

// WithoutParameters is a path as a service reads it that knows parameters of a segment (RFC 3986, section 3.3: "a;v=1"), as
// Java's do: they are dropped, and what is then a dot segment, or an empty one, is resolved. A path without any is itself.
// A service that knows no parameters reads the path as it is, so both readings must be judged.
func WithoutParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	var kept []string
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		segment, _, _ = strings.Cut(segment, ";")
		switch segment {
		case "..":
			kept = slices.Delete(kept, max(0, len(kept)-1), len(kept))
		case ".", "":
		default:
			kept = append(kept, segment)
			continue
		}
		if last {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}
