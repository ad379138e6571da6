package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/extauthz"
	"github.com/tenantmesh/tenantmesh/sidecar/wire"
)

// registered is a grpc.ServiceRegistrar that calls what is registered without a server.
type registered struct {
	method  grpc.MethodHandler
	decider any
}

func (r *registered) RegisterService(service *grpc.ServiceDesc, decider any) {
	r.method, r.decider = service.Methods[0].Handler, decider
}

func (r *registered) check(ctx context.Context, message string, answer []byte) ([]byte, error) {
	response, err := r.method(r.decider, ctx, func(v any) error { return v.(wire.Decoder).DecodeWire(message) }, nil)
	if err != nil {
		return nil, err
	}
	return response.(wire.Encoder).EncodeWire(answer[:0]), nil
}

// BenchmarkCheck is a check without the way to it, from the bytes of the question to those of the answer.
func BenchmarkCheck(b *testing.B) {
	b.Setenv("BENCH_KEY", filepath.Join(b.TempDir(), "key.json"))
	k, err := key()
	if err != nil {
		b.Fatal(err)
	}
	for _, one := range append(subjects, subject{"gateway", 100, false}) {
		kind := one.kind
		b.Run(strings.ReplaceAll(one.String(), ", ", "/"), func(b *testing.B) {
			listener := meshname.ListenerInbound
			if kind == "gateway" {
				listener = meshname.ListenerGateway
			}
			d, err := decider(listener, k, one.tenants)
			if err != nil {
				b.Fatal(err)
			}
			made, err := newRequests(one)
			if err != nil {
				b.Fatal(err)
			}
			server := &registered{}
			extauthz.Register(server, ending{d})
			seen := 0 // by the decider, before the time counts
			if kind == "inbound-seen" {
				seen = one.tenants
			}
			checks := make([]string, seen+b.N)
			for i := range checks {
				check, err := made.next()
				if i < seen {
					check, err = made.of(i)
				}
				if err != nil {
					b.Fatal(err)
				}
				encoded, err := proto.Marshal(check)
				if err != nil {
					b.Fatal(err)
				}
				checks[i] = string(encoded)
			}
			var answer []byte
			b.ReportAllocs()
			for i, check := range checks {
				if i == seen {
					b.ResetTimer()
				}
				if answer, err = server.check(b.Context(), check, answer); err != nil || len(answer) > 2000 {
					b.Fatalf("%q, %v", answer, err)
				}
			}
		})
	}
}
