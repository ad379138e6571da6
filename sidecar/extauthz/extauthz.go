// Package extauthz translates between Envoy's ext_authz protocol (envoy.service.auth.v3) and sidecar/decide. It holds
// no policy of its own.
//
// It imports sidecar/decide, policy, identity and go-control-plane.
package extauthz

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Server answers Envoy's checks.
type Server struct {
	auth.UnimplementedAuthorizationServer
	Decider *decide.Decider
}

// Check implements envoy.service.auth.v3.Authorization.
func (s *Server) Check(_ context.Context, check *auth.CheckRequest) (*auth.CheckResponse, error) {
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

// problem is an RFC 9457 problem details object.
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance"`
	Reason   string `json:"reason"`
	Advice   string `json:"advice"`
}

func refuse(answer *decide.Answer, grpc bool) *auth.CheckResponse {
	d := &answer.Decision
	denied := &auth.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(d.Reason.Status())},
		Headers: []*core.HeaderValueOption{
			header(propagation.HeaderReason, d.Reason.String()),
			header(propagation.HeaderDecision, d.ID),
		},
	}
	if d.Reason == policy.UnauthenticatedTenant {
		denied.Headers = append(denied.Headers, header("www-authenticate", "Bearer")) // RFC 6750, section 3
	}
	if d.RetryAfter > 0 {
		wait := jittered(d.RetryAfter)
		seconds := int64((wait + time.Second - 1) / time.Second)
		denied.Headers = append(denied.Headers, header(propagation.HeaderRetryAfter, strconv.FormatInt(seconds, 10)))
		if grpc {
			denied.Headers = append(denied.Headers, header(propagation.HeaderGRPCPushback, strconv.FormatInt(wait.Milliseconds(), 10)))
		}
	}
	if answer.Limited && answer.Level.Exceeded {
		denied.Headers = append(denied.Headers, limitHeaders(&answer.Level, d.RetryAfter)...)
	}
	if !grpc {
		// The detail stays inside: it may name what the caller must not know. The ID leads to it.
		body, err := json.Marshal(problem{
			Type: "https://tenantmesh.dev/reasons#" + d.Reason.String(), Title: d.Reason.Title(), Status: d.Reason.Status(),
			Instance: "urn:tenantmesh:decision:" + d.ID, Reason: d.Reason.String(), Advice: d.Reason.Advice(),
		})
		if err == nil {
			denied.Body = string(body)
			denied.Headers = append(denied.Headers, header("content-type", "application/problem+json"))
		}
	}
	return &auth.CheckResponse{Status: &status.Status{Code: int32(grpcCode(d.Reason))}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: denied}}
}

// jittered adds up to a fifth, so that those who were refused together do not come back together.
func jittered(wait time.Duration) time.Duration { return wait + rand.N(wait/5+1) }

// limitHeaders are those of the IETF draft "RateLimit header fields for HTTP".
func limitHeaders(level *limit.Level, retry time.Duration) []*core.HeaderValueOption {
	name := strconv.Quote(strings.ReplaceAll(level.Kind.String(), " ", "-"))
	policyValue := fmt.Sprintf("%s;q=%d", name, int64(level.Of))
	if level.Window > 0 {
		policyValue += fmt.Sprintf(";w=%d", max(1, int64((level.Window+time.Second-1)/time.Second)))
	}
	return []*core.HeaderValueOption{
		header(propagation.HeaderRateLimitPolicy, policyValue),
		header(propagation.HeaderRateLimit, fmt.Sprintf("%s;r=%d;t=%d", name, int64(level.Remaining), int64((retry+time.Second-1)/time.Second))),
	}
}

func grpcCode(reason policy.Reason) codes.Code {
	switch reason.Status() {
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 429:
		return codes.ResourceExhausted
	default:
		return codes.Unavailable
	}
}
