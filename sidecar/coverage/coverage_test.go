package coverage

import (
	"strings"
	"testing"
)

func TestRoute(t *testing.T) {
	for path, want := range map[string]string{
		"": "/", "/": "/", "/documents": "/documents", "/documents/": "/documents/", "/documents/42": "/documents/*", "/documents/9f3c-11/export": "/documents/*/export",
		"/a/b/c/d": "/a/b/c/d", "/a/b/c/d/e/f": "/a/b/c/d/**", "/v1/x": "/*/x", "/%2e/x": "/*/x", "/" + strings.Repeat("a", 33): "/*", "no-slash": "/no-slash",
	} {
		if got := Route(path); got != want {
			t.Errorf("%q is of %q, want %q", path, got, want)
		}
	}
}
