// Package server answers WHO GETS WHAT, AND WHO APPLIED IT: delta ADS (xDS protocol, incremental variant) with
// go-control-plane's server over a cache of our own, which does work in proportion to what changed and to the
// streams that want it; and the reporting stream of members.
//
// A stream gets what the principal of its mTLS connection is entitled to: its node ID, and the resource names that
// it asks for, change nothing. Every type is a wildcard subscription.
//
// # Concurrency
//
// A [Cache] may be used from many goroutines; one mutex guards it, held for the time of one change or one response.
//
// It imports api, identity, identity/svid and go-control-plane; never tenantstore, xds/ir or xds/translator.
package server
