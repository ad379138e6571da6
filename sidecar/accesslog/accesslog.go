// Package accesslog takes Envoy's access-log entries (envoy.service.accesslog.v3), one a request: each ends the
// request's lease and counts what it used. A long stream's entries before its end renew its lease.
//
// Entries come with every request, so they are read by sidecar/wire.
//
// It imports sidecar/decide, sidecar/wire, identity and go-control-plane.
package accesslog

import (
	"errors"
	"io"

	logv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"

	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Register makes a gRPC server, which must have [wire.ServerOption], take Envoy's entries.
func Register(server grpc.ServiceRegistrar, decider *decide.Decider) {
	service := logv3.AccessLogService_ServiceDesc
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: service.Streams[0].StreamName, ClientStreams: true, Handler: take}},
	}, decider)
}

// take takes the entries of one stream, until it ends.
func take(decider any, stream grpc.ServerStream) error {
	d, received := decider.(*decide.Decider), message{}
	for {
		err := stream.RecvMsg(&received)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range received.entries {
			if e := &received.entries[i]; e.kind == downstreamPeriodic {
				d.Renew(e.lease)
			} else {
				d.End(e.ended())
			}
		}
	}
}
