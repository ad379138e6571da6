// Package share answers WHO MAY USE HOW MUCH of a limit that several members enforce together, so that what they let in
// adds up to no more than the limit (docs/adr/0006-shared-limits.md).
//
// # Parts
//
// Each of N members of a group owns an Nth of every limit: its part. That is what it falls to when nobody tells it
// otherwise. While it is in a session with an allocator it lends most of its part, and keeps what is standing: enough for
// the first requests of a tenant that it has not seen for a while.
//
// # Grants
//
// A [Book] is the allocator: it divides what was lent to it among the members that have demand, max-min fair. What is
// taken from one is given to another only once the first has said that it has less, or its session has ended: whatever
// messages are late or lost, what is given out never adds up to more than what was lent. So any number of allocators may
// divide what their own members lend them; that there is one is better, and not needed.
//
// A member whose session has ended uses no more than it had and no more than its part; after [Hold] others have given
// back what was lent to them, and it uses its part.
//
// # Concurrency
//
// A [Book] is for one goroutine at a time. It has no clock: time is an argument.
//
// It imports policy and the standard library; no grpc, protobuf, net or clock.
package share
