// Package breaker answers DOES IT KEEP FAILING: a circuit breaker for each pair of a tenant and what it calls, so that
// one tenant's broken key at a store shuts out that tenant's calls to that store and nobody else's.
//
// # States
//
// A pair that does not fail has no state at all. Its first failure begins a window, in which its outcomes are counted;
// once enough of them, and enough of a share, are failures, the pair is open: its calls are refused. After a wait one
// call is let through to see (half-open), and at most one a wait. The first of these probes that succeeds closes the
// pair, which is then forgotten; each that fails doubles the wait, up to a bound. A probe that says nothing (its caller
// hung up) makes room for the next.
//
// What began before the pair opened does not count once it is open: it is no news.
//
// # Bounds
//
// A [Set] holds at most MaxPairs pairs, those that fail now, and knows the pair of at most MaxCalls open calls. Past the
// first bound a newly failing pair does not open; past the second the outcome of the longest open call is lost. Neither
// refuses anybody.
//
// # Clock
//
// Time is an argument. When it jumps ahead, windows and waits are over; when it jumps back, a window begins anew and a
// wait lasts as long as it did, never longer.
//
// # Concurrency
//
// A [Set] may be used from many goroutines; each call holds one mutex for well under a microsecond.
//
// It imports the standard library; no grpc, protobuf, net or clock.
package breaker
