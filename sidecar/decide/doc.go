// Package decide answers MAY THIS REQUEST PASS: one decision at each point where a request meets this sidecar. It
// knows no Envoy proto: sidecar/extauthz translates.
//
//   - gateway: the tenant comes from a verified token; the answer is a signed context and a cell.
//   - inbound: the peer comes from the connection, the tenant from the context; policy and limits are judged.
//   - outbound: the call is attributed to the request that caused it, and gets that request's context.
//
// Every way out that is not an explicit permit is a refusal with one of the closed list of reasons.
//
// # Concurrency
//
// A [Decider] may be used from many goroutines; it reads the set in force once a decision.
//
// It imports policy, identity, ledger and the rooms of sidecar below it; no grpc, no Envoy protos, and never
// tenantstore, xds or etcd.
package decide
