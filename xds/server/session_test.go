package server

import (
	"sync"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
)

// changing is a directory that changes.
type changing struct {
	mu      sync.Mutex
	now     directory
	changed chan struct{}
}

func (c *changing) Lookup(principal identity.Principal) (Subject, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Lookup(principal)
}

func (c *changing) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *changing) become(d directory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = d
	close(c.changed)
	c.changed = make(chan struct{})
}

// TestNoLongerEntitled: a stream ends when its principal is not any more what it was when the stream was opened, and
// one that is something else gets, when it comes back, what is for that.
func TestNoLongerEntitled(t *testing.T) {
	us, eu := Subject{Role: "sidecar", Cell: "us", Audiences: []string{"us"}}, Subject{Role: "sidecar", Cell: "eu", Audiences: []string{"eu"}}
	d := &changing{now: directory{"stays": us, "moves": us, "goes": us}, changed: make(chan struct{})}
	cache := NewCache()
	connect := serve(t, cache, d)
	check(t, cache.Apply(1, []Resource{tenantIn("us", "acme", 1), tenantIn("eu", "initech", 1)}, nil))
	clients := map[string]*client{}
	reports := map[string]api.MemberService_ReportClient{}
	for name := range d.now {
		c := connect(t, name)
		clients[name] = c
		c.send(&discovery.DeltaDiscoveryRequest{})
		c.accept("", "+acme")
		report, err := api.NewMemberServiceClient(c.conn).Report(t.Context())
		check(t, err)
		check(t, report.Send(&api.MemberReport{Report: &api.MemberReport_Hello{Hello: &api.Hello{MemberId: name}}}))
		_, err = report.Recv()
		check(t, err)
		reports[name] = report
	}
	d.become(directory{"stays": us, "moves": eu})
	for name, want := range map[string]codes.Code{"moves": codes.Unavailable, "goes": codes.PermissionDenied} {
		if response, err := clients[name].stream.Recv(); status.Code(err) != want {
			t.Errorf("%s: ADS goes on with %v, %v; want %v", name, response, err, want)
		}
		if message, err := reports[name].Recv(); status.Code(err) != want {
			t.Errorf("%s: its report goes on with %v, %v; want %v", name, message, err, want)
		}
	}
	check(t, cache.Apply(2, []Resource{tenantIn("us", "acme", 2)}, nil))
	clients["stays"].want("+acme")
	again := connect(t, "moves")
	again.send(&discovery.DeltaDiscoveryRequest{})
	again.want("+initech")
}
