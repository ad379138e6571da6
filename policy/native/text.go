package native

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Text matches a text as a whole, in the one way that is set. Regex is in RE2's syntax.
type Text struct{ Exact, Prefix, Regex string }

func (t Text) size() int { return len(t.Exact) + len(t.Prefix) + len(t.Regex) }

// maxRegex bounds an expression's program, as [expression.cost] estimates it: Envoy refuses those over 100 instructions.
const maxRegex = 75

// Parts of expressions, for ASCII: Envoy shows nothing else. The costs are in RE2's instructions.
const (
	pathSegment, pathSegmentCost = `[!-.0-~]+`, 4
	pathRest, pathRestCost       = `(?:/[!-~]*)?`, 6
	idSegment, idSegmentCost     = `[-.0-9A-Z_a-z]+`, 7
	escapeCost                   = 7 // of one octet that may come plain or escaped
)

// WellFormed matches a path whose escapes are escapes: what policy/authz cannot read it refuses.
var WellFormed = Text{Regex: `(?:[!-$&-~]|%[0-9A-Fa-f][0-9A-Fa-f])*`}

// expression is an expression in the making.
type expression struct {
	regex   strings.Builder
	cost    int
	plain   bool // so far there is nothing but text
	literal strings.Builder
}

// add appends a part of the expression, unless it gets too long with it. Text alone needs no expression, and may be long.
func (e *expression) add(regex string, cost int, literal string) bool {
	if e.cost += cost; e.cost > maxRegex && (!e.plain || literal == "") {
		return false
	}
	e.regex.WriteString(regex)
	if e.plain = e.plain && literal != ""; e.plain {
		e.literal.WriteString(literal)
	}
	return true
}

// octets appends a path's text: what Envoy may leave escaped is matched both ways.
func (e *expression) octets(text string) bool {
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		plain := text[:n]
		text = text[n:]
		if unreserved(r) || r == '/' {
			if !e.add(regexp.QuoteMeta(plain), 1, plain) {
				return false
			}
			continue
		}
		var escaped strings.Builder
		for i := range len(plain) {
			fmt.Fprintf(&escaped, "%%%s%s", digit(plain[i]>>4), digit(plain[i]&15))
		}
		both := escaped.String()
		if r < utf8.RuneSelf {
			both = `(?:` + regexp.QuoteMeta(plain) + `|` + both + `)`
		}
		if !e.add(both, escapeCost*n, "") {
			return false
		}
	}
	return true
}

// digit matches a hexadecimal digit.
func digit(d byte) string {
	if d < 10 {
		return string('0' + d)
	}
	return "[" + string('A'+d-10) + string('a'+d-10) + "]"
}

// unreserved characters are those of RFC 3986, section 2.3: Envoy decodes their escapes.
func unreserved(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~", r)
}

// pathText is a path pattern as texts, of which one is to match. It is exact, or where the pattern is too long it matches more.
func pathText(p authz.PathPattern) (texts []Text, exact bool) {
	e := &expression{plain: true}
	segments, open := p.Segments()
	for _, segment := range segments {
		whole := e.add("/", 1, "/")
		if whole && segment == "*" {
			whole = e.add(pathSegment, pathSegmentCost, "")
		} else if whole {
			whole = e.octets(segment)
		}
		if !whole {
			return []Text{e.cut(`[!-~]*`)}, false
		}
	}
	switch {
	case open && len(segments) == 0:
		return []Text{{Prefix: "/"}}, true
	case e.plain && open:
		return []Text{{Exact: e.literal.String()}, {Prefix: e.literal.String() + "/"}}, true
	case e.plain:
		return []Text{{Exact: e.literal.String()}}, true
	case open:
		return []Text{{Regex: e.regex.String() + pathRest}}, true
	default:
		return []Text{{Regex: e.regex.String()}}, true
	}
}

// cut is the expression as far as it went, and then anything.
func (e *expression) cut(anything string) Text {
	if e.plain {
		return Text{Prefix: e.literal.String()}
	}
	return Text{Regex: e.regex.String() + anything}
}

// HookPath matches at least one path, as policy/authz reads it.
func HookPath(path string) Text {
	e := &expression{plain: true}
	switch whole := e.octets(path); {
	case !whole:
		return e.cut(`[!-~]*`)
	case e.plain:
		return Text{Exact: e.literal.String()}
	default:
		return Text{Regex: e.regex.String()}
	}
}

// idText is a SPIFFE pattern. It is exact, or where the pattern is too long it matches more.
func idText(p identity.Pattern) (text Text, exact bool) {
	e := &expression{plain: true}
	rest, open := strings.CutSuffix(p.String(), "/**")
	for i, segment := range strings.Split(rest, "/") {
		whole := i == 0 || e.add("/", 1, "/")
		if whole && segment == "*" {
			whole = e.add(idSegment, idSegmentCost, "")
		} else if whole && segment != "" {
			whole = e.add(regexp.QuoteMeta(segment), len(segment), segment)
		}
		if !whole {
			return e.cut(`[-./0-9A-Z_a-z]*`), false
		}
	}
	switch {
	case e.plain && open:
		return Text{Prefix: e.literal.String() + "/"}, true
	case e.plain:
		return Text{Exact: e.literal.String()}, true
	case open:
		return Text{Regex: e.regex.String() + `/[-./0-9A-Z_a-z]+`}, true
	default:
		return Text{Regex: e.regex.String()}, true
	}
}
