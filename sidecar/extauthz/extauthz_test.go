package extauthz

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// generated reads a check as the generated code does: slow, and plain to see.
func generated(message *auth.CheckRequest) decide.Request {
	attributes := message.GetAttributes()
	http, extensions := attributes.GetRequest().GetHttp(), attributes.GetContextExtensions()
	r := decide.Request{
		Listener: extensions[meshname.ExtensionListener], Target: extensions[meshname.ExtensionTarget],
		ForwardAuthorization: extensions[meshname.ExtensionForwardAuthorization] == "true",
		Method:               http.GetMethod(), Path: http.GetPath(), Peer: attributes.GetSource().GetPrincipal(),
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		r.Headers.Add(strings.ToLower(h.Key), string(h.RawValue))
	}
	if lease, n := r.Headers.Get("x-tenantmesh-lease"); n == 1 {
		r.Lease = lease
	}
	fields := attributes.GetMetadataContext().GetFilterMetadata()[meshname.MetadataJWT].GetFields()
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if issuer, ok := strings.CutPrefix(key, "issuer/"); ok {
			r.Tokens = append(r.Tokens, decide.Token{Issuer: issuer, Claims: payload{fields[key].GetStructValue()}})
		} else if key == meshname.MetadataJWTFail {
			r.TokenFailure = fields[key].GetStructValue().GetFields()["message"].GetStringValue()
		}
	}
	return r
}

type payload struct{ *structpb.Struct }

func (p payload) Text(claim string) string { return p.GetFields()[claim].GetStringValue() }

// same compares what was read by both ways.
func same(t *testing.T, message *auth.CheckRequest, encoded []byte) {
	t.Helper()
	c := &check{}
	if err := c.DecodeWire(string(encoded)); err != nil {
		t.Fatalf("the generated code reads it, and this does not: %v", err)
	}
	got, want := &c.request, generated(message)
	slices.SortFunc(got.Tokens, func(a, b decide.Token) int { return strings.Compare(a.Issuer, b.Issuer) })
	if got.Listener != want.Listener || got.Target != want.Target || got.ForwardAuthorization != want.ForwardAuthorization ||
		got.Method != want.Method || got.Path != want.Path || got.Peer != want.Peer || got.Lease != want.Lease || got.TokenFailure != want.TokenFailure {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if got.Headers != want.Headers {
		t.Errorf("headers are %v, want %v", got.Headers, want.Headers)
	}
	if !slices.EqualFunc(got.Tokens, want.Tokens, func(a, b decide.Token) bool {
		return a.Issuer == b.Issuer && a.Claims.Text("sub") == b.Claims.Text("sub") && a.Claims.Text("tenant") == b.Claims.Text("tenant")
	}) {
		t.Errorf("tokens are %v, want %v", got.Tokens, want.Tokens)
	}
}

func whole(t testing.TB) *auth.CheckRequest {
	t.Helper()
	token, err := structpb.NewStruct(map[string]any{"sub": "alice", "tenant": "acme", "groups": []any{"a", "b"}, "exp": 1e10, "nested": map[string]any{"sub": "mallory"}})
	if err != nil {
		t.Fatal(err)
	}
	failure, err := structpb.NewStruct(map[string]any{"code": 3, "message": "Jwt is expired"})
	if err != nil {
		t.Fatal(err)
	}
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:      &auth.AttributeContext_Peer{Principal: "spiffe://mesh.example/gateway/edge", Service: "s", Certificate: "c"},
		Destination: &auth.AttributeContext_Peer{Principal: "spiffe://mesh.example/other"},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Id: "7", Method: "GET", Path: "/front?x=1", Host: "front", Size: -1, Protocol: "HTTP/2",
			HeaderMap: &core.HeaderMap{Headers: []*core.HeaderValue{
				{Key: ":authority", RawValue: []byte("front")}, {Key: "txn-token", RawValue: []byte("a.b.c")}, {Key: "Txn-Token", RawValue: []byte("second")},
				{Key: "x-tenantmesh-lease", RawValue: []byte("l1")}, {Key: "upgrade", Value: "not looked at"}, {Key: "content-type", RawValue: []byte("application/grpc+proto")},
				{Key: "x-unknown", RawValue: []byte{0xff}},
			}},
		}},
		ContextExtensions: map[string]string{meshname.ExtensionListener: meshname.ListenerGateway, meshname.ExtensionTarget: "workload/front", meshname.ExtensionForwardAuthorization: "true", "other": "x"},
		MetadataContext: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"other": token,
			meshname.MetadataJWT: {Fields: map[string]*structpb.Value{
				"issuer/login": structpb.NewStructValue(token), "issuer/empty": structpb.NewNullValue(), "failure": structpb.NewStructValue(failure), "else": structpb.NewBoolValue(true),
			}},
		}},
	}}
}

