// Package accesslog takes Envoy's access-log entries (envoy.service.accesslog.v3), one a request: each ends the
// request's lease and counts what it used.
//
// It imports sidecar/decide, identity and go-control-plane.
package accesslog

import (
	"errors"
	"io"

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
			s.Decider.End(ended(entry))
		}
	}
}

func ended(entry *datav3.HTTPAccessLogEntry) decide.Ended {
	common := entry.GetCommonProperties()
	return decide.Ended{
		Lease: entry.GetRequest().GetRequestHeaders()[propagation.HeaderLease],
		// A refusal by the check holds nothing, and has nothing to release; a check that failed may have admitted.
		Refused:       common.GetResponseFlags().GetUnauthorizedDetails() != nil && entry.GetResponse().GetResponseCodeDetails() == "ext_authz_denied",
		Status:        int(entry.GetResponse().GetResponseCode().GetValue()),
		BytesReceived: int64(entry.GetRequest().GetRequestBodyBytes() + entry.GetRequest().GetRequestHeadersBytes()),
		BytesSent:     int64(entry.GetResponse().GetResponseBodyBytes() + entry.GetResponse().GetResponseHeadersBytes()),
		Duration:      common.GetTimeToLastDownstreamTxByte().AsDuration(),
	}
}
