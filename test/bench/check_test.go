package main

import (
	"path/filepath"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/extauthz"
)

// BenchmarkCheck is a check without the way to it.
func BenchmarkCheck(b *testing.B) {
	b.Setenv("BENCH_KEY", filepath.Join(b.TempDir(), "key.json"))
	k, err := key()
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []string{"inbound-seen", "inbound-new", "gateway"} {
		b.Run(kind, func(b *testing.B) {
			listener := meshname.ListenerInbound
			if kind == "gateway" {
				listener = meshname.ListenerGateway
			}
			d, err := decider(listener, k)
			if err != nil {
				b.Fatal(err)
			}
			made, err := newRequests(kind)
			if err != nil {
				b.Fatal(err)
			}
			server := &ending{server: &extauthz.Server{Decider: d}}
			checks := make([]*auth.CheckRequest, b.N)
			for i := range checks {
				if checks[i], err = made.next(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, check := range checks {
				response, err := server.Check(b.Context(), check)
				if err != nil || response.GetOkResponse() == nil {
					b.Fatal(response, err)
				}
			}
		})
	}
}
