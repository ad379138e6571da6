package adminapi

import (
	"fmt"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// tags is the value of an If-Match or If-None-Match (RFC 9110, sections 13.1.1 and 13.1.2).
type tags struct {
	any  bool     // "*": whatever there is
	list []string // as they are written
}

// parseTags takes "" for no header.
func parseTags(header, value string) (t tags, err error) {
	rest := strings.TrimSpace(value)
	if rest == "*" {
		return tags{any: true}, nil
	}
	for rest != "" {
		weak, opaque := "", rest
		if after, ok := strings.CutPrefix(rest, "W/"); ok {
			weak, opaque = "W/", after
		}
		inner, after, closed := strings.Cut(strings.TrimPrefix(opaque, `"`), `"`)
		after = strings.TrimLeft(after, " \t")
		if !strings.HasPrefix(opaque, `"`) || !closed || (after != "" && after[0] != ',') {
			return tags{}, huma.Error400BadRequest(fmt.Sprintf(`%s must be * or a list of ETags such as "42" (got %q)`, header, value))
		}
		t.list = append(t.list, weak+`"`+inner+`"`)
		rest = strings.TrimLeft(after, ", \t")
	}
	return t, nil
}

// strongly reports whether an object at revision, 0 for none, is among them.
func (t tags) strongly(revision int64) bool {
	return t.holds(revision, func(tag string) string { return tag })
}

// weakly is the same for those who only want to know whether they have it.
func (t tags) weakly(revision int64) bool {
	return t.holds(revision, func(tag string) string { return strings.TrimPrefix(tag, "W/") })
}

func (t tags) holds(revision int64, as func(tag string) string) bool {
	if revision == 0 {
		return false
	}
	for _, tag := range t.list {
		if as(tag) == etag(revision) {
			return true
		}
	}
	return t.any
}

// Conditions are those of a write, as its headers say them.
type Conditions struct {
	IfMatch     string `header:"If-Match" doc:"write only what is at one of these ETags; *: only what exists"`
	IfNoneMatch string `header:"If-None-Match" doc:"write only what is at none of these ETags; *: only what does not exist"`
}

// met returns what they ask of an object's revision, 0 when it does not exist.
func (c Conditions) met() (func(revision int64) bool, error) {
	match, err := parseTags("If-Match", c.IfMatch)
	if err != nil {
		return nil, err
	}
	none, err := parseTags("If-None-Match", c.IfNoneMatch)
	if err != nil {
		return nil, err
	}
	return func(revision int64) bool {
		return (c.IfMatch == "" || match.strongly(revision)) && !none.weakly(revision)
	}, nil
}
