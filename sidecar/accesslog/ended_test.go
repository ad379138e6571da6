package accesslog

import (
	"testing"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// TestEnded: what Envoy says of a call's end, and what is made of it.
func TestEnded(t *testing.T) {
	type entry struct {
		flags    *datav3.ResponseFlags
		details  string
		status   uint32
		headers  map[string]string
		trailers map[string]string
	}
	for name, test := range map[string]struct {
		entry entry
		want  decide.Ended
	}{
		"an answer":         {entry{status: 200, details: "via_upstream"}, decide.Ended{Settled: true, Status: 200}},
		"a gRPC answer":     {entry{status: 200, trailers: map[string]string{"grpc-status": "14"}}, decide.Ended{Status: 200, GRPCStatus: "14"}},
		"without a message": {entry{status: 200, headers: map[string]string{"grpc-status": "13"}}, decide.Ended{Status: 200, GRPCStatus: "13"}},
		"a refusal by name": {entry{status: 503, headers: map[string]string{propagation.HeaderReason: "overloaded"}}, decide.Ended{Status: 503, Reason: "overloaded"}},
		"a reset":           {entry{status: 503, flags: &datav3.ResponseFlags{UpstreamConnectionTermination: true}}, decide.Ended{Status: 503, Broken: true}},
		"a timeout":         {entry{status: 504, flags: &datav3.ResponseFlags{UpstreamRequestTimeout: true}, details: "response_timeout"}, decide.Ended{Settled: true, Status: 504, Broken: true}},
		"no room":           {entry{status: 503, flags: &datav3.ResponseFlags{UpstreamOverflow: true}}, decide.Ended{Status: 503, Overflow: true}},
		"who asked is gone": {entry{flags: &datav3.ResponseFlags{DownstreamConnectionTermination: true}}, decide.Ended{Aborted: true}},
		"reset by who asked": {
			entry{flags: &datav3.ResponseFlags{DownstreamRemoteReset: true, UpstreamRemoteReset: true}}, decide.Ended{Aborted: true, Broken: true},
		},
		"refused":          {entry{status: 403, flags: denied, details: "ext_authz_denied"}, decide.Ended{Refused: true, Status: 403, Aborted: true}},
		"a check too slow": {entry{status: 503, flags: denied, details: "ext_authz_error"}, decide.Ended{Status: 503, Aborted: true}},
	} {
		got := decoded(t, &datav3.HTTPAccessLogEntry{
			CommonProperties: &datav3.AccessLogCommon{ResponseFlags: test.entry.flags},
			Response: &datav3.HTTPResponseProperties{
				ResponseCode: wrapperspb.UInt32(test.entry.status), ResponseCodeDetails: test.entry.details,
				ResponseHeaders: test.entry.headers, ResponseTrailers: test.entry.trailers,
			},
		})
		if got := got.ended(); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

var denied = &datav3.ResponseFlags{UnauthorizedDetails: &datav3.ResponseFlags_Unauthorized{}}
