// Package trail answers WHAT WAS DECIDED, AND WHO CAN PROVE IT: the events of decisions, in one stream for each member and
// tenant, each chained to the one before by its hash, in batches that are signed under the member's SVID.
//
// An event is kept as the very bytes that were hashed. A stream says of itself which events there were: one that was
// changed, taken out, put in, moved or sent twice does not follow the one before, and whoever chains the rest anew cannot
// sign it. Only that its newest events were taken out is not seen in a stream alone: the store keeps the newest head
// that was acknowledged, and an [Export] holds it, signed by the control plane.
//
// # Concurrency
//
// An [Archive] may be used from many goroutines of one process, its [Follower] from one at a time; the rest is pure.
//
// It imports identity and ledger, never tenantstore, xds or sidecar.
package trail
