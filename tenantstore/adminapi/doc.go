// Package adminapi answers WHO MAY SEE AND CHANGE WHAT IS TRUE: the REST interface of the control plane, described by
// OpenAPI 3.1 at /openapi.json, on a Unix socket for the local operator and on TCP with SPIFFE mTLS by role.
//
// It imports tenantstore, ledger, policy, identity and huma; never xds or sidecar: what it shows of them comes through
// the functions of its Config.
package adminapi
