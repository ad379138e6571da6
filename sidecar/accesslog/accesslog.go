// Package accesslog takes Envoy's access-log entries (envoy.service.accesslog.v3), one a request: each ends the
// request's lease and counts what it used. A long stream's entries before its end renew its lease.
//
// It imports sidecar/decide, identity and go-control-plane.
package accesslog

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Server takes entries.
type Server struct {
	logv3.UnimplementedAccessLogServiceServer
	Decider *decide.Decider
}

// StreamAccessLogs implements envoy.service.accesslog.v3.AccessLogService.
func (s *Server) StreamAccessLogs(stream logv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, entry := range message.GetHttpLogs().GetLogEntry() {
			if entry.GetCommonProperties().GetAccessLogType() == datav3.AccessLogType_DownstreamPeriodic {
				s.Decider.Renew(lease(entry))
				continue
			}
			s.Decider.End(ended(entry))
		}
	}
}

// settled are the beginnings of what Envoy says of a response when its check is behind it, or when there was none.
var settled = []string{"via_upstream", "route_not_found", "direct_response", "upstream_", "response_timeout", "no_healthy_upstream"}

const headerGRPCStatus = "grpc-status"

// aborted says that whoever asked went away, or that the check did not answer: what was asked has not been.
func aborted(f *datav3.ResponseFlags) bool {
	return f.GetUnauthorizedDetails() != nil || f.GetDownstreamConnectionTermination() || f.GetDownstreamRemoteReset() || f.GetDownstreamProtocolError()
}

// broken says that it was the other end that failed: it could not be reached, reset the stream, or took too long. An
// upstream overflow is none: it says that this Envoy's own bound is reached.
func broken(f *datav3.ResponseFlags) bool {
	return f.GetUpstreamRequestTimeout() || f.GetUpstreamMaxStreamDurationReached() || f.GetLocalReset() || f.GetUpstreamRemoteReset() ||
		f.GetUpstreamConnectionFailure() || f.GetUpstreamConnectionTermination() || f.GetUpstreamProtocolError() || f.GetNoHealthyUpstream() ||
		f.GetDnsResolutionFailure()
}

func lease(entry *datav3.HTTPAccessLogEntry) string {
	return entry.GetRequest().GetRequestHeaders()[propagation.HeaderLease]
}

func ended(entry *datav3.HTTPAccessLogEntry) decide.Ended {
	common, response, details := entry.GetCommonProperties(), entry.GetResponse(), entry.GetResponse().GetResponseCodeDetails()
	service, unanswered := inService(common)
	return decide.Ended{
		Lease: lease(entry), Service: service, Unanswered: unanswered, Overflow: common.GetResponseFlags().GetUpstreamOverflow(),
		// A refusal by the check holds nothing, and has nothing to release; a check that failed may have admitted.
		Refused:       common.GetResponseFlags().GetUnauthorizedDetails() != nil && details == "ext_authz_denied",
		Settled:       slices.ContainsFunc(settled, func(p string) bool { return strings.HasPrefix(details, p) }),
		Status:        int(response.GetResponseCode().GetValue()),
		GRPCStatus:    cmp.Or(response.GetResponseTrailers()[headerGRPCStatus], response.GetResponseHeaders()[headerGRPCStatus]),
		Reason:        response.GetResponseHeaders()[propagation.HeaderReason],
		Aborted:       aborted(common.GetResponseFlags()),
		Broken:        broken(common.GetResponseFlags()),
		BytesReceived: int64(entry.GetRequest().GetRequestBodyBytes() + entry.GetRequest().GetRequestHeadersBytes()),
		BytesSent:     int64(response.GetResponseBodyBytes() + response.GetResponseHeadersBytes()),
		Duration:      common.GetTimeToLastDownstreamTxByte().AsDuration(),
	}
}
