// Package sidecar is what runs beside an Envoy, as a gateway or as a workload's sidecar: it supervises that Envoy,
// relays to it what the control plane pushes, and answers its checks, its rate-limit calls and its access log.
//
// The control plane is off the path of requests: what was pushed last is kept on disk, and served until the control
// plane is back.
//
// It imports policy, identity, ledger, api, xds/bootstrap and the rooms under sidecar; never tenantstore, another
// room of xds, or etcd.
package sidecar
