// Package retry answers IS THIS A REPETITION TOO MANY: a budget for each tenant, as in Finagle and in the retry chapter
// of Google's SRE book, on the side of those who are asked. Repeats may be a share of the first tries, and a few more.
//
// # What a repeat is
//
// A request that says so itself (x-envoy-attempt-count above 1, which only the mesh sets; grpc-previous-rpc-attempts), or
// whose Idempotency-Key was seen with the same method and path in the last minute or two. A request that was refused did
// not load anybody and is not remembered: its repetition is a first try.
//
// # Arithmetic
//
// Tries are counted in windows of [Window]. A repeat is admitted while the repeats of this window and the last, with it,
// are at most [Floor] and the share of the first tries of both. So of N first tries, however each is repeated, at most
// N x (1 + share) and [Floor] for each two windows pass.
//
// # Bounds
//
// Counts are kept for tenants that were active in the last two windows, at most MaxTenants of them; past that a newcomer's
// first tries pass uncounted and its repeats are refused. Keys are remembered as 61 bits of a hash under a seed of the
// process, in a table of fixed size, each with the minute in which it was seen: in a full row the newest takes the place
// of another, whose repetition then counts as a first try.
//
// # Concurrency
//
// [Budgets] may be used from many goroutines: counts are behind one of 64 mutexes, by tenant; the table is atomic. Time is
// an argument; when it jumps back, the window goes on.
//
// It imports the standard library; no grpc, protobuf, net or clock.
package retry
