package authz

import "testing"

func TestWithoutParameters(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b": "/a/b", "/a;x/b": "/a/b", "/a;/b;y=1": "/a/b", "/a/..;/b": "/b", "/a/..;x": "/", "/..;/..;/b": "/b", "/.;/b": "/b", "/;x/b": "/b", "/a/;": "/a/", "/a/.;": "/a/", ";": "/", "/a//b": "/a//b", "/a/b/..;/": "/a/",
	} {
		if got := WithoutParameters(path); got != want {
			t.Errorf("%q is read as %q, want %q", path, got, want)
		}
	}
}
