package authz

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
)

// FuzzPathPattern compares with a match that is written down segment by segment.
func FuzzPathPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"/documents/**", "/documents"}, {"/documents/**", "/documents/"}, {"/*", "/"}, {"/*/export", "/a/export"}, {"/a", "/a/"}, {"/", "/"}, {"/**", ""}, {"/a//b", "/a//b"}, {"/a/", "/a/"}, {"/%61", "/a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, spelled, path string) {
		pattern, err := ParsePathPattern(spelled)
		if err != nil {
			return
		}
		if pattern.String() != spelled {
			t.Errorf("%q is shown as %q", spelled, pattern)
		}
		if got, want := pattern.Match(path), slowly(spelled, path); got != want {
			t.Errorf("%q matches %q: %v, want %v", spelled, path, got, want)
		}
	})
}

func slowly(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	for i, segment := range want {
		switch {
		case segment == "**":
			return len(got) >= i && len(got) > 0 && got[0] == "" && (i > 1 || len(got) > 1)
		case i >= len(got):
			return false
		case segment == "*" && got[i] != "", segment == got[i] && segment != "*":
		default:
			return false
		}
	}
	return len(want) == len(got)
}

// FuzzPolicy: a policy that compiles decides as it explains, a Forbid alone permits nothing, and one that does not compile
// permits nothing either.
func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{
		`{"effect":"Permit","principals":["spiffe://mesh.example/**"],"targets":[{"workload":"*"}]}`,
		`{"effect":"Forbid","principals":["spiffe://mesh.example/gateway/*"],"targets":[{"workload":"documents","methods":["GET"],"paths":["/secret/**"]}]}`,
		`{"effect":"Permit","mode":"Shadow","principals":["spiffe://mesh.example/*"],"tenants":{"tiers":["gold"],"labels":{"a":"b"}},"targets":[{"workload":"documents"}],"when":"request.path.startsWith('/a')"}`,
		`{"effect":"Permit","principals":["spiffe://mesh.example/a"],"targets":[{"workload":"documents"}],"when":"[1,2,3].map(x, [1,2,3].map(y, x*y)).size() > 0"}`,
	} {
		f.Add(seed, "GET", "/secret/a", "spiffe://mesh.example/gateway/edge", "acme")
	}
	f.Fuzz(func(t *testing.T, text, method, path, who, tenant string) {
		var spec policy.AccessPolicySpec
		principal, err := identity.ParsePrincipal(who)
		if json.Unmarshal([]byte(text), &spec) != nil || err != nil {
			return
		}
		request := &Request{Principal: principal, Workload: "documents", Method: method, Path: path, Now: time.Unix(1, 0)}
		if id, err := identity.ParseTenantID(tenant); err == nil {
			request.Tenant = Tenant{ID: id, UID: "u", Tier: "gold", Labels: map[string]string{"a": "b"}}
		}
		set, err := Compile([]Policy{{Name: "p", Spec: spec}})
		if wrong := CheckSpec(spec); (err != nil) != (len(wrong) > 0) {
			t.Fatalf("compiling says %v, checking %v", err, wrong)
		}
		rule, allowed := set.Allowed(request)
		if d := set.Authorize(request); d.Allowed != allowed || d.Rule != rule {
			t.Errorf("%v by %q, and explained as %v by %q", allowed, rule, d.Allowed, d.Rule)
		}
		if allowed && (err != nil || spec.Effect != policy.Permit || spec.Mode == policy.Shadow) {
			t.Errorf("permitted by %+v (%v)", spec, err)
		}
	})
}
