// Package limit answers HOW MUCH: rates by GCRA, and concurrency by leases, per tenant incarnation and class.
//
// # Rates
//
// The generic cell rate algorithm (ITU-T I.371, annex A) keeps one number a bucket: the theoretical arrival time
// of the next request, were they evenly spread. A request conforms when that time is no further ahead of now than
// the burst allows. There is no window, so none can be straddled; and a bucket whose time has passed is exactly a
// new one, so forgetting it grants nothing back.
//
// A member's part of a limit that several share changes all the time. Its bucket then holds what it held: a larger burst is
// filled at the rate, or parts that go from one to another would multiply it (policy/limit/share).
//
// # Leases
//
// A lease is held for each open request, under a key that was made before the request was judged. It ends with
// [Limiter.Release], or with its TTL, which [Limiter.Renew] begins anew. A request may end before it is admitted (a
// client hung up while the check was pending): whoever knows of that releases the lease after the admission.
//
// # Bounds
//
// A limiter holds at most MaxEntries buckets and MaxLeases leases. At the bound it forgets idle
// buckets; when none is idle it refuses newcomers (Overloaded) rather than forgetting what somebody used.
//
// # Concurrency
//
// A [Limiter] may be used from many goroutines; each call holds one mutex for well under a microsecond. It has
// no clock and starts no goroutine: time is an argument.
//
// It imports policy and the standard library; no grpc, protobuf, net or clock.
package limit
