// Package native answers WHAT CAN ENVOY REFUSE BY ITSELF: it cuts access policies down to what a proxy can see of a request
// without knowing any tenant, the peer's SPIFFE ID, the method and the path, so that one source gives two layers.
//
// # What it promises
//
// The [Rules] of a workload refuse nothing that policy/authz could allow, to some tenant, at some time, with some outcome of a
// condition. So
//
//   - a Permit counts whatever its tenants, its condition, its end and its rollout are: of a rollout both versions do;
//   - a Forbid counts only when it holds for every tenant and always: no tenants are selected, there is no condition, it is in
//     no rollout, and it has no part that is not known here;
//   - a Shadow does not count;
//   - what nobody can spell in a bounded matcher is widened in a Permit and left out of a Forbid;
//   - the hooks of a workload's data, which policies do not judge, are for gateways.
//
// Where policies have neither tenants nor conditions, the two layers say the same of every request (policy/testdata/corpus),
// but for a path whose escapes are well formed and are no UTF-8: policy/authz refuses it, and Rules do not look.
//
// # What it stands on
//
// Envoy has normalized the path: an escaped letter, digit, "-", "." , "_" or "~" is decoded, what is not ASCII is escaped, and an
// escaped slash was refused. What may come both plain and escaped is matched both ways.
//
// # Size
//
// Rules are of the policies about the workload alone, and those that differ in what is not seen here are one. Past [MaxSize]
// they are made coarser, see [Detail], never narrower.
//
// The package is pure. It imports identity, policy and policy/authz.
package native
