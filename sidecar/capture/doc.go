// Package capture answers HOW DOES A SERVICE'S TRAFFIC GET TO ENVOY when the service knows of nothing: by rules in the
// kernel (nftables, or iptables where that is what there is) that redirect the TCP connections that begin on this
// machine, and those that arrive, to the sidecar's listeners.
//
// [Rules] is pure: a configuration gives the rules, and each backend spells them. [Install], [Remove] and [Show] run the
// kernel's own tools, and [Check] proves by real connections what they did. A table is replaced in one transaction: there
// is no moment without rules. docs/capture.md draws the rules and names their holes.
//
// # Concurrency
//
// Two processes that install at once leave the rules of one of them, whole.
//
// It imports identity/meshname and the standard library.
package capture
