package accesslog

import (
	"testing"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
)

func encoded(t testing.TB, entries ...*datav3.HTTPAccessLogEntry) []byte {
	t.Helper()
	text, err := proto.Marshal(&logv3.StreamAccessLogsMessage{
		Identifier: &logv3.StreamAccessLogsMessage_Identifier{LogName: "x"},
		LogEntries: &logv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &logv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// decoded writes an entry by the generated code, and reads it as Envoy's are read.
func decoded(t testing.TB, written *datav3.HTTPAccessLogEntry) *entry {
	t.Helper()
	var m message
	if err := m.DecodeWire(string(encoded(t, written))); err != nil {
		t.Fatal(err)
	}
	if len(m.entries) != 1 {
		t.Fatalf("%d entries were read", len(m.entries))
	}
	return &m.entries[0]
}

// TestRead: each field is where the generated code has it.
func TestRead(t *testing.T) {
	e := decoded(t, whole())
	want := entry{
		kind: downstreamPeriodic, flags: 1<<4 | unauthorized, lease: "l", details: "via_upstream", status: 201, grpc: "14", reason: "overloaded", received: 300, sent: 70,
		duration: elapsed{true, 4 * time.Second}, lastTx: elapsed{true, time.Second}, firstRx: elapsed{true, 2*time.Second + 5}, delivered: elapsed{true, 3 * time.Second},
	}
	if *e != want {
		t.Errorf("read %+v, want %+v", *e, want)
	}
	flags := (&datav3.ResponseFlags{}).ProtoReflect().Descriptor().Fields()
	for name, bits := range map[string]flagsNamed{
		"aborted": {aborted, []string{"unauthorized_details", "downstream_connection_termination", "downstream_protocol_error", "downstream_remote_reset"}},
		"broken": {broken, []string{
			"no_healthy_upstream", "upstream_request_timeout", "local_reset", "upstream_remote_reset", "upstream_connection_failure", "upstream_connection_termination",
			"upstream_max_stream_duration_reached", "upstream_protocol_error", "dns_resolution_failure",
		}},
	} {
		var got flagsNamed
		for _, field := range bits.names {
			got.bits |= 1 << flags.ByName(protoreflect.Name(field)).Number()
		}
		if got.bits != bits.bits {
			t.Errorf("%s is %b, and its fields are %b", name, bits.bits, got.bits)
		}
	}
	var m message
	if err := m.DecodeWire(string(encoded(t, whole(), &datav3.HTTPAccessLogEntry{}))); err != nil || len(m.entries) != 2 || m.entries[1] != (entry{}) {
		t.Errorf("two entries: %+v, %v", m.entries, err)
	}
	if err := m.DecodeWire(string(encoded(t))); err != nil || len(m.entries) != 0 {
		t.Errorf("none: %+v, %v", m.entries, err)
	}
}

type flagsNamed struct {
	bits  flags
	names []string
}

func whole() *datav3.HTTPAccessLogEntry {
	return &datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			AccessLogType: datav3.AccessLogType_DownstreamPeriodic, SampleRate: 1, UpstreamCluster: "c", Duration: durationpb.New(4 * time.Second),
			TimeToLastUpstreamTxByte: durationpb.New(time.Second), TimeToFirstUpstreamRxByte: durationpb.New(2*time.Second + 5), TimeToLastDownstreamTxByte: durationpb.New(3 * time.Second),
			ResponseFlags: &datav3.ResponseFlags{LocalReset: true, UnauthorizedDetails: &datav3.ResponseFlags_Unauthorized{}},
		},
		Request: &datav3.HTTPRequestProperties{
			Path: "/x", RequestHeadersBytes: 100, RequestBodyBytes: 200, RequestHeaders: map[string]string{"a": "b", propagation.HeaderLease: "l"},
		},
		Response: &datav3.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(201), ResponseHeadersBytes: 30, ResponseBodyBytes: 40, ResponseCodeDetails: "via_upstream",
			ResponseHeaders:  map[string]string{propagation.HeaderReason: "overloaded", "grpc-status": "0"},
			ResponseTrailers: map[string]string{"grpc-status": "14", propagation.HeaderReason: "not looked at"},
		},
	}
}

// FuzzRead: what the generated code reads and writes again is read alike, and nothing makes it panic.
func FuzzRead(f *testing.F) {
	f.Add(encoded(f, whole(), whole()))
	f.Add(protowire.AppendTag(nil, 2, protowire.BytesType))
	f.Fuzz(func(t *testing.T, text []byte) {
		var m message
		err := m.DecodeWire(string(text))
		var generated logv3.StreamAccessLogsMessage
		if proto.Unmarshal(text, &generated) != nil {
			return
		}
		if err != nil {
			t.Fatalf("the generated code reads it, and this does not: %v", err)
		}
		entries := generated.GetHttpLogs().GetLogEntry()
		if err := m.DecodeWire(string(encoded(t, entries...))); err != nil || len(m.entries) != len(entries) {
			t.Fatalf("%d of %d entries were read: %v", len(m.entries), len(entries), err)
		}
		for i, want := range entries {
			e, request, response := &m.entries[i], want.GetRequest(), want.GetResponse()
			if e.lease != request.GetRequestHeaders()[propagation.HeaderLease] || e.details != response.GetResponseCodeDetails() ||
				e.status != int(response.GetResponseCode().GetValue()) || e.reason != response.GetResponseHeaders()[propagation.HeaderReason] ||
				e.received != request.GetRequestBodyBytes()+request.GetRequestHeadersBytes() || e.sent != response.GetResponseBodyBytes()+response.GetResponseHeadersBytes() ||
				e.kind != int(want.GetCommonProperties().GetAccessLogType()) || e.lastTx.known != (want.GetCommonProperties().GetTimeToLastUpstreamTxByte() != nil) {
				t.Errorf("read %+v, want %v", e, want)
			}
		}
	})
}
