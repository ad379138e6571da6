package tenanttoken

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tenantmesh/tenantmesh/identity"
)

// wireKey is a key as services read it from their sidecar.
type wireKey struct {
	KID       string             `json:"kid"`
	Principal identity.Principal `json:"principal"`
	Public    []byte             `json:"publicKey"` // base64
	Gateway   bool               `json:"gateway,omitzero"`
	Cell      string             `json:"cell,omitzero"`
	Tenant    string             `json:"tenant,omitzero"`
	NotAfter  time.Time          `json:"notAfter"`
}

// MarshalJSON implements json.Marshaler: the keys, in the order of their IDs.
func (s KeySet) MarshalJSON() ([]byte, error) {
	list := make([]wireKey, 0, len(s.keys))
	for _, k := range s.keys {
		list = append(list, wireKey{k.KID, k.Principal, k.Public, k.Scope.Gateway, k.Scope.Cell, k.Scope.Tenant.String(), k.NotAfter})
	}
	slices.SortFunc(list, func(a, b wireKey) int { return cmp.Compare(a.KID, b.KID) })
	return json.Marshal(list)
}

// UnmarshalJSON implements json.Unmarshaler. One key that is wrong makes all of it wrong.
func (s *KeySet) UnmarshalJSON(text []byte) error {
	var list []wireKey
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	keys := make([]Key, 0, len(list))
	for _, w := range list {
		if len(w.Public) != ed25519.PublicKeySize || w.KID == "" || w.Principal.IsZero() {
			return fmt.Errorf("key %q must have a principal, and a public key of %d bytes (got %d)", w.KID, ed25519.PublicKeySize, len(w.Public))
		}
		k := Key{KID: w.KID, Principal: w.Principal, Public: w.Public, Scope: Scope{Gateway: w.Gateway, Cell: w.Cell}, NotAfter: w.NotAfter}
		if w.Tenant != "" {
			var err error
			if k.Scope.Tenant, err = identity.ParseTenantID(w.Tenant); err != nil {
				return fmt.Errorf("key %q: %w", w.KID, err)
			}
		}
		keys = append(keys, k)
	}
	*s = NewKeySet(keys...)
	return nil
}
