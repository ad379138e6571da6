package decide

import (
	"testing"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// TestSpelling: what some service reads as something else than the rules do is refused, or judged as both.
func TestSpelling(t *testing.T) {
	self := sidecar()
	self.TenantData = []*api.TenantData{{Workload: "front", Export: "/export"}}
	w := newWorld(t, self)
	set, err := w.decider.Sets.Load().With([]policyset.Change{{TypeURL: meshname.TypeAccessPolicy, Name: "f", Message: &api.AccessPolicy{
		Name: "f", Effect: "Forbid", Principals: []string{"spiffe://mesh.example/**"}, Targets: []*api.Target{{Workload: "front", Paths: []string{"/secret/**"}}},
	}}}, 43)
	check(t, err)
	w.decider.Sets.Store(set)
	for name, test := range map[string]struct {
		change func(*Request)
		reason policy.Reason
	}{
		"plain":                     {func(*Request) {}, policy.Permitted},
		"a method in lower case":    {func(r *Request) { r.Method = "get" }, policy.DeniedByPolicy},
		"a method of one's own":     {func(r *Request) { r.Method = "M-SEARCH" }, policy.Permitted},
		"TRACE":                     {func(r *Request) { r.Method = "TRACE" }, policy.DeniedByPolicy},
		"TRACK":                     {func(r *Request) { r.Method = "TRACK" }, policy.DeniedByPolicy},
		"a host":                    {func(r *Request) { r.Headers.Add(":authority", "docs.example") }, policy.Permitted},
		"no host":                   {func(r *Request) { r.Headers.Add(":authority", "") }, policy.DeniedByPolicy},
		"a user of a host":          {func(r *Request) { r.Headers.Add(":authority", "docs.example@evil.example") }, policy.DeniedByPolicy},
		"half an escape":            {func(r *Request) { r.Path = "/x%" }, policy.DeniedByPolicy},
		"parameters":                {func(r *Request) { r.Path = "/x;v=1" }, policy.Permitted},
		"parameters that hide":      {func(r *Request) { r.Path = "/secret;v=1/a" }, policy.DeniedByPolicy},
		"parameters that go up":     {func(r *Request) { r.Path = "/x/..;/secret/a" }, policy.DeniedByPolicy},
		"parameters of a hook":      {func(r *Request) { r.Path = "/export;v=1" }, policy.DeniedByPolicy},
		"one name of a peer":        {func(r *Request) { r.Headers.Add(propagation.HeaderPeer, "00 "+edge) }, policy.Permitted},
		"several names of a peer":   {func(r *Request) { r.Headers.Add(propagation.HeaderPeer, "00 "+edge+",spiffe://mesh.example/x") }, policy.UnauthenticatedPeer},
		"a fingerprint and no name": {func(r *Request) { r.Headers.Add(propagation.HeaderPeer, "00") }, policy.Permitted},
	} {
		r := w.inbound(w.token(), test.change)
		r.Lease = name
		w.want(name, r, test.reason)
	}
}

// TestClassByParameters: a request is of its class however its path is spelled.
func TestClassByParameters(t *testing.T) {
	self := sidecar()
	self.Classes = []*api.Class{{Name: "exports", Paths: []string{"/*/export"}}}
	w := newWorld(t, self)
	for _, path := range []string{"/a/export", "/a/export;v=1", "/a/%65xport", "/a/b/..;/export"} {
		r := w.inbound(w.token(), func(r *Request) { r.Path = path })
		r.Lease = path
		if a := w.want(path, r, policy.Permitted); a.Decision.Class != "exports" {
			t.Errorf("%s is of class %q", path, a.Decision.Class)
		}
	}
}

// TestOneToken: the header that holds the verified token holds nothing else.
func TestOneToken(t *testing.T) {
	w := newWorld(t, &api.ProxyConfig{Role: "gateway", Cells: map[string]string{"us-1": ""}})
	for value, reason := range map[string]policy.Reason{
		"Bearer a.b-c_d": policy.Permitted, "Bearer a.b.c, Bearer d": policy.UnauthenticatedTenant, "Bearer a.b.c d": policy.UnauthenticatedTenant, "Bearer a.b.c==": policy.UnauthenticatedTenant,
		"Basic a": policy.UnauthenticatedTenant, "xBearer a.b.c": policy.UnauthenticatedTenant,
	} {
		w.want(value, gatewayRequest(func(r *Request) { r.Headers = HeadersOf(map[string][]string{"authorization": {value}}) }), reason)
	}
}
