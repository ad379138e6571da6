// Package ledger answers WHAT HAPPENED: audit events, hash-chained, and usage records summed by the minute.
//
// Its types and arithmetic (the chain, the sums) are pure; files are written by the types that say so.
// It imports identity and policy, never tenantstore, xds or sidecar.
package ledger
