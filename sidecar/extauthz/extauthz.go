// Package extauthz translates between Envoy's ext_authz protocol (envoy.service.auth.v3) and sidecar/decide. It holds
// no policy of its own.
//
// Checks come with every request, so their messages are read and written by sidecar/wire: of what Envoy sends the
// decision looks at a tenth.
//
// It imports sidecar/decide, sidecar/refusal, sidecar/wire, identity and go-control-plane.
package extauthz

import (
	"context"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/refusal"
)

// Decider decides, and is told of the points at which nobody waits for the answer any more.
type Decider interface {
	Decide(*decide.Request) decide.Answer
	Abandoned(point string, known bool)
}

// Register makes a gRPC server, which must have [wire.ServerOption], answer Envoy's checks.
func Register(server grpc.ServiceRegistrar, decider Decider) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: auth.Authorization_ServiceDesc.ServiceName, HandlerType: (*Decider)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Check", Handler: handle}},
	}, decider)
}

func handle(decider any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	c := checks.Get().(*check)
	if err := receive(c); err != nil {
		return nil, err
	}
	d := decider.(Decider)
	if err := ctx.Err(); err != nil { // Envoy has given up, and refused: nobody is to be charged for it
		d.Abandoned(c.request.Listener, false)
		return nil, grpcstatus.FromContextError(err).Err()
	}
	c.answer = d.Decide(&c.request)
	if c.answer.HungUp || ctx.Err() != nil {
		d.Abandoned(c.request.Listener, c.answer.HungUp)
	}
	return c, nil
}

// check is one check: a CheckRequest when it is read, a CheckResponse when it is written. Then it is used again: nothing
// that gRPC calls after it has encoded an answer, such as a stats handler, may look at it.
type check struct {
	request decide.Request
	answer  decide.Answer
	tokens  [2]decide.Token // of request: more than one is refused
}

// denial is the shortest CheckResponse that refuses: its status is PERMISSION_DENIED.
var denial = []byte{0x0a, 2, 0x08, byte(codes.PermissionDenied)}

var checks = sync.Pool{New: func() any { return &check{} }}

// EncodeWire implements [wire.Encoder].
func (c *check) EncodeWire(buffer []byte) []byte {
	if c.answer.Decision.Allowed {
		buffer = appendPermit(buffer, &c.answer)
	} else {
		kind, _ := c.request.Headers.Get("content-type")
		refused, err := proto.MarshalOptions{}.MarshalAppend(buffer, refuse(&c.answer, strings.HasPrefix(kind, "application/grpc")))
		if err != nil { // no text of ours can, but an answer that is empty would be one that allows
			refused = append(buffer, denial...)
		}
		buffer = refused
	}
	c.request, c.answer, c.tokens = decide.Request{}, decide.Answer{}, [2]decide.Token{}
	checks.Put(c)
	return buffer
}

func header(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header: &core.HeaderValue{Key: name, Value: value}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func refuse(answer *decide.Answer, grpc bool) *auth.CheckResponse {
	r := refusal.Of(answer, grpc)
	denied := &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)}, Body: r.Body}
	for _, h := range r.Headers {
		denied.Headers = append(denied.Headers, header(h.Name, h.Value))
	}
	return &auth.CheckResponse{Status: &status.Status{Code: int32(r.Code)}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: denied}}
}
