package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
)

// Limits of the load generator.
const (
	maxPushed   = 64 << 20        // bytes of one response
	connectTime = 2 * time.Minute // for all streams
)

// holdStreams is the load generator: it holds n streams to a control plane, each over a connection of its own as
// sidecars do, and accepts whatever comes. It says "ready" on its output once each has all that there was, and answers
// each line on its input with the bytes of responses that came since the last.
// With report, each is a member too, which says how far it is with a tenant that moves.
func holdStreams(ctx context.Context, control string, n int, report bool) error {
	source, err := svid.Open(ctx, "")
	if err != nil {
		return err
	}
	defer source.Close()
	self, err := source.Principal()
	if err != nil {
		return err
	}
	want, err := identity.ControlID(self.TrustDomain())
	if err != nil {
		return err
	}
	tls := credentials.NewTLS(svid.ClientTLS(source, svid.AuthorizeIDs(want)))
	var bytes atomic.Int64
	failed := make(chan error, n)
	connecting, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	group, _ := errgroup.WithContext(connecting)
	group.SetLimit(50)
	for range n {
		group.Go(func() error {
			conn, err := grpc.NewClient(control, grpc.WithTransportCredentials(tls), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxPushed)))
			if err != nil {
				return err
			}
			for {
				first := make(chan error, 1)
				go func() { failed <- accept(ctx, conn, &bytes, first, report) }()
				if err = <-first; err == nil || connecting.Err() != nil {
					return err
				}
				if err := <-failed; status.Code(err) != codes.Unavailable {
					return err
				} // it was sent away: it comes again
			}
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready")
	lines := make(chan struct{})
	go func() {
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			lines <- struct{}{}
		}
		close(lines)
	}()
	for {
		select {
		case _, more := <-lines:
			if !more {
				return nil
			}
			fmt.Fprintln(os.Stdout, bytes.Swap(0))
		case err := <-failed:
			return err
		}
	}
}

// accept subscribes to everything and accepts what comes. first is told once every type has come.
func accept(ctx context.Context, conn *grpc.ClientConn, bytes *atomic.Int64, first chan<- error, report bool) (err error) {
	tell := sync.OnceFunc(func() { first <- nil })
	say := func(*discovery.DeltaDiscoveryResponse) error { return nil }
	if report {
		if say, err = join(ctx, conn); err != nil {
			first <- err
			return err
		}
	}
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	types := append(policyset.Types(), policysync.EnvoyTypes...)
	for i := 0; err == nil && i < len(types); i++ {
		err = stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: types[i], Node: &core.Node{Id: "bench"}})
	}
	came := map[string]bool{}
	for err == nil {
		var response *discovery.DeltaDiscoveryResponse
		if response, err = stream.Recv(); err != nil {
			break
		}
		bytes.Add(int64(proto.Size(response)))
		err = stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce})
		if err == nil {
			err = say(response)
		}
		if came[response.TypeUrl] = true; len(came) == len(types) {
			tell()
		}
	}
	select {
	case first <- err:
	default:
	}
	return err
}

// join makes a member of the connection. say reports that it is at the newest epoch of each tenant that moves, and that
// nothing of before is open.
func join(ctx context.Context, conn *grpc.ClientConn) (say func(*discovery.DeltaDiscoveryResponse) error, err error) {
	stream, err := api.NewMemberServiceClient(conn).Report(ctx)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // does not fail (its package documentation)
	send := func(report *api.MemberReport) error { return stream.Send(report) }
	if err := send(&api.MemberReport{Report: &api.MemberReport_Hello{Hello: &api.Hello{MemberId: hex.EncodeToString(id), Version: "bench", EnvoyVersion: bootstrap.MinVersion, Address: "127.0.0.1", Port: 1}}}); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); err != nil { // welcome: it counts from now on
		return nil, err
	}
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	return func(response *discovery.DeltaDiscoveryResponse) error {
		for _, r := range response.Resources {
			tenant := &api.TenantPolicy{}
			if r.Resource.UnmarshalTo(tenant) != nil || tenant.Placement.GetTarget() == "" {
				continue
			}
			if err := send(&api.MemberReport{Report: &api.MemberReport_Position{Position: &api.Position{Tenant: tenant.Tenant, TenantUid: tenant.Uid, Epoch: tenant.Placement.Epoch, Drained: true}}}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// generator is a load generator in a process of its own.
type generator struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

func (g *generator) line() (string, error) {
	if !g.out.Scan() {
		return "", fmt.Errorf("the load generator ended: %w", g.out.Err())
	}
	return strings.TrimSpace(g.out.Text()), nil
}

// bytes is what came over all streams since it was asked last.
func (g *generator) bytes() (int64, error) {
	if _, err := fmt.Fprintln(g.in); err != nil {
		return 0, err
	}
	text, err := g.line()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}
