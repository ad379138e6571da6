package identity

import (
	"strings"
	"testing"
)

func TestParseTenantID(t *testing.T) {
	for _, test := range []struct {
		in   string
		want bool
	}{
		{"acme", true}, {"t-123", true}, {strings.Repeat("a", 63), true},
		{"", false}, {strings.Repeat("a", 64), false}, {"Acme", false}, {"a_b", false}, {"a\n", false},
	} {
		id, err := ParseTenantID(test.in)
		if (err == nil) != test.want {
			t.Errorf("ParseTenantID(%q): error %v, want valid %v", test.in, err, test.want)
		}
		if id.IsZero() == test.want {
			t.Errorf("ParseTenantID(%q).IsZero() = %v", test.in, id.IsZero())
		}
	}
}

func TestPatternMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, id string
		want        bool
	}{
		{"spiffe://a.example/cell/*/workload/search", "spiffe://a.example/cell/us-1/workload/search", true},
		{"spiffe://a.example/cell/*/workload/search", "spiffe://a.example/cell/us-1/x/workload/search", false},
		{"spiffe://a.example/cell/*/workload/search", "spiffe://b.example/cell/us-1/workload/search", false},
		{"spiffe://a.example/cell/**", "spiffe://a.example/cell/us-1/workload/search", true},
		{"spiffe://a.example/cell/**", "spiffe://a.example/cell", false},
		{"spiffe://a.example/gateway", "spiffe://a.example/gateway/edge", false},
	} {
		pattern, err := ParsePattern(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		id, err := ParsePrincipal(test.id)
		if err != nil {
			t.Fatal(err)
		}
		if got := pattern.Match(id); got != test.want {
			t.Errorf("%s matches %s: %v, want %v", test.pattern, test.id, got, test.want)
		}
	}
}

func TestIsGateway(t *testing.T) {
	for text, want := range map[string]bool{
		"spiffe://mesh.example/gateway/edge": true, "spiffe://mesh.example/gateway/edge/x": false, "spiffe://mesh.example/gateways/edge": false, "spiffe://mesh.example/ns/shop/sa/search": false,
		"spiffe://mesh.example/x/gateway/edge": false,
	} {
		p, err := ParsePrincipal(text)
		if err != nil || IsGateway(p) != want {
			t.Errorf("%s is a gateway: %v, %v", text, !want, err)
		}
	}
}
