package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// byPath knows each principal as a sidecar of the workload that its path ends with.
type byPath struct{}

func (byPath) Lookup(p identity.Principal) (server.Subject, bool) {
	return server.Subject{Role: "sidecar", Cell: "a", Workload: p.Path()[strings.LastIndexByte(p.Path(), '/')+1:]}, true
}

func (byPath) Changed() <-chan struct{} { return nil }

// serveMembers serves m over real mTLS, and returns a function that joins as a member of a workload.
func serveMembers(t *testing.T, m *Members) func(workload, member string) (stream api.MemberService_ReportClient, welcome *api.Welcome) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	check(t, err)
	root, err := x509.ParseCertificate(der)
	check(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	issue := func(name string) tls.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"control"}, KeyUsage: x509.KeyUsageDigitalSignature,
			URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/cell/a/workload/" + name}},
		}, ca, &key.PublicKey, key)
		check(t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{issue("control")}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})))
	server.Register(ctx, g, server.Config{Cache: server.NewCache(), Directory: byPath{}, Members: m, Log: zap.NewNop()})
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		cancel()
		g.Stop()
		check(t, <-done)
	})
	return func(workload, member string) (api.MemberService_ReportClient, *api.Welcome) {
		t.Helper()
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{issue(workload)}, RootCAs: roots, ServerName: "control",
		})))
		check(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		stream, err := api.NewMemberServiceClient(conn).Report(t.Context())
		check(t, err)
		check(t, stream.Send(&api.MemberReport{Report: &api.MemberReport_Hello{Hello: &api.Hello{MemberId: member, Address: "127.0.0.1"}}}))
		message, err := stream.Recv()
		check(t, err)
		return stream, message.GetWelcome()
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// count sends a batch of usage and waits until it was taken, and with it all that was sent before.
func count(t *testing.T, stream api.MemberService_ReportClient, sequence int64, records ...*api.UsageRecord) {
	t.Helper()
	check(t, stream.Send(&api.MemberReport{Report: &api.MemberReport_Usage{Usage: &api.UsageBatch{Sequence: sequence, Records: records}}}))
	message, err := stream.Recv()
	check(t, err)
	if message.GetUsageAck().GetSequence() != sequence {
		t.Errorf("batch %d is answered %v", sequence, message)
	}
}

// TestExplain: each member whose ID begins as the decision's is asked, and nobody else's answer counts.
func TestExplain(t *testing.T) {
	m := newMembers(t)
	join := serveMembers(t, m)
	const id = "0123456789ab-1"
	maker, _ := join("front", "0123456789ab0000")
	namesake, _ := join("back", "0123456789abffff")
	impostor, _ := join("evil", "ffffffffffffffff")
	type result struct {
		decision policy.Decision
		err      error
	}
	results := make(chan result, 1)
	go func() {
		decision, err := m.Explain(t.Context(), id)
		results <- result{decision, err}
	}()
	for _, asked := range []api.MemberService_ReportClient{maker, namesake} {
		message, err := asked.Recv()
		check(t, err)
		if message.GetExplain().GetDecisionId() != id {
			t.Fatalf("a member is asked %v", message)
		}
	}
	say := func(stream api.MemberService_ReportClient, found bool, detail string) {
		check(t, stream.Send(&api.MemberReport{Report: &api.MemberReport_Explanation{Explanation: &api.Explanation{
			DecisionId: id, Found: found, Json: `{"id":"` + id + `","detail":"` + detail + `"}`,
		}}}))
	}
	say(impostor, true, "a lie")
	count(t, impostor, 1)
	say(namesake, false, "")
	count(t, namesake, 1)
	say(maker, true, "the truth")
	if got := <-results; got.err != nil || got.decision.Detail != "the truth" {
		t.Errorf("got %+v, %v", got.decision, got.err)
	}
	if _, err := m.Explain(t.Context(), "eeeeeeeeeeee-1"); err == nil {
		t.Error("a decision of a member that is not here is explained")
	}
}

// TestUsage: a member speaks for itself only, and is told which batch was counted last.
func TestUsage(t *testing.T) {
	m := newMembers(t)
	_, err := m.Writer.Apply(t.Context(), "test", []*tenantstore.Object{
		{Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: "acme"}, Tenant: &tenantstore.TenantSpec{Tier: "gold", Region: "us"}},
	}, tenantstore.ApplyOptions{})
	check(t, err)
	snapshot, err := m.Store.Snapshot(t.Context())
	check(t, err)
	uid := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: "acme"}].Metadata.UID
	join := serveMembers(t, m)
	front, welcome := join("front", memberA)
	if welcome.UsageSequence != 0 {
		t.Errorf("a new member is told that %d was counted", welcome.UsageSequence)
	}
	minute := timestamppb.New(time.Unix(0, 0))
	count(t, front, 7,
		&api.UsageRecord{Minute: minute, Tenant: "acme", TenantUid: uid, Workload: "front", Requests: 1},
		&api.UsageRecord{Minute: minute, Tenant: "acme", TenantUid: uid, Workload: "front -> workload/back", Requests: 2},
		&api.UsageRecord{Minute: minute, Tenant: "acme", TenantUid: uid, Workload: "back", Requests: 10},
		&api.UsageRecord{Minute: minute, Tenant: "acme", TenantUid: uid, Requests: 20},
		&api.UsageRecord{Minute: minute, Tenant: "acme", TenantUid: "of-another-acme", Workload: "front", Requests: 40},
		&api.UsageRecord{Minute: minute, Tenant: "nobody", TenantUid: uid, Workload: "front", Requests: 80},
	)
	var sum ledger.UsageRecord
	for _, r := range m.Usage.Sum("", time.Time{}, time.Now()) {
		sum.Requests += r.Requests
	}
	if sum.Requests != 3 {
		t.Errorf("%d requests are counted, want 3", sum.Requests)
	}
	if _, welcome := join("front", memberA); welcome.UsageSequence != 7 {
		t.Errorf("a member that comes back is told that %d was counted, want 7", welcome.UsageSequence)
	}
}
