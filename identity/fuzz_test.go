package identity

import (
	"strings"
	"testing"
)

// FuzzPattern compares with a match that is written down segment by segment, and keeps trust domains exact.
func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"spiffe://mesh.example/gateway/*", "spiffe://mesh.example/gateway/edge"}, {"spiffe://mesh.example/**", "spiffe://mesh.example.evil/a"},
		{"spiffe://mesh.example/cell/*/workload/front", "spiffe://mesh.example/cell/us-1/workload/front/x"}, {"spiffe://mesh.example/a/**", "spiffe://mesh.example/a"},
		{"spiffe://MESH.example/a", "spiffe://mesh.example/a"}, {"spiffe://mesh.example/a*", "spiffe://mesh.example/ab"}, {"spiffe://mesh.example/%61", "spiffe://mesh.example/a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, spelled, id string) {
		pattern, err := ParsePattern(spelled)
		if err != nil {
			if pattern != (Pattern{}) {
				t.Errorf("%q is wrong, and yet %v", spelled, pattern)
			}
			return
		}
		if pattern.String() != spelled {
			t.Errorf("%q is shown as %q", spelled, pattern)
		}
		principal, err := ParsePrincipal(id)
		if err != nil {
			return
		}
		if got, want := pattern.Match(principal), slowly(spelled, id); got != want {
			t.Errorf("%q matches %q: %v, want %v", spelled, id, got, want)
		}
	})
}

func slowly(pattern, id string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(id, "/")
	if want[2] != got[2] {
		return false
	}
	for i, segment := range want[3:] {
		i += 3
		switch {
		case segment == "**":
			return len(got) > i
		case i >= len(got) || segment != "*" && segment != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}
