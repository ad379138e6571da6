package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Pattern matches SPIFFE IDs segment by segment: the trust domain is always exact, a path segment is
// exact or "*" (any one segment), and the last may be "**" (one or more segments). There are no
// partial wildcards and no regular expressions. The zero value matches nothing.
type Pattern struct {
	trustDomain string
	segments    string // "/"-joined, as written: keeps Pattern comparable
}

// ParsePattern returns the pattern that s spells, e.g. "spiffe://example.org/cell/*/workload/search".
func ParsePattern(s string) (Pattern, error) {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return Pattern{}, fmt.Errorf("SPIFFE pattern must begin with %s (got %q)", scheme, s)
	}
	domain, path, ok := strings.Cut(rest, "/")
	if !ok || path == "" {
		return Pattern{}, fmt.Errorf("SPIFFE pattern must have a path (got %q)", s)
	}
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil || td.Name() != domain {
		return Pattern{}, fmt.Errorf("SPIFFE pattern's trust domain must be exact and well formed (got %q)", domain)
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		switch {
		case segment == "*":
		case segment == "**":
			if i != len(segments)-1 {
				return Pattern{}, fmt.Errorf("SPIFFE pattern may have ** as its last segment only (got %q)", s)
			}
		case strings.Contains(segment, "*"):
			return Pattern{}, fmt.Errorf("SPIFFE pattern segment must be exact, * or ** (got %q)", segment)
		default:
			if err := spiffeid.ValidatePathSegment(segment); err != nil {
				return Pattern{}, fmt.Errorf("SPIFFE pattern segment %q: %w", segment, err)
			}
		}
	}
	return Pattern{td.Name(), path}, nil
}

// Match reports whether p matches the whole of id. It allocates nothing.
func (p Pattern) Match(id Principal) bool {
	if p.segments == "" || id.IsZero() || id.TrustDomain() != p.trustDomain {
		return false
	}
	pattern, path := p.segments, strings.TrimPrefix(id.Path(), "/")
	for {
		want, patternRest, patternMore := strings.Cut(pattern, "/")
		if want == "**" {
			return path != ""
		}
		got, pathRest, pathMore := strings.Cut(path, "/")
		if want != "*" && want != got {
			return false
		}
		if patternMore != pathMore {
			return false
		}
		if !patternMore {
			return true
		}
		pattern, path = patternRest, pathRest
	}
}

// String is the pattern as written, "" for the zero value.
func (p Pattern) String() string {
	if p.segments == "" {
		return ""
	}
	return scheme + p.trustDomain + "/" + p.segments
}

// MarshalText implements [encoding.TextMarshaler].
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Pattern) UnmarshalText(text []byte) error {
	parsed, err := ParsePattern(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}
