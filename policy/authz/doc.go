// Package authz answers MAY THEY: it compiles access policies once, and judges requests against them.
//
// Forbid wins over Permit, and where nothing matches the request is denied. A policy in Shadow mode is
// judged and reported, and decides nothing. An error in a policy's condition counts against the caller: a
// Permit does not match, a Forbid does.
//
// # Conditions
//
// `when` is CEL (cel.dev) over this typed environment:
//
//	request.method, request.path, request.workload  string
//	request.segments                                list(string), the path split at "/"
//	request.time                                    timestamp
//	tenant.name, tenant.tier, tenant.residency      string
//	tenant.labels                                   map(string, string)
//	principal.id, principal.trustDomain, principal.path  string
//
// There are no regular expressions (`matches`), and a condition that costs more than [CostLimit] units is an
// error, at compile time where that can be told and at the latest when it is evaluated.
//
// # Concurrency
//
// A [Set] never changes after it was compiled, and may be used from many goroutines. The package has no
// clock: time is in the [Request].
//
// It imports identity, policy and CEL; no grpc and no net.
package authz
