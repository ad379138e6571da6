// Package identity answers WHO: which tenant, and which SPIFFE principal.
//
// Its values are parsed once, immutable, comparable and fit for map keys; the zero value of each means
// "none" and is never valid on the wire. Nothing here reads a clock, a file or a socket: those live in
// the rooms below it (svid, tenanttoken, propagation).
//
// It imports the standard library and go-spiffe's spiffeid, nothing else of this module.
package identity
