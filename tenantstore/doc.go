// Package tenantstore answers WHAT IS TRUE: the objects of the mesh, the Store they live in, and the rules
// that make a set of them valid.
//
// # Concurrency
//
// Objects are values that nobody changes after they were handed over: to change one, Clone it first.
// A Store may be used from many goroutines.
//
// What people write may not break an AccessInvariant that held before: policy/analysis proves it for every request.
//
// It imports identity, policy and ledger; never xds or sidecar.
package tenantstore
