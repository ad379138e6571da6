package extauthz

import (
	"google.golang.org/protobuf/encoding/protowire"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/refusal"
)

// appendPermit appends a CheckResponse that lets the request through, with its headers as the decision wants them, and tells the client
// what is left of its limits. Fields are told by their numbers in envoy/service/auth/v3/external_auth.proto and
// envoy/config/core/v3/base.proto.
func appendPermit(b []byte, answer *decide.Answer) []byte {
	left := refusal.Left(answer)
	size := 0
	for _, f := range answer.Fields.All() {
		if f.Remove {
			size += sized(len(f.Name))
		} else {
			size += sized(optionSize(f.Name, f.Value))
		}
	}
	for _, h := range left {
		size += sized(optionSize(h.Name, h.Value))
	}
	b = append(b, 1<<3|byte(protowire.BytesType), 0)   // CheckResponse.status: OK
	b = protowire.AppendTag(b, 3, protowire.BytesType) // ok_response
	b = protowire.AppendVarint(b, uint64(size))
	for _, f := range answer.Fields.All() {
		if f.Remove {
			b = protowire.AppendTag(b, 5, protowire.BytesType) // OkHttpResponse.headers_to_remove
			b = protowire.AppendString(b, f.Name)
		} else {
			b = appendOption(b, 2, f.Name, f.Value, core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD) // OkHttpResponse.headers
		}
	}
	for _, h := range left { // beside those of others on the way: each tells of a limit of its own
		b = appendOption(b, 6, h.Name, h.Value, core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD) // OkHttpResponse.response_headers_to_add
	}
	return b
}

// appendOption appends a HeaderValueOption.
func appendOption(b []byte, number protowire.Number, name, value string, action core.HeaderValueOption_HeaderAppendAction) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(optionSize(name, value)))
	b = protowire.AppendTag(b, 1, protowire.BytesType) // HeaderValueOption.header
	b = protowire.AppendVarint(b, uint64(sized(len(name))+sized(len(value))))
	b = protowire.AppendTag(b, 1, protowire.BytesType) // HeaderValue.key
	b = protowire.AppendString(b, name)
	b = protowire.AppendTag(b, 2, protowire.BytesType) // HeaderValue.value
	b = protowire.AppendString(b, value)
	return append(b, 3<<3|byte(protowire.VarintType), byte(action)) // append_action
}

// optionSize is the size of a HeaderValueOption.
func optionSize(name, value string) int { return sized(sized(len(name))+sized(len(value))) + 2 }

// sized is the size of a field of n bytes, whose number is under 16.
func sized(n int) int { return 1 + protowire.SizeBytes(n) }
