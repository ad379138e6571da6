// Package quota answers HOW MUCH OF A SHARED LIMIT IS MINE: this member's parts, and what an allocator of the control plane
// granted it on top, over one stream (envoy.service.rate_limit_quota.v3). The arithmetic is policy/limit/share's.
//
// # Concurrency
//
// [Shares] may be used from many goroutines: a decision reads atomic pointers, and waits for no network. One goroutine,
// [Client.Run], keeps the stream.
//
// It imports policy, identity/meshname, api, sidecar/policyset, sidecar/durable and go-control-plane; never tenantstore, xds
// or etcd.
package quota
