package accesslog

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/wire"
)

// TestEntries sends what Envoy sends of a socket that is open for an hour: each entry before the last renews it.
func TestEntries(t *testing.T) {
	now := time.Unix(1e9, 0)
	d := decide.New(decide.Config{
		Limiter: limit.New(limit.Options{}), Attribution: attribution.New(attribution.Options{}), InFlight: inflight.New(inflight.Options{}), Meter: ledger.NewMeter(),
		Now: func() time.Time { return now },
	})
	d.Limiter.Admit(now, &limit.Request{UID: "u", ChargeTenant: true, Limits: policy.Limits{Concurrency: 1}, Lease: "l", LeaseTTL: meshname.LeaseTime})
	d.InFlight.Begin("l", inflight.Request{UID: "u", Epoch: 1, Since: now, Usage: ledger.UsageRecord{Minute: now, Requests: 1}})
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(wire.ServerOption())
	Register(g, d)
	go func() { _ = g.Serve(listener) }()
	defer g.Stop()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(kind datav3.AccessLogType) {
		t.Helper()
		stream, err := logv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		entry := &datav3.HTTPAccessLogEntry{
			CommonProperties: &datav3.AccessLogCommon{AccessLogType: kind},
			Request:          &datav3.HTTPRequestProperties{RequestHeaders: map[string]string{propagation.HeaderLease: "l"}},
		}
		if err := stream.Send(&logv3.StreamAccessLogsMessage{LogEntries: &logv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &logv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*datav3.HTTPAccessLogEntry{entry}},
		}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.CloseAndRecv(); err == nil { // its handler returned: the entry was taken
			t.Fatal("an answer came where none is")
		}
	}
	for end := now.Add(time.Hour); now.Before(end); now = now.Add(meshname.RenewalTime) {
		send(datav3.AccessLogType_DownstreamPeriodic)
	}
	if older, _ := d.InFlight.Older(now, "u", 2); d.Limiter.Leases(now) != 1 || older != 1 || len(d.Meter.Take()) != 0 {
		t.Errorf("after an hour: %d leases, %d open", d.Limiter.Leases(now), d.InFlight.Open())
	}
	send(datav3.AccessLogType_DownstreamEnd)
	if d.Limiter.Leases(now) != 0 || d.InFlight.Open() != 0 || len(d.Meter.Take()) != 1 {
		t.Errorf("after its end: %d leases, %d open", d.Limiter.Leases(now), d.InFlight.Open())
	}
}
