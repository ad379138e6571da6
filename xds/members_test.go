package xds

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

const memberA = "0123456789abcdef0123456789abcdef"

func newMembers(t *testing.T) *Members {
	t.Helper()
	store := memstore.New()
	usage, err := ledger.OpenUsage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = usage.Close() })
	return NewMembers(t.Context(), MembersConfig{Store: store, Writer: tenantstore.NewWriter(store, time.Now), Usage: usage, Lease: time.Minute, ID: "here", Log: zap.NewNop()})
}

func gatewayPeer(t *testing.T, name, id, address string) *server.Peer {
	t.Helper()
	principal, err := identity.GatewayID("mesh.test", name)
	if err != nil {
		t.Fatal(err)
	}
	return &server.Peer{Principal: principal, Subject: server.Subject{Role: string(tenantstore.RoleGateway)}, Hello: &api.Hello{MemberId: id, Address: address}}
}

func TestJoined(t *testing.T) {
	m := newMembers(t)
	for name, test := range map[string]struct {
		peer *server.Peer
		want codes.Code
	}{
		"no ID":      {gatewayPeer(t, "edge", "", "127.0.0.1"), codes.InvalidArgument},
		"short ID":   {gatewayPeer(t, "edge", "0123", "127.0.0.1"), codes.InvalidArgument},
		"not hex":    {gatewayPeer(t, "edge", "../../0123456789abcdef", "127.0.0.1"), codes.InvalidArgument},
		"a name":     {gatewayPeer(t, "edge", memberA, "example.com"), codes.InvalidArgument},
		"no address": {gatewayPeer(t, "edge", memberA, ""), codes.InvalidArgument},
	} {
		if got := status.Code(m.Joined(t.Context(), test.peer)); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	edge := gatewayPeer(t, "edge", memberA, "127.0.0.1")
	for range 2 { // it may come back
		if err := m.Joined(t.Context(), edge); err != nil {
			t.Fatal(err)
		}
	}
	if got := status.Code(m.Joined(t.Context(), gatewayPeer(t, "other", memberA, "127.0.0.1"))); got != codes.PermissionDenied {
		t.Errorf("another identity under a known member's ID: %v", got)
	}
}

func TestPublishedKeyMustEndSoonAndBeWhole(t *testing.T) {
	m := newMembers(t)
	key, err := tenanttoken.NewSigningKey(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for name, publish := range map[string]*api.PublishKey{
		"a year":       {Kid: key.KID, PublicKey: key.Public(), NotAfter: timestamppb.New(time.Now().Add(365 * 24 * time.Hour))},
		"another's ID": {Kid: memberA, PublicKey: key.Public(), NotAfter: timestamppb.New(key.NotAfter)},
		"cut":          {Kid: key.KID, PublicKey: key.Public()[:31], NotAfter: timestamppb.New(key.NotAfter)},
	} {
		err := m.Reported(t.Context(), gatewayPeer(t, "edge", memberA, "127.0.0.1"), &api.MemberReport{Report: &api.MemberReport_PublishKey{PublishKey: publish}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSweep: endpoints of members that reported to a control plane that is gone stay for a lease's time, and no longer;
// those of members that came here, or to another that lives, stay.
func TestSweep(t *testing.T) {
	m := newMembers(t)
	apply := func(member, control string) {
		o := system(tenantstore.KindEndpoint, member, func(o *tenantstore.Object) {
			o.Endpoint = &tenantstore.EndpointSpec{Cell: "a", Workload: "w", Address: "127.0.0.1", Port: 1, Control: control}
		})
		if _, err := m.Writer.PutSystem(t.Context(), "test", []*tenantstore.Object{o}, nil); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (names []string) {
		snapshot, err := m.Store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for key := range snapshot.Objects {
			if key.Kind == tenantstore.KindEndpoint {
				names = append(names, key.Name)
			}
		}
		slices.Sort(names)
		return names
	}
	apply("one", "here")
	apply("two", "other")
	apply("three", "gone")
	missing := map[string]time.Time{}
	for range 2 {
		if err := m.sweep(t.Context(), []string{"here", "other"}, missing); err != nil {
			t.Fatal(err)
		}
	}
	if got := left(); len(got) != 3 {
		t.Errorf("within the lease's time %v are left", got)
	}
	missing["gone"] = time.Now().Add(-m.Lease)
	if err := m.sweep(t.Context(), []string{"here", "other"}, missing); err != nil {
		t.Fatal(err)
	}
	if got := left(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("after it %v are left", got)
	}
	m.removeEndpoint(t.Context(), "two") // its stream here ended, but it is at the other by now
	if got := left(); len(got) != 2 {
		t.Errorf("the endpoint of a member that went to another control plane was removed: %v", got)
	}
}

// TestFenceIsNotForgotten: whatever a fenced member still reports, it stays out.
func TestFenceIsNotForgotten(t *testing.T) {
	m := newMembers(t)
	edge := gatewayPeer(t, "edge", memberA, "127.0.0.1")
	if err := m.Joined(t.Context(), edge); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Writer.FenceMember(t.Context(), "operator", memberA); err != nil {
		t.Fatal(err)
	}
	if err := m.Reported(t.Context(), edge, &api.MemberReport{Report: &api.MemberReport_Leave{Leave: &api.Leave{}}}); err != nil {
		t.Fatal(err)
	}
	if got := status.Code(m.Joined(t.Context(), edge)); got != codes.PermissionDenied {
		t.Errorf("a fenced member that left may come back: %v", got)
	}
}
