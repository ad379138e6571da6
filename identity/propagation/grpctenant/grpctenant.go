// Package grpctenant answers HOW THE CONTEXT TRAVELS BY GRPC: interceptors, unary and streaming, for servers and clients of services that opt
// in. A server's lets calls in whose tenant context is verified; a client's sends the context on of the request that a call is made for.
//
// It imports identity/propagation and grpc.
package grpctenant

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
)

func verified(ctx context.Context, v *propagation.Verifier) (context.Context, error) {
	ctx, err := v.Verify(ctx, metadata.ValueFromIncomingContext(ctx, propagation.HeaderTxnToken))
	switch {
	case err == nil:
		return ctx, nil
	case errors.Is(err, propagation.ErrUnknownKeys):
		return nil, status.Error(codes.Unavailable, err.Error())
	default:
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
}

// UnaryServer lets calls in whose tenant is proven, with it in their context ([propagation.From]): PERMISSION_DENIED for others, UNAVAILABLE while
// the mesh's keys are not known.
func UnaryServer(v *propagation.Verifier) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := verified(ctx, v)
		if err != nil {
			return nil, err
		}
		return handler(ctx, request)
	}
}

// StreamServer does so for streams.
func StreamServer(v *propagation.Verifier) grpc.StreamServerInterceptor {
	return func(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := verified(stream.Context(), v)
		if err != nil {
			return err
		}
		return handler(service, serverStream{stream, ctx})
	}
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s serverStream) Context() context.Context { return s.ctx }

// outgoing replaces whatever context was put there.
func outgoing(ctx context.Context, conn *grpc.ClientConn, method string) (context.Context, error) {
	signed, err := propagation.Outbound(ctx, conn.Target()+method)
	if err != nil {
		return nil, err
	}
	sent, _ := metadata.FromOutgoingContext(ctx)
	sent = sent.Copy()
	sent.Set(propagation.HeaderTxnToken, signed)
	return metadata.NewOutgoingContext(ctx, sent), nil
}

// UnaryClient sends calls for the tenant of the request that their context comes from: [propagation.ErrTenantless] for none.
func UnaryClient() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoker grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, err := outgoing(ctx, conn, method)
		if err != nil {
			return err
		}
		return invoker(ctx, method, request, reply, conn, options...)
	}
}

// StreamClient does so for streams.
func StreamClient() grpc.StreamClientInterceptor {
	return func(ctx context.Context, description *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, err := outgoing(ctx, conn, method)
		if err != nil {
			return nil, err
		}
		return streamer(ctx, description, conn, method, options...)
	}
}
