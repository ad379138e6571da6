package xds

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

const memberA = "0123456789abcdef0123456789abcdef"

func newMembers(t *testing.T) *Members {
	t.Helper()
	store := memstore.New()
	m, err := NewMembers(t.Context(), MembersConfig{Store: store, Writer: tenantstore.NewWriter(store, time.Now), Lease: time.Minute, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	return m
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
