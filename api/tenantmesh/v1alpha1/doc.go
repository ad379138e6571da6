// Package tenantmeshv1alpha1 answers WHAT TRAVELS between the control plane and the Go process beside an
// Envoy: the resources of delta ADS and the members' reporting stream. It holds .proto files and what is
// generated from them, nothing else (make generate).
package tenantmeshv1alpha1
