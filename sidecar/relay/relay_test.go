package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
	"github.com/tenantmesh/tenantmesh/sidecar/relay"
	"github.com/tenantmesh/tenantmesh/sidecar/supervise"
	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
)

// control is a control plane that pushes what a test says.
type control struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	push    chan *discovery.DeltaDiscoveryResponse
	answers chan *discovery.DeltaDiscoveryRequest
	known   chan map[string]string // names and versions of routes, as a stream begins with them
}

func (c *control) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	go func() {
		for {
			request, err := stream.Recv()
			switch {
			case err != nil:
				return
			case request.ResponseNonce != "":
				c.answers <- request
			case request.TypeUrl == policysync.EnvoyTypes[3]:
				c.known <- request.InitialResourceVersions
			}
		}
	}()
	for {
		select {
		case response := <-c.push:
			if err := stream.Send(response); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// answer pushes one resource, and returns why it was refused, "" when it was not.
func (c *control) answer(t *testing.T, version string, message proto.Message, name string) string {
	t.Helper()
	body, err := anypb.New(message)
	if err != nil {
		t.Fatal(err)
	}
	c.push <- &discovery.DeltaDiscoveryResponse{
		TypeUrl: body.TypeUrl, Nonce: version, SystemVersionInfo: "1", Resources: []*discovery.Resource{{Name: name, Version: version, Resource: body}},
	}
	select {
	case answer := <-c.answers:
		return answer.ErrorDetail.GetMessage()
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
		return ""
	}
}

// routes answer with text, under domains.
func routes(text string, domains ...string) *route.RouteConfiguration {
	return &route.RouteConfiguration{Name: "r", VirtualHosts: []*route.VirtualHost{{Name: "v", Domains: domains, Routes: []*route.Route{{
		Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
		Action: &route.Route_DirectResponse{DirectResponse: &route.DirectResponseAction{
			Status: 200, Body: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: text}},
		}},
	}}}}}
}

func outbound(t *testing.T) *listener.Listener {
	t.Helper()
	pack := func(m proto.Message) *anypb.Any {
		packed, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	ads := &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}, ResourceApiVersion: core.ApiVersion_V3}
	manager := &hcm.HttpConnectionManager{
		StatPrefix: "h", RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads, RouteConfigName: "r"}},
		HttpFilters: []*hcm.HttpFilter{{Name: "envoy.filters.http.router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&router.Router{})}}},
	}
	return &listener.Listener{
		Name:         meshname.ListenerOutbound,
		Address:      &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "127.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{}}}},
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{Name: "envoy.filters.network.http_connection_manager", ConfigType: &listener.Filter_TypedConfig{TypedConfig: pack(manager)}}}}},
	}
}

// TestRefusedIsTakenBack: what Envoy refuses is not what it starts again with, nor what the disk keeps; and with the next
// push all is tried again.
func TestRefusedIsTakenBack(t *testing.T) {
	path, _, err := bootstrap.FindEnvoy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "relay-") // short: Unix sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ports, err := freeport.Take(2)
	if err != nil {
		t.Fatal(err)
	}
	r := relay.New(ctx, relay.Config{Source: source(t, ctx, dir), Dir: dir, Ports: map[string]int{meshname.ListenerOutbound: ports[0]}})
	serve := func(name string, server discovery.AggregatedDiscoveryServiceServer) string {
		socket := filepath.Join(dir, name)
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		g := grpc.NewServer()
		discovery.RegisterAggregatedDiscoveryServiceServer(g, server)
		go func() { _ = g.Serve(l) }()
		t.Cleanup(g.Stop)
		return socket
	}
	c := &control{push: make(chan *discovery.DeltaDiscoveryResponse), answers: make(chan *discovery.DeltaDiscoveryRequest, 64), known: make(chan map[string]string, 8)}
	conn, err := grpc.NewClient("unix://"+serve("control.sock", c), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	state := filepath.Join(dir, "state.json")
	client, err := policysync.New(policysync.Config{
		Conn: conn, Sets: &policyset.Holder{}, Envoy: r, Path: state, Saved: func(*policyset.Set) {}, Log: zap.NewNop(),
	}, &policysync.State{Principal: "me", Resources: map[string]map[string]policysync.Resource{}})
	if err != nil {
		t.Fatal(err)
	}
	r.OnVerdict = client.Judged
	serve(meshname.SocketSidecar, r)
	text, err := bootstrap.Render(bootstrap.Config{NodeID: "n", Cluster: "c", RunDir: dir, AdminPort: ports[1]})
	if err != nil {
		t.Fatal(err)
	}
	envoy := &supervise.Envoy{Path: path, Bootstrap: filepath.Join(dir, "envoy.json"), AdminPort: ports[1], Log: zap.NewNop()}
	if err := envoy.WriteFile(text); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{envoy.Run, client.Run} {
		go func() { _ = run(ctx); ended <- struct{}{} }()
	}
	defer func() { cancel(); <-ended; <-ended }()
	<-c.known
	kept := func(version string) {
		t.Helper()
		await(t, func() bool {
			text, err := os.ReadFile(state)
			var file struct{ State policysync.State }
			return err == nil && json.Unmarshal(text, &file) == nil && file.State.Resources[policysync.EnvoyTypes[3]]["r"].Version == version
		})
	}
	says := func(want string) {
		t.Helper()
		await(t, func() bool {
			response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0]))
			if err != nil {
				return false
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			return string(body) == want
		})
	}
	if why := c.answer(t, "c1", &cluster.Cluster{Name: "unused"}, "unused"); why != "" {
		t.Fatal(why)
	}
	for version, m := range map[string]proto.Message{"l1": outbound(t), "r1": routes("one", "*")} {
		if why := c.answer(t, version, m, map[string]string{"l1": meshname.ListenerOutbound, "r1": "r"}[version]); why != "" {
			t.Fatal(why)
		}
	}
	says("one")
	kept("r1")
	if why := c.answer(t, "r2", routes("two", "*", "*"), "r"); !strings.Contains(why, "envoy") {
		t.Fatalf("two equal domains: refused with %q", why)
	}
	says("one")
	if err := syscall.Kill(envoy.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return envoy.Restarts() == 1 && envoy.PID() != 0 })
	says("one")
	kept("r1")
	if why := c.answer(t, "r3", routes("three", "*"), "r"); why != "" {
		t.Fatal(why)
	}
	says("three")
	kept("r3")
}

func source(t *testing.T, ctx context.Context, dir string) *svid.Source {
	t.Helper()
	socket, ready := filepath.Join(dir, "ca.sock"), make(chan struct{})
	go func() {
		_ = devca.Run(ctx, devca.Config{Socket: socket, DataDir: filepath.Join(dir, "ca"), TrustDomain: "mesh.example", Log: zap.NewNop()}, func() { close(ready) })
	}()
	<-ready
	id, err := identity.WorkloadID("mesh.example", "us-1", "front")
	if err != nil {
		t.Fatal(err)
	}
	if err := devca.NewClient(socket).Register(ctx, devca.Registration{ID: id, PID: os.Getpid(), UID: os.Getuid()}); err != nil {
		t.Fatal(err)
	}
	s, err := svid.Open(ctx, "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// await waits for what Envoy and the client do on their own time.
func await(t *testing.T, good func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !good() {
		select {
		case <-deadline:
			t.Fatal("it did not come to pass in 20 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
