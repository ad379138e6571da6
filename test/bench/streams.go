package main

import (
	"bufio"
	"context"
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

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
)

// Limits of the load generator.
const (
	maxPushed   = 64 << 20        // bytes of one response
	connectTime = 2 * time.Minute // for all streams
)

// holdStreams is the load generator: it holds n streams to a control plane, each over a connection of its own as
// sidecars do, and accepts whatever comes. It says "ready" on its output once each has all that there was, and answers
// each line on its input with the bytes of responses that came since the last.
func holdStreams(ctx context.Context, control string, n int) error {
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
				go func() { failed <- accept(ctx, conn, &bytes, first) }()
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
func accept(ctx context.Context, conn *grpc.ClientConn, bytes *atomic.Int64, first chan<- error) error {
	tell := sync.OnceFunc(func() { first <- nil })
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
