package authz

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// SplitPath cuts a request target as Envoy shows it at its first '?', without ever decoding or re-encoding
// it: net/url reads "//admin" as a host, which was a way around real policies. A '#' ends a path too.
func SplitPath(target string) (path, query string) {
	path, query, _ = strings.Cut(target, "?")
	path, _, _ = strings.Cut(path, "#")
	return path, query
}

// Canonical is the path as a service reads it, for matching only: each percent-encoded octet is decoded, once, but for
// "/", which would make two segments of one. (RFC 3986, section 6.2.2.2, holds only unreserved characters equal to their
// encodings; services decode the others too, and "/things%3Aexport" may not pass by a rule about "/things:export".)
// ok is false when an encoding is malformed, or what it encodes is not UTF-8: then nobody can say what the path is.
func Canonical(path string) (canonical string, ok bool) {
	if !strings.Contains(path, "%") {
		return path, utf8.ValidString(path)
	}
	decoded := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			decoded = append(decoded, path[i])
			continue
		}
		if i+2 >= len(path) {
			return "", false
		}
		octet, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		if octet == '/' {
			decoded = append(decoded, path[i:i+3]...)
		} else {
			decoded = append(decoded, byte(octet))
		}
		i += 2
	}
	return string(decoded), utf8.Valid(decoded)
}

// PathPattern matches a path segment by segment: a segment is exact or "*" (any one, not empty), and the
// last may be "**" (none or more). "/documents/**" matches "/documents" and all below it.
type PathPattern struct {
	text     string
	segments []string
	open     bool // ends with **
}

// ParsePathPattern returns the pattern that s spells. It must begin with "/".
func ParsePathPattern(s string) (PathPattern, error) {
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return PathPattern{}, fmt.Errorf("must begin with / (got %q)", s)
	}
	pattern := PathPattern{text: s, segments: strings.Split(rest, "/")}
	for i, segment := range pattern.segments {
		last := i == len(pattern.segments)-1
		switch {
		case segment == "**" && last:
			pattern.open = true
			pattern.segments = pattern.segments[:i]
		case segment == "*":
		case strings.ContainsAny(segment, "*?#%"):
			return PathPattern{}, fmt.Errorf("must have segments that are exact, * or (last) ** (got %q)", segment)
		case segment == "" && !last, segment == ".", segment == "..":
			return PathPattern{}, fmt.Errorf("must be normalized, without empty or dot segments (got %q)", s)
		}
	}
	return pattern, nil
}

// Match reports whether p matches the whole of path. It allocates nothing.
func (p PathPattern) Match(path string) bool {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return false
	}
	more := true
	for i, want := range p.segments {
		if !more {
			return false
		}
		var got string
		got, rest, more = strings.Cut(rest, "/")
		if want == "*" && got == "" || want != "*" && want != got {
			return false
		}
		if i == len(p.segments)-1 && !more {
			return true
		}
	}
	return p.open
}

func (p PathPattern) String() string { return p.text }

// Segments are the pattern's, "*" for any one that is not empty; open: none or more of any kind follow. They are not to be changed.
func (p PathPattern) Segments() (segments []string, open bool) { return p.segments, p.open }

// requestMatch selects requests by method and path; empty fields select all.
type requestMatch struct {
	methods []string
	paths   []PathPattern
}

func (m requestMatch) why(method, path string) string {
	if len(m.methods) > 0 && !slices.Contains(m.methods, method) {
		return "method"
	}
	if len(m.paths) > 0 && !slices.ContainsFunc(m.paths, func(p PathPattern) bool { return p.Match(path) }) {
		return "path"
	}
	return ""
}

// Class is one class of requests of a workload, compiled.
type Class struct {
	name  string
	match requestMatch
}

// NewClass compiles a class. The errors' texts begin with the field, "paths[0]: must ...".
func NewClass(name string, methods, paths []string) (Class, FieldProblems) {
	match, problems := compileMatch("", methods, paths)
	return Class{name, match}, problems
}

// Classify returns the first class that matches, "" for none.
func Classify(classes []Class, method, path string) string {
	for i := range classes {
		if classes[i].match.why(method, path) == "" {
			return classes[i].name
		}
	}
	return ""
}

func compileMatch(at string, methods, paths []string) (requestMatch, FieldProblems) {
	var problems FieldProblems
	match := requestMatch{methods: methods}
	for i, method := range methods {
		if !isMethod(method) {
			problems = append(problems, FieldProblem{fmt.Sprintf("%smethods[%d]", at, i), fmt.Sprintf("must be an upper-case HTTP method (got %q)", method)})
		}
	}
	for i, path := range paths {
		pattern, err := ParsePathPattern(path)
		if err != nil {
			problems = append(problems, FieldProblem{fmt.Sprintf("%spaths[%d]", at, i), err.Error()})
			continue
		}
		match.paths = append(match.paths, pattern)
	}
	return match, problems
}

func isMethod(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}
