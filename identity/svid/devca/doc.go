// Package devca is a SPIFFE certificate authority for development. It serves the real Workload API (X.509-SVIDs,
// bundles, JWT-SVIDs) on a Unix socket and attests callers by their peer credentials: the user, and the registered
// process or one of its descendants. It is not for production: its key lies in a file, and it trusts the kernel of
// one machine.
//
// Registrations are made on a second socket, "<socket>.admin", by HTTP and JSON; both outlive a restart, and so does
// the authority's key.
//
// It imports identity, go-spiffe, go-jose and grpc; never policy, tenantstore, xds or sidecar.
package devca
