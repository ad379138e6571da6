// Package accesslog takes Envoy's access-log entries (envoy.service.accesslog.v3), one a request: each ends the
// request's lease and counts what it used. A long stream's entries before its end renew its lease.
//
// It imports sidecar/decide, identity and go-control-plane.
package accesslog

import (
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

func lease(entry *datav3.HTTPAccessLogEntry) string {
	return entry.GetRequest().GetRequestHeaders()[propagation.HeaderLease]
}

func ended(entry *datav3.HTTPAccessLogEntry) decide.Ended {
	common, details := entry.GetCommonProperties(), entry.GetResponse().GetResponseCodeDetails()
	service, unanswered := inService(common)
	return decide.Ended{
		Lease: lease(entry), Service: service, Unanswered: unanswered, Overflow: common.GetResponseFlags().GetUpstreamOverflow(),
		// A refusal by the check holds nothing, and has nothing to release; a check that failed may have admitted.
		Refused:       common.GetResponseFlags().GetUnauthorizedDetails() != nil && details == "ext_authz_denied",
		Settled:       slices.ContainsFunc(settled, func(p string) bool { return strings.HasPrefix(details, p) }),
		Status:        int(entry.GetResponse().GetResponseCode().GetValue()),
		BytesReceived: int64(entry.GetRequest().GetRequestBodyBytes() + entry.GetRequest().GetRequestHeadersBytes()),
		BytesSent:     int64(entry.GetResponse().GetResponseBodyBytes() + entry.GetResponse().GetResponseHeadersBytes()),
		Duration:      common.GetTimeToLastDownstreamTxByte().AsDuration(),
	}
}
