package authz

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestOverlaps(t *testing.T) {
	class := func(t *testing.T, methods []string, paths ...string) Class {
		t.Helper()
		c, problems := NewClass("c", methods, paths)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return c
	}
	for _, test := range []struct {
		one, other Class
		want       bool
	}{
		{class(t, nil, "/a"), class(t, nil, "/a"), true},
		{class(t, nil, "/a"), class(t, nil, "/b"), false},
		{class(t, nil, "/a/*"), class(t, nil, "/*/b"), true},
		{class(t, nil, "/a/**"), class(t, nil, "/a/b/c"), true},
		{class(t, nil, "/a/**"), class(t, nil, "/a"), true},
		{class(t, nil, "/a/b/**"), class(t, nil, "/a"), false},
		{class(t, nil, "/a/"), class(t, nil, "/a/*"), false},
		{class(t, nil, "/**"), class(t, nil, "/x/y/z"), true},
		{class(t, nil), class(t, nil, "/x"), true},
		{class(t, []string{"GET"}, "/x"), class(t, []string{"POST"}, "/x"), false},
		{class(t, []string{"GET", "PUT"}, "/x"), class(t, []string{"PUT"}, "/x"), true},
		{class(t, nil, "/q", "/x"), class(t, []string{"PUT"}, "/y", "/x"), true},
	} {
		if test.one.Overlaps(&test.other) != test.want || test.other.Overlaps(&test.one) != test.want {
			t.Errorf("%+v and %+v: want %v", test.one.match, test.other.match, test.want)
		}
	}
}

// TestOverlapsAgainstPaths: two patterns overlap just when one of all short paths matches both.
func TestOverlapsAgainstPaths(t *testing.T) {
	var paths []string
	for _, a := range []string{"", "a", "b"} {
		paths = append(paths, "/"+a)
		for _, b := range []string{"", "a", "b"} {
			paths = append(paths, "/"+a+"/"+b)
			for _, c := range []string{"", "a", "b"} {
				paths = append(paths, "/"+a+"/"+b+"/"+c)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) PathPattern {
			segments := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 3).Draw(rt, name)
			if last := rapid.SampledFrom([]string{"", "**", "/"}).Draw(rt, name+" last"); last == "**" {
				segments[len(segments)-1] = "**"
			} else if last == "/" && len(segments) < 3 {
				segments = append(segments, "")
			}
			p, err := ParsePathPattern("/" + strings.Join(segments, "/"))
			if err != nil {
				rt.Fatal(err)
			}
			return p
		}
		p, q := draw("one"), draw("other")
		want := slices.ContainsFunc(paths, func(path string) bool { return p.Match(path) && q.Match(path) })
		if p.overlaps(q) != want {
			rt.Fatalf("%v and %v overlap: %v, want %v", p, q, p.overlaps(q), want)
		}
	})
}
