package policysync

import (
	"path/filepath"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

func pushed(t *testing.T, typeURL, name string, message proto.Message) *discovery.DeltaDiscoveryResponse {
	t.Helper()
	body, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, SystemVersionInfo: "7", Resources: []*discovery.Resource{
		{Name: name, Version: "1", Resource: &anypb.Any{TypeUrl: typeURL, Value: body}},
	}}
}

// TestRevokedIsSaved: what takes something from somebody is on the disk at once; what gives waits for more.
func TestRevokedIsSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	state, err := Load(path, "me")
	if err != nil {
		t.Fatal(err)
	}
	saved := 0
	c, err := New(Config{Sets: &policyset.Holder{}, Path: path, Saved: func(*policyset.Set) { saved++ }, Log: zap.NewNop()}, state)
	if err != nil {
		t.Fatal(err)
	}
	tenant := func(phase string) *api.TenantPolicy {
		return &api.TenantPolicy{Tenant: "acme", Uid: "u", Phase: phase, Placement: &api.Placement{State: "ACTIVE", Cell: "us-1", Epoch: 1}}
	}
	policy := &api.AccessPolicy{Name: "p", Effect: "Forbid", Principals: []string{"spiffe://mesh.example/**"}, Targets: []*api.Target{{Workload: "*"}}}
	for _, test := range []struct {
		name     string
		response *discovery.DeltaDiscoveryResponse
		revokes  bool
	}{
		{"a tenant", pushed(t, meshname.TypeTenantPolicy, "acme", tenant("Active")), false},
		{"a tenant that is suspended", pushed(t, meshname.TypeTenantPolicy, "acme", tenant("Suspended")), true},
		{"a policy", pushed(t, meshname.TypeAccessPolicy, "p", policy), true},
		{"a policy that goes", &discovery.DeltaDiscoveryResponse{TypeUrl: meshname.TypeAccessPolicy, SystemVersionInfo: "7", RemovedResources: []string{"p"}}, true},
		{"a key that goes", &discovery.DeltaDiscoveryResponse{TypeUrl: meshname.TypeSignerKey, SystemVersionInfo: "7", RemovedResources: []string{"k"}}, true},
	} {
		if _, _, err := c.apply(test.response); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got := c.revokes(test.response); got != test.revokes {
			t.Errorf("%s revokes: %v", test.name, got)
		}
	}
	c.save()
	again, err := Load(path, "me")
	if err != nil || saved != 1 || again.Revision != 7 || len(again.Resources[meshname.TypeTenantPolicy]) != 1 || len(again.Resources[meshname.TypeAccessPolicy]) != 0 {
		t.Errorf("saved %d times: %+v, %v", saved, again, err)
	}
	c.Path = filepath.Join(path, "no folder", "state.json")
	if c.save(); !c.unsaved || saved != 1 {
		t.Error("a state that could not be written counts as saved")
	}
}

// TestPulseCounts: a pulse makes the state no younger while the stream is down.
func TestPulseCounts(t *testing.T) {
	now := time.Now()
	c := &Client{Config: Config{Sets: &policyset.Holder{}, Log: zap.NewNop()}}
	c.Sets.Heard(now.Add(-time.Hour))
	if c.Pulse(now); c.Sets.Age(now) != time.Hour {
		t.Errorf("without a stream the state is %v old", c.Sets.Age(now))
	}
	c.following.Store(true)
	if c.Pulse(now); c.Sets.Age(now) != 0 {
		t.Errorf("with a stream it is %v old", c.Sets.Age(now))
	}
}
