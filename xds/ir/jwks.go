package ir

import (
	"encoding/json"
	"slices"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// defaultAlgorithms are those of a TokenIssuer that names none.
var defaultAlgorithms = []string{"RS256", "ES256", "EdDSA"}

// algorithmsOf are the algorithms that a key of a type, and for EC and OKP of a curve, is for (RFC 7518, section 3.1;
// RFC 8037, section 3.1).
var algorithmsOf = map[string][]string{
	"RSA": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, "EC P-256": {"ES256"}, "EC P-384": {"ES384"}, "EC P-521": {"ES512"}, "OKP Ed25519": {"EdDSA"},
}

// restrict returns the issuer's key set without the keys that were withdrawn, and with each bound to the algorithms that are
// allowed: a verifier takes what a key says over what a token says. A set that does not parse gives one that verifies nothing.
func restrict(jwks string, issuer *tenantstore.TokenIssuerSpec) string {
	allowed := issuer.Algorithms
	if len(allowed) == 0 {
		allowed = defaultAlgorithms
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if json.Unmarshal([]byte(jwks), &set) != nil {
		return noKeys
	}
	kept := []map[string]any{}
	for _, key := range set.Keys {
		kind, _ := key["kty"].(string)
		if curve, ok := key["crv"].(string); ok {
			kind += " " + curve
		}
		if kid, ok := key["kid"].(string); ok && slices.Contains(issuer.WithdrawnKeys, kid) {
			continue
		}
		own, _ := key["alg"].(string)
		for _, algorithm := range algorithmsOf[kind] {
			if !slices.Contains(allowed, algorithm) || (own != "" && own != algorithm) {
				continue
			}
			bound := map[string]any{}
			for name, value := range key {
				bound[name] = value
			}
			bound["alg"] = algorithm
			kept = append(kept, bound)
		}
	}
	text, err := json.Marshal(map[string]any{"keys": kept})
	if err != nil {
		return noKeys
	}
	return string(text)
}
