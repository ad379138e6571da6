// Package xds answers WHEN DO THEY HEAR OF IT: it watches the store and publishes what changed, and keeps the members
// that report.
//
// # Concurrency
//
// The [Publisher] is one goroutine that owns what was published. [Members] may be used from many goroutines.
//
// It imports tenantstore, ledger, policy, identity, api and the rooms under xds; never sidecar.
package xds
