package server

import (
	"context"
	"fmt"
	"slices"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// TestUrgentGoesFirst: what is urgent waits for one bounded response at most, however much is on its way, and counts as
// enforced once it is, whatever is to follow; but not while a sidecar has yet to take what there was when it came.
func TestUrgentGoesFirst(t *testing.T) {
	cache := NewCache()
	const many = 3 * maxAtOnce
	tenants := func(burst int64) (list []Resource) {
		for i := range many {
			list = append(list, tenantIn("all", fmt.Sprintf("t-%d", i), burst))
		}
		return list
	}
	check(t, cache.Apply(1, tenants(1), nil))
	connect := serve(t, cache, directory{"a": {Audiences: []string{"all"}}})
	c := connect(t, "a")
	c.send(&discovery.DeltaDiscoveryRequest{})
	first, nonce := c.receive()
	if len(first) != many {
		t.Fatalf("at first %d tenants come, want all", len(first))
	}
	check(t, cache.ApplyUrgent(2, []Resource{tenantIn("all", "t-7", 2)}, nil, true))
	if s := cache.Status(2); s.Done() || s.Published != 2 {
		t.Errorf("before the first answer: %+v", s)
	}
	ack := func(nonce string) { c.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce}) }
	ack(nonce)
	urgent, nonce := c.receive()
	if !slices.Equal(urgent, []string{"+t-7"}) {
		t.Errorf("then %d come, want t-7 alone", len(urgent))
	}
	ack(nonce)
	check(t, wait(t, cache, 2))

	check(t, cache.Apply(3, tenants(3), nil))
	check(t, cache.ApplyUrgent(4, nil, []Key{{meshname.TypeTenantPolicy, "all", "t-9"}}, true))
	bulk, nonce := c.receive()
	if len(bulk) != maxAtOnce {
		t.Errorf("%d of a bulk at once, want %d", len(bulk), maxAtOnce)
	}
	ack(nonce)
	urgent, nonce = c.receive()
	if !slices.Equal(urgent, []string{"-t-9"}) {
		t.Errorf("after a part of the bulk %d come, want the end of t-9 alone", len(urgent))
	}
	if cache.Status(4).Done() {
		t.Error("done before it is answered")
	}
	ack(nonce)
	check(t, wait(t, cache, 4))
	if cache.Status(3).Done() {
		t.Error("the bulk counts as enforced")
	}
	rest := map[string]bool{}
	for len(rest) < many-1-maxAtOnce {
		changes, nonce := c.receive()
		for _, change := range changes {
			rest[change] = true
		}
		ack(nonce)
	}
	check(t, wait(t, cache, 3))
	// A part of a revision that goes ahead does not make it published.
	check(t, cache.ApplyUrgent(5, []Resource{tenantIn("all", "t-1", 5)}, nil, false))
	if s := cache.Status(5); s.Done() || s.Published != 3 {
		t.Errorf("of a revision of which more is to come: %+v", s)
	}
}

func wait(t *testing.T, cache *Cache, revision int64) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), reachTime)
	defer cancel()
	status, err := cache.Wait(ctx, revision)
	if err == nil && (!status.Done() || status.At == nil) {
		t.Errorf("revision %d: %+v", revision, status)
	}
	return err
}
