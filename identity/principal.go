package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Principal is a workload's whole SPIFFE ID (SPIFFE-ID specification, section 2), compared as an exact
// string. The zero value is "none": an unauthenticated peer.
type Principal struct{ id string }

// ParsePrincipal returns the principal that s names. s must be a whole, well-formed SPIFFE ID with a path.
func ParsePrincipal(s string) (Principal, error) {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return Principal{}, fmt.Errorf("SPIFFE ID must be spiffe://<trust domain>/<path> (got %q): %w", s, err)
	}
	if id.Path() == "" {
		return Principal{}, fmt.Errorf("SPIFFE ID must have a path (got %q)", s)
	}
	return Principal{id.String()}, nil
}

// PrincipalOf returns the principal of an already parsed SPIFFE ID.
func PrincipalOf(id spiffeid.ID) Principal { return Principal{id.String()} }

// Clone is p, kept apart from the text that it was parsed from.
func (p Principal) Clone() Principal { return Principal{strings.Clone(p.id)} }

// String is the whole SPIFFE ID, "" for none.
func (p Principal) String() string { return p.id }

// IsZero reports whether p is "none".
func (p Principal) IsZero() bool { return p.id == "" }

// TrustDomain is the name of p's trust domain, "" for none.
func (p Principal) TrustDomain() string {
	domain, _, _ := strings.Cut(strings.TrimPrefix(p.id, scheme), "/")
	return domain
}

// Path is p's path with its leading slash, "" for none.
func (p Principal) Path() string {
	if p.id == "" {
		return ""
	}
	return p.id[len(scheme)+len(p.TrustDomain()):]
}

// MarshalText implements [encoding.TextMarshaler]; none marshals as the empty text.
func (p Principal) MarshalText() ([]byte, error) { return []byte(p.id), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is none.
func (p *Principal) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Principal{}
		return nil
	}
	parsed, err := ParsePrincipal(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

const scheme = "spiffe://"

// The default scheme of SPIFFE IDs (design, section 4). Any other works: a Workload lists its own.

// WorkloadID is the default SPIFFE ID of a workload in a cell.
func WorkloadID(trustDomain, cell, workload string) (Principal, error) {
	return ParsePrincipal(scheme + trustDomain + "/cell/" + cell + "/workload/" + workload)
}

// GatewayID is the default SPIFFE ID of a gateway.
func GatewayID(trustDomain, name string) (Principal, error) {
	return ParsePrincipal(scheme + trustDomain + "/gateway/" + name)
}

// ControlID is the default SPIFFE ID of the control plane.
func ControlID(trustDomain string) (Principal, error) {
	return ParsePrincipal(scheme + trustDomain + "/control")
}

// IsGateway reports whether a principal is a gateway's: theirs always are by the default scheme. Workloads list their own.
func IsGateway(p Principal) bool {
	name, ok := strings.CutPrefix(p.Path(), "/gateway/")
	return ok && !strings.Contains(name, "/")
}
