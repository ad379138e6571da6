// Package tenanttoken answers WHICH TENANT, AND WHO SAYS SO: it signs and verifies the tenant context, an
// IETF Transaction Token (draft-ietf-oauth-transaction-tokens) under Ed25519, and keeps the keys that may sign.
//
// A token is good only under a key that was pushed here with its signer's SPIFFE ID and scope: "iss" must be
// that signer, and the claims must lie inside that scope. Nothing in the token itself says where a key is.
//
// # Concurrency
//
// A [KeySet] never changes after it was made: publish it behind an atomic pointer. A [Verifier] and a
// [Signer] may be used from many goroutines. Time is an argument everywhere.
//
// It imports identity and go-json-experiment/json; never policy, tenantstore, xds or sidecar.
package tenanttoken
