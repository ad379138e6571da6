package server

import (
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
)

const typeCluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

func (c *client) accept(typeURL string, changes ...string) (nonce string) {
	c.t.Helper()
	nonce = c.want(changes...)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: nonce})
	return nonce
}

func (c *client) refuse(changes ...string) {
	c.t.Helper()
	c.refuseLate("", "13 is odd", c.want(changes...))
}

func (c *client) refuseLate(typeURL, why, nonce string) {
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: nonce, ErrorDetail: &rpcstatus.Status{Message: why}})
}

func wantRefused(t *testing.T, cache *Cache, revision int64, names ...string) {
	t.Helper()
	s, err := cache.Wait(t.Context(), revision)
	check(t, err)
	if len(s.Members) != 1 || len(s.Members[0].Refused) != len(names) || s.Done() != (len(names) == 0) {
		t.Fatalf("revision %d: got %+v, want %v refused", revision, s, names)
	}
	for i, r := range s.Members[0].Refused {
		if r.Name != names[i] || r.Error == "" {
			t.Errorf("revision %d: got %+v, want %s refused", revision, r, names[i])
		}
	}
}

// TestOneBadResource: it keeps no other away, is sent no more as it is, and stays refused until another version of it
// is accepted.
func TestOneBadResource(t *testing.T) {
	cache := NewCache()
	connect := serve(t, cache, directory{"us": {Role: "sidecar", Audiences: []string{"us"}}})
	check(t, cache.Apply(1, []Resource{tenantIn("us", "acme", 1), tenantIn("us", "globex", 1), tenantIn("us", "initech", 1)}, nil))
	c := connect(t, "us")
	c.send(&discovery.DeltaDiscoveryRequest{})
	c.accept("", "+acme", "+globex", "+initech")
	wantRefused(t, cache, 1)

	check(t, cache.Apply(2, []Resource{tenantIn("us", "acme", 2), tenantIn("us", "globex", 2), tenantIn("us", "hooli", 2), tenantIn("us", "initech", 13)}, nil))
	c.refuse("+acme", "+globex", "+hooli", "+initech")
	c.accept("", "+acme", "+globex", "+initech", "-hooli") // as it was before
	c.accept("", "+acme", "+globex")
	c.refuse("+hooli", "+initech")
	c.accept("", "+initech", "-hooli")
	c.accept("", "+hooli")
	c.refuse("+initech")
	c.accept("", "+initech")
	wantRefused(t, cache, 2, "initech")
	if who := cache.Refused(2); !strings.Contains(who, `refused "initech" of `) || !strings.Contains(who, `at revision 2: 13 is odd`) || cache.Refused(3) != "" {
		t.Errorf("revision 2 was refused by %q, revision 3 by %q", who, cache.Refused(3))
	}

	check(t, cache.Apply(3, []Resource{tenantIn("us", "acme", 3), tenantIn("us", "initech", 13)}, nil))
	c.accept("", "+acme")
	wantRefused(t, cache, 3, "initech")
	check(t, cache.Apply(4, []Resource{tenantIn("us", "initech", 4)}, nil))
	c.accept("", "+initech")
	wantRefused(t, cache, 4)
	if who := cache.Refused(0); who != "" {
		t.Errorf("what was accepted is refused by %q", who)
	}

	check(t, cache.Apply(5, []Resource{tenantIn("us", "acme", 13)}, nil))
	c.refuse("+acme")
	c.accept("", "+acme")
	c.refuse("+acme")
	c.accept("", "+acme")
	wantRefused(t, cache, 5, "acme")
	check(t, cache.Apply(6, []Resource{tenantIn("us", "acme", 3)}, nil)) // what it has
	wantRefused(t, cache, 6)
}

// TestRefusedLate: a sidecar accepted what its Envoy refuses later, and says so twice.
func TestRefusedLate(t *testing.T) {
	cluster := func(name string, version int64) Resource {
		return Resource{Key{typeCluster, "us", name}, &api.TenantPolicy{Limits: &api.Limits{Burst: version}}}
	}
	cache := NewCache()
	connect := serve(t, cache, directory{"us": {Role: "sidecar", Audiences: []string{"us"}}})
	check(t, cache.Apply(1, []Resource{cluster("bad", 1), cluster("good", 1)}, nil))
	c := connect(t, "us")
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeCluster})
	nonce := c.accept(typeCluster, "+bad", "+good")
	wantRefused(t, cache, 1)
	c.refuseLate(typeCluster, "no such thing", nonce)
	c.refuseLate(typeCluster, "no such thing", nonce)
	c.accept(typeCluster, "-bad", "-good")
	nonce = c.accept(typeCluster, "+bad")
	c.accept(typeCluster, "+good")
	c.refuseLate(typeCluster, "no such thing", nonce)
	c.accept(typeCluster, "-bad")
	wantRefused(t, cache, 1, "bad")
	check(t, cache.Apply(2, []Resource{cluster("bad", 2)}, nil))
	c.accept(typeCluster, "+bad")
	wantRefused(t, cache, 2)
}