func encode(t testing.TB, message proto.Message) []byte {
	t.Helper()
	encoded, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// TestRead reads checks by hand and by the generated code.
func TestRead(t *testing.T) {
	message := whole(t)
	same(t, message, encode(t, message))
	same(t, &auth.CheckRequest{}, nil)
	// A message in two parts is both of them.
	both := append(encode(t, message), encode(t, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:  &auth.AttributeContext_Peer{Principal: "spiffe://mesh.example/last"},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "POST"}},
	}})...)
	var merged auth.CheckRequest
	if err := proto.Unmarshal(both, &merged); err != nil {
		t.Fatal(err)
	}
	same(t, &merged, both)
	for cut := range encode(t, message) {
		if encoded := encode(t, message)[:cut]; proto.Unmarshal(encoded, &merged) != nil {
			_ = (&check{}).DecodeWire(string(encoded)) // no panic; a cut within what is not looked at may pass
		}
	}
}

// FuzzRead: whatever the generated code reads, and writes again, is read alike; the rest is read without a panic.
func FuzzRead(f *testing.F) {
	f.Add(encode(f, whole(f)))
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, encoded []byte) {
		err := (&check{}).DecodeWire(string(encoded))
		var message auth.CheckRequest
		if proto.Unmarshal(encoded, &message) != nil {
			return
		}
		if err != nil {
			t.Errorf("the generated code reads it, and this does not: %v", err)
		}
		same(t, &message, encode(t, &message))
	})
}

// TestWrite: what is written by hand is what the generated code reads.
func TestWrite(t *testing.T) {
	for _, value := range []string{"", "v", strings.Repeat("x", 127), strings.Repeat("y", 3000)} {
		c := &check{}
		c.answer.Decision.Allowed = true
		for _, field := range []decide.Field{{Name: "txn-token", Value: value}, {Name: "x-tenant-id", Remove: true}, {Name: "authorization", Remove: true}, {Name: "x-tenant-id", Value: value}} {
			c.answer.Fields.Put(field)
		}
		var response auth.CheckResponse
		if err := proto.Unmarshal(c.EncodeWire([]byte{}), &response); err != nil {
			t.Fatal(err)
		}
		ok := response.GetOkResponse()
		if response.GetStatus().GetCode() != 0 || ok == nil || !slices.Equal(ok.GetHeadersToRemove(), []string{"authorization"}) || len(ok.GetHeaders()) != 2 {
			t.Fatalf("read %v", &response)
		}
		for i, name := range []string{"txn-token", "x-tenant-id"} {
			if want := header(name, value); !proto.Equal(ok.GetHeaders()[i], want) {
				t.Errorf("read %v, want %v", ok.GetHeaders()[i], want)
			}
		}
	}
	let := &check{}
	let.answer = decide.Answer{Limited: true, Level: limit.Level{Kind: limit.TenantRate, Of: 20, Remaining: 5, Window: 2 * time.Second}, Decision: policy.Decision{Allowed: true}}
	var told auth.CheckResponse
	if err := proto.Unmarshal(let.EncodeWire(nil), &told); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, h := range told.GetOkResponse().GetResponseHeadersToAdd() {
		value, _, _ := strings.Cut(h.GetHeader().GetValue(), ";pk=")
		left = append(left, h.GetHeader().GetKey()+": "+value)
		if h.GetAppendAction() != core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			t.Errorf("%v", h)
		}
	}
	if want := []string{`ratelimit-policy: "tenant-rate";q=20;w=2`, `ratelimit: "tenant-rate";r=5;t=2`}; !slices.Equal(left, want) {
		t.Errorf("told is %q, want %q", left, want)
	}
	refused := &check{}
	refused.request.Headers.Add("content-type", "application/grpc")
	refused.answer.Decision.Reason = policy.RateLimited
	var response auth.CheckResponse
	if err := proto.Unmarshal(refused.EncodeWire(nil), &response); err != nil || response.GetDeniedResponse().GetStatus().GetCode() != 429 || response.GetDeniedResponse().GetBody() != "" {
		t.Errorf("%v, %v", &response, err)
	}
}

// TestRefusalIsNeverEmpty: an answer that is empty would be one that allows.
func TestRefusalIsNeverEmpty(t *testing.T) {
	c := &check{}
	c.answer.Decision.Reason, c.answer.Decision.ID = policy.TenantUnknown, "\xff"
	var response auth.CheckResponse
	if err := proto.Unmarshal(c.EncodeWire(nil), &response); err != nil || response.GetStatus().GetCode() == 0 {
		t.Errorf("a refusal that cannot be written is %v, %v", &response, err)
	}
}
