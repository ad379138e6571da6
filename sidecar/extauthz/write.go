package extauthz

import (
	"google.golang.org/protobuf/encoding/protowire"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// appendPermit appends a CheckResponse that lets the request through, with its headers as the decision wants them.
// Fields are told by their numbers in envoy/service/auth/v3/external_auth.proto and envoy/config/core/v3/base.proto.
func appendPermit(b []byte, answer *decide.Answer) []byte {
	size := 0
	for _, f := range answer.Fields.All() {
		if f.Remove {
			size += sized(len(f.Name))
		} else {
			size += sized(optionSize(&f))
		}
	}
	b = append(b, 1<<3|byte(protowire.BytesType), 0)   // CheckResponse.status: OK
	b = protowire.AppendTag(b, 3, protowire.BytesType) // ok_response
	b = protowire.AppendVarint(b, uint64(size))
	for _, f := range answer.Fields.All() {
		if f.Remove {
			b = protowire.AppendTag(b, 5, protowire.BytesType) // OkHttpResponse.headers_to_remove
			b = protowire.AppendString(b, f.Name)
			continue
		}
		b = protowire.AppendTag(b, 2, protowire.BytesType) // OkHttpResponse.headers
		b = protowire.AppendVarint(b, uint64(optionSize(&f)))
		b = protowire.AppendTag(b, 1, protowire.BytesType) // HeaderValueOption.header
		b = protowire.AppendVarint(b, uint64(sized(len(f.Name))+sized(len(f.Value))))
		b = protowire.AppendTag(b, 1, protowire.BytesType) // HeaderValue.key
		b = protowire.AppendString(b, f.Name)
		b = protowire.AppendTag(b, 2, protowire.BytesType) // HeaderValue.value
		b = protowire.AppendString(b, f.Value)
		b = append(b, 3<<3|byte(protowire.VarintType), byte(core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)) // append_action
	}
	return b
}

// optionSize is the size of a HeaderValueOption.
func optionSize(f *decide.Field) int { return sized(sized(len(f.Name))+sized(len(f.Value))) + 2 }

// sized is the size of a field of n bytes, whose number is under 16.
func sized(n int) int { return 1 + protowire.SizeBytes(n) }
