package identity

import "fmt"

// MaxTenantID is the longest tenant name, in bytes: that of a DNS label (RFC 1035, section 2.3.4).
const MaxTenantID = 63

// TenantID is a tenant's name: 1 to [MaxTenantID] bytes of lower-case letters, digits and '-'.
// The zero value is "none". A TenantID other than the zero value comes from [ParseTenantID] only,
// so it can be written into a header, a label or a log line as it is.
type TenantID struct{ name string }

// ParseTenantID returns the tenant that s names, or an error that shows s (quoted) and the rule it breaks.
func ParseTenantID(s string) (TenantID, error) {
	if s == "" || len(s) > MaxTenantID {
		return TenantID{}, fmt.Errorf("tenant name must have 1 to %d characters (got %d)", MaxTenantID, len(s))
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return TenantID{}, fmt.Errorf("tenant name must hold only lower-case letters, digits and '-' (got %q)", s)
		}
	}
	return TenantID{s}, nil
}

// String is the tenant's name, "" for none.
func (t TenantID) String() string { return t.name }

// IsZero reports whether t is "none".
func (t TenantID) IsZero() bool { return t.name == "" }

// MarshalText implements [encoding.TextMarshaler]; none marshals as the empty text.
func (t TenantID) MarshalText() ([]byte, error) { return []byte(t.name), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is none.
func (t *TenantID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = TenantID{}
		return nil
	}
	parsed, err := ParseTenantID(string(text))
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}
