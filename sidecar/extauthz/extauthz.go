// Package extauthz translates between Envoy's ext_authz protocol (envoy.service.auth.v3) and sidecar/decide. It holds
// no policy of its own.
//
// It imports sidecar/decide, policy, identity and go-control-plane.
package extauthz

import (
	"context"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/refusal"
)

// Server answers Envoy's checks.
type Server struct {
	auth.UnimplementedAuthorizationServer
	Decider *decide.Decider
}

// Check implements envoy.service.auth.v3.Authorization.
func (s *Server) Check(ctx context.Context, check *auth.CheckRequest) (*auth.CheckResponse, error) {
	if err := ctx.Err(); err != nil { // Envoy has given up, and refused: nobody is to be charged for it
		return nil, grpcstatus.FromContextError(err).Err()
	}
	answer := s.Decider.Decide(translate(check))
	if answer.Decision.Allowed {
		return permit(&answer), nil
	}
	return refuse(&answer, isGRPC(check)), nil
}

func translate(check *auth.CheckRequest) *decide.Request {
	attributes := check.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	extensions := attributes.GetContextExtensions()
	r := &decide.Request{
		Listener: extensions[meshname.ExtensionListener], Target: extensions[meshname.ExtensionTarget],
		ForwardAuthorization: extensions[meshname.ExtensionForwardAuthorization] == "true",
		Method:               http.GetMethod(), Path: http.GetPath(), Peer: attributes.GetSource().GetPrincipal(),
		Headers: make(map[string][]string, len(decide.Headers)),
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		if name := strings.ToLower(h.Key); decide.Headers[name] {
			r.Headers[name] = append(r.Headers[name], string(h.RawValue))
		}
	}
	if lease := r.Headers[propagation.HeaderLease]; len(lease) == 1 {
		r.Lease = lease[0]
	}
	for key, value := range attributes.GetMetadataContext().GetFilterMetadata()[meshname.MetadataJWT].GetFields() {
		if issuer, ok := strings.CutPrefix(key, meshname.MetadataJWTPayload("")); ok {
			if r.Tokens == nil {
				r.Tokens = map[string]map[string]any{}
			}
			r.Tokens[issuer] = value.GetStructValue().AsMap()
		} else if key == meshname.MetadataJWTFail {
			message, _ := value.GetStructValue().AsMap()["message"].(string)
			r.TokenFailure = message
		}
	}
	return r
}

func isGRPC(check *auth.CheckRequest) bool {
	for _, h := range check.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		if strings.EqualFold(h.Key, "content-type") {
			return strings.HasPrefix(string(h.RawValue), "application/grpc")
		}
	}
	return false
}

func permit(answer *decide.Answer) *auth.CheckResponse {
	ok := &auth.OkHttpResponse{}
	for _, name := range answer.Remove {
		// Envoy removes after it sets.
		if _, set := answer.Set[name]; !set {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	for name, value := range answer.Set {
		ok.Headers = append(ok.Headers, header(name, value))
	}
	return &auth.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}}
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
