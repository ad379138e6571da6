package extauthz

import (
	"strings"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/wire"
)

// DecodeWire implements [wire.Decoder]. Fields are told by their numbers in envoy/service/auth/v3/external_auth.proto,
// attribute_context.proto next to it, and envoy/config/core/v3/base.proto.
func (c *check) DecodeWire(message string) error {
	c.request.Tokens = c.tokens[:0]
	err := wire.Each(message, func(number int, value string) error {
		if number == 1 { // CheckRequest.attributes
			return wire.Each(value, c.attribute)
		}
		return nil
	})
	if lease, n := c.request.Headers.Get(propagation.HeaderLease); n == 1 {
		c.request.Lease = strings.Clone(lease) // it outlives the message
	}
	return err
}

func (c *check) attribute(number int, value string) error {
	switch number {
	case 1: // AttributeContext.source
		return wire.Each(value, c.peer)
	case 4: // request
		return wire.Each(value, func(number int, value string) error {
			if number == 2 { // Request.http
				return wire.Each(value, c.http)
			}
			return nil
		})
	case 10: // context_extensions
		return c.extension(value)
	case 11: // metadata_context
		return wire.Each(value, func(number int, value string) error {
			if number == 1 { // Metadata.filter_metadata
				return c.metadata(value)
			}
			return nil
		})
	}
	return nil
}

func (c *check) peer(number int, value string) error {
	if number == 4 { // Peer.principal
		c.request.Peer = value
	}
	return nil
}

func (c *check) http(number int, value string) error {
	switch number {
	case 2: // HttpRequest.method
		c.request.Method = value
	case 4: // path
		c.request.Path = value
	case 13: // header_map
		return wire.Each(value, c.header)
	}
	return nil
}

func (c *check) header(number int, entry string) error {
	if number != 1 { // HeaderMap.headers
		return nil
	}
	var name, value string
	err := wire.Each(entry, func(number int, text string) error {
		switch number {
		case 1: // HeaderValue.key
			name = text
		case 3: // raw_value
			value = text
		}
		return nil
	})
	c.request.Headers.Add(strings.ToLower(name), value)
	return err
}

func (c *check) extension(entry string) error {
	name, value, err := wire.Entry(entry)
	switch name {
	case meshname.ExtensionListener:
		c.request.Listener = value
		for _, known := range [...]string{meshname.ListenerGateway, meshname.ListenerInbound, meshname.ListenerOutbound} {
			if value == known {
				c.request.Listener = known // what is counted by it keeps no message alive
			}
		}
	case meshname.ExtensionTarget:
		c.request.Target = value
	case meshname.ExtensionForwardAuthorization:
		c.request.ForwardAuthorization = value == "true"
	}
	return err
}

// metadata takes what jwt_authn says of the tokens that it saw.
func (c *check) metadata(entry string) error {
	filter, said, err := wire.Entry(entry)
	if err != nil || filter != meshname.MetadataJWT {
		return err
	}
	return wire.Each(said, func(number int, entry string) error {
		if number != 1 { // Struct.fields
			return nil
		}
		key, value, err := wire.Entry(entry)
		if err != nil {
			return err
		}
		payload, err := wire.Field(value, 5) // Value.struct_value
		if issuer, ok := strings.CutPrefix(key, meshname.MetadataJWTPayload("")); ok {
			c.request.Tokens = append(c.request.Tokens, decide.Token{Issuer: issuer, Claims: claims(payload)})
		} else if key == meshname.MetadataJWTFail {
			c.request.TokenFailure = claims(payload).Text("message")
		}
		return err
	})
}

// claims is a google.protobuf.Struct, as it is on the wire. Envoy's parser read it once; only the claims that are asked
// for are read again.
type claims string

// Text implements [decide.Claims].
func (c claims) Text(claim string) string {
	found := ""
	_ = wire.Each(string(c), func(number int, entry string) error { // a malformed one has no claims
		if number != 1 { // Struct.fields
			return nil
		}
		name, value, err := wire.Entry(entry)
		if name != claim {
			return err
		}
		// Of a google.protobuf.Value's kinds the last that is there counts; the third is a text.
		if err := wire.Each(value, func(kind int, text string) error {
			found = ""
			if kind == 3 {
				found = text
			}
			return nil
		}); err != nil {
			found = ""
		}
		return err
	})
	return found
}
