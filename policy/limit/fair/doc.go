// Package fair answers WHO IS LET IN WHEN A SERVICE IS FULL: how many requests the service can hold open, found by
// their latency, and of those each tenant's share.
//
// # The limit
//
// Latency that grows with the number of open requests is time that they wait in the service. The limit follows the
// gradient of that latency, as Netflix's concurrency-limits do (Gradient and Gradient2), and Envoy's adaptive
// concurrency filter: it is the number of open requests times the latency that would be good over the latency that is,
// which by Little's law (L = λW) is the number at which as much is done and nothing waits. Good is up to 1.5 times the
// latency without load (Gradient2's rttTolerance), and never less than 5 ms above it, the standing delay that CoDel
// deems worth acting on (RFC 8289, section 4.2). The gradient of one step is at least 0.5 (both of the above). A limit
// that held, and under which latency is good, grows by its square root (Gradient's queue size). It begins at its
// maximum and falls only once two windows in a row were slow: a service whose latency does not grow is never held back.
//
// A window is 50 ms, and at least 25 answers. Its latency is their geometric mean, which a few slow ones do not move,
// and is compared per kind of request (class, and whether it may write), so that another mix is not taken for a queue.
// The latency without load is that of requests which came and ended while hardly any were open (half of the minimum): of the last
// 64 of a kind (as baseRTT in Vegas, Brakmo and Peterson 1995, which is the least that was seen). Until there are five, the
// least latency of a window stands for it. Where there are none any more, a probe finds it (as Envoy's minRTT window, and BBR's ProbeRTT, Cardwell et al. 2016, which takes 200 ms of
// 10 s): while the limit holds, 300 ms after it began to and every 10 s, those who were refused just now have their
// shares of half of the minimum, for 300 ms and four times the latency at most. What requests then take is the latency
// without load, be it lower or higher: a service that is slow whatever its load gets its limit back that way. A probe that
// fewer than five answers came of is repeated after three times as long. Others' shares stay whole.
//
// # The shares
//
// The share of a tenant is weighted max-min fair (Bertsekas and Gallager, Data Networks, section 6.5.2) over the
// tenants active now: the level at which all that is demanded, up to the level times each one's weight, is the limit.
// What one does not use is the others'. Demand is how many requests were open on average (exponentially, over 500 ms),
// and more than any share for a quarter to half of a second once a request was refused of who used most of its share.
//
//   - Who is under its guaranteed share, the limit times its part of all weights, is let in, also when others fill the service.
//   - So is who used less than its max-min share on average, up to that and a burst of three of Poisson's deviations:
//     who comes 60 times a second for 20 ms has 1.2 requests open on average, and now and then five. Shares below one
//     request are had in turns that way.
//   - Who is over its share is let in while the service has room; but who is over 1.5 times its share not while others were
//     refused who are not: else whoever comes most often has all that those under their shares leave.
//   - The rest waits for at most 5 ms, or is refused.
//
// # Why overshoot, and not headroom
//
// A service that is full of one tenant's requests has no room for another that comes then. Either room is kept free for
// whoever may come, and is lost while nobody does; or who comes goes over the limit. Here it goes over, and by so much
// at most: let L be the limit (or nine tenths, a window, of what it was before it fell), W the weight of all that are
// active, and L·w/W the guaranteed share of a tenant of weight w. A request above it is let in only below 3L open ones.
// Look at the moment after the last such request: at most 3L are open. Since then each tenant was let in up to its
// guaranteed share only. Take those tenants in the order in which they were last let in: at its moment the j-th had at
// most L·w(j)/W <= L·w(j)/S(j), where S(j) is the weight of the first j. The sum is at most L·(1 + ln(S(k)/w(1))). So
// at most L·(4 + ln(W/w)) are open, ever, and that only when nobody's request ends while one tenant after another
// comes; a second tenant of equal weight makes it 1.5·L and a burst, until requests of the first end, in whose place
// none of its own come. TestOvershoot plays that, and TestAgainstModel that nobody under its guaranteed share is
// refused.
//
// # Priority
//
// A tenant's requests of batch classes get what its interactive ones leave of its share: they count all that is open,
// and what the interactive ones demand on average besides. Interactive ones count batch requests against the guaranteed
// share only.
//
// # Waiting
//
// A request over its share waits only for a slot that may come within 5 ms, in its tenant's own queue (of 16; 256 in
// all), interactive before batch; slots go round the tenants that wait. Nobody under its share waits. As in CoDel, a
// queue that does not drain is no buffer: when nothing of a tenant's was let in from its queue for 100 ms, its requests
// do not wait for 100 ms, then 200 ms, up to 1.6 s.
//
// # Bounds
//
// State is held for tenants active in the last second, at most MaxTenants: those beyond share one entry. A request
// counts for 30 s at most: what lasts longer is a stream, which works when it is used and not by being open.
//
// # Concurrency
//
// A [Controller] may be used from many goroutines; each call holds one mutex for well under a microsecond. It has no
// clock and starts no goroutine: time is an argument, and may go back, in which case it stands still.
//
// It imports the standard library; no grpc, protobuf, net or clock.
package fair
