package translator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
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
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// activeTime is how long an Envoy has to start and to make all that it was given active.
const activeTime = 30 * time.Second

// view is all that one proxy gets: a gateway, or a sidecar of one workload in one cell.
type view struct {
	name      string
	resources []translator.Resource
}

// views are the proxies of a mesh. A cell without a workload has none.
func views(resources map[string]translator.Resource) (list []view) {
	audiences := map[string][]string{translator.AudienceGateway: {translator.AudienceAll, translator.AudienceGateway}}
	for _, r := range resources {
		if cell, workload, ok := strings.Cut(strings.TrimPrefix(r.Audience, "cell/"), "/workload/"); ok {
			audiences[r.Audience] = translator.Audiences(cell, workload)
		}
	}
	for name, gets := range audiences {
		v := view{name: name}
		for _, r := range resources {
			if slices.Contains(gets, r.Audience) {
				v.resources = append(v.resources, r)
			}
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b view) int { return strings.Compare(a.name, b.name) })
	return list
}

// accepted gives each proxy of the mesh, a real Envoy of its own, all that it gets in production, and wants it active. It
// returns the keys of what was active somewhere.
func accepted(t *testing.T, source *svid.Source, resources map[string]translator.Resource) map[string]bool {
	t.Helper()
	active := map[string]bool{}
	for _, v := range views(resources) {
		ctx, cancel := context.WithTimeout(t.Context(), activeTime)
		if err := load(t, ctx, source, v.resources); err != nil {
			t.Errorf("Envoy of %s: %v", v.name, err)
		}
		cancel()
		for _, r := range v.resources {
			active[key(r)] = true
		}
	}
	return active
}

// TestBrokenIsNotAccepted: a golden case with one resource spoilt, of every type, does not pass [accepted]'s test.
func TestBrokenIsNotAccepted(t *testing.T) {
	source := source(t)
	const gateway, back = translator.AudienceGateway, "cell/us-1/workload/back"
	for _, test := range []struct {
		file, proxy, key string
		spoil            func(proto.Message)
		want             string
	}{
		{"exposed", gateway, "gateway|Listener|gateway", func(m proto.Message) {
			m.(*listenerv3.Listener).FilterChains[0].Filters[0].GetTypedConfig().TypeUrl = "type.googleapis.com/none"
		}, "registered implementation"},
		{"exposed", gateway, "gateway|Cluster|cell/us-1/workload/bin", func(m proto.Message) {
			m.(*clusterv3.Cluster).EdsClusterConfig = nil
		}, "without an EDS config"},
		{"exposed", gateway, "gateway|ClusterLoadAssignment|cell/us-1/workload/bin", func(m proto.Message) {
			m.(*endpointv3.ClusterLoadAssignment).Endpoints[0].LbEndpoints[0].GetEndpoint().Address.GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: 70000}
		}, "PortValue"},
		{"exposed", gateway, "gateway|RouteConfiguration|gateway/us-1", func(m proto.Message) {
			r := m.(*routev3.RouteConfiguration)
			r.VirtualHosts = append(r.VirtualHosts, r.VirtualHosts[0])
		}, "Only a single wildcard"},
		{"exposed", gateway, "gateway|ScopedRouteConfiguration|gateway/us-1", func(m proto.Message) {
			m.(*routev3.ScopedRouteConfiguration).Key.Fragments[0].Type = &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: "eu-1"}
		}, "scope key conflict"},
		{"tenants", gateway, "gateway|TypedExtensionConfig|gateway/jwt_authn", func(m proto.Message) {
			wrong, err := anypb.New(&jwtauthnv3.JwtAuthentication{Providers: map[string]*jwtauthnv3.JwtProvider{"login": {}}})
			if err != nil {
				t.Fatal(err)
			}
			m.(*corev3.TypedExtensionConfig).TypedConfig = wrong
		}, "jwks_source_specifier"},
		{"depends", back, back + "|Cluster|local_service", func(m proto.Message) {
			m.(*clusterv3.Cluster).EdsClusterConfig.ServiceName = "elsewhere" // accepted, and never warm
		}, "ClusterLoadAssignment|local_service"},
		{"depends", back, back + "|RouteConfiguration|outbound", nil, "RouteConfiguration|outbound"},
	} {
		t.Run(strings.ReplaceAll(test.key, "/", "."), func(t *testing.T) {
			resources := translate(t, archive(t, filepath.Join("testdata", test.file+".txtar")).Files[0].Data)
			broken, ok := resources[test.key]
			if !ok {
				t.Fatalf("%s is not made", test.key)
			}
			if broken.Message = proto.Clone(broken.Message); test.spoil != nil {
				test.spoil(broken.Message)
				resources[test.key] = broken
			}
			all := views(resources)
			v := all[slices.IndexFunc(all, func(v view) bool { return v.name == test.proxy })]
			var pushed []translator.Resource
			for _, r := range v.resources {
				if test.spoil != nil || key(r) != test.key {
					pushed = append(pushed, r)
				}
			}
			// What is refused is told at once; what never becomes active must be waited for.
			bound := activeTime
			if strings.Contains(test.want, "|") {
				bound = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			if err := load(t, ctx, source, pushed, v.resources...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, spoilt: %v; it should say %q", test.key, err, test.want)
			}
		})
	}
}

// load starts an Envoy behind the relay that every sidecar has, with secrets of a real CA on the same stream, and waits
// until each resource of its types is active. It says what Envoy refused, or what is not active when ctx ends. Wanted
// are the resources that are pushed, or if they are named, others.
func load(t *testing.T, ctx context.Context, source *svid.Source, pushed []translator.Resource, wanted ...translator.Resource) error {
	t.Helper()
	p := start(t, source, 0)
	defer p.stop()
	_, set := p.push(t, pushed)
	if len(wanted) == 0 {
		wanted = pushed
	}
	acked := map[string]bool{}
	for missing := expected(wanted, set); ; {
		select {
		case refusal := <-p.refusals:
			return refusal
		case v := <-p.verdicts:
			acked[short(v.typeURL)] = true
			continue
		case <-ctx.Done():
			return fmt.Errorf("not active: %s", strings.Join(missing, ", "))
		case <-time.After(20 * time.Millisecond): // Envoy does not tell when it has warmed
		}
		active, err := dump(ctx, p.ports[3])
		if err != nil {
			continue
		}
		missing = slices.DeleteFunc(expected(wanted, set), func(name string) bool {
			typ, _, _ := strings.Cut(name, "|")
			return active[name] && acked[typ]
		})
		if len(missing) > 0 {
			continue
		}
		select {
		case refusal := <-p.refusals:
			return refusal
		default:
			return nil
		}
	}
}

// proxy is an Envoy that runs behind a relay.
type proxy struct {
	relay    *relay.Relay
	ports    []int // gateway, inbound, outbound, admin
	refusals chan error
	verdicts chan verdict
	stop     func()
}

// verdict is that Envoy took what it was given of a type with an update.
type verdict struct {
	typeURL  string
	sequence int64
}

// start starts an Envoy whose service listens on a port.
func start(t *testing.T, source *svid.Source, service int) *proxy {
	t.Helper()
	path, _, err := bootstrap.FindEnvoy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	p := &proxy{ports: ports(t, 5), refusals: make(chan error, 1), verdicts: make(chan verdict, 1024)}
	work, stop := context.WithCancel(t.Context())
	p.relay = relay.New(work, relay.Config{Source: source, Dir: dir, Address: "127.0.0.1", ServicePort: service, Ports: map[string]int{
		meshname.ListenerGateway: p.ports[0], meshname.ListenerInbound: p.ports[1], meshname.ListenerOutbound: p.ports[2], meshname.ListenerCaptured: p.ports[4],
	}})
	p.relay.OnVerdict = func(typeURL string, sequence int64, refusal error) {
		if refusal == nil {
			p.verdicts <- verdict{typeURL, sequence}
			return
		}
		select {
		case p.refusals <- fmt.Errorf("%s is refused: %w", typeURL, refusal):
		default:
		}
	}
	listener, err := net.Listen("unix", filepath.Join(dir, meshname.SocketSidecar))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, p.relay)
	go func() { _ = server.Serve(listener) }()
	text, err := bootstrap.Render(bootstrap.Config{NodeID: "test", Cluster: "test", RunDir: dir, AdminPort: p.ports[3]})
	if err != nil {
		t.Fatal(err)
	}
	envoy := &supervise.Envoy{Path: path, Bootstrap: filepath.Join(dir, "envoy.json"), AdminPort: p.ports[3], Log: zap.NewNop()}
	if err := envoy.WriteFile(text); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = envoy.Run(work) }()
	p.stop = func() {
		stop()
		<-ended
		server.Stop()
	}
	return p
}

// push gives the Envoy resources, all that it is to have.
func (p *proxy) push(t *testing.T, resources []translator.Resource) (sequence int64, set *policyset.Set) {
	t.Helper()
	state, set := pushedState(t, resources)
	sequence, err := p.relay.Update(state, set)
	if err != nil {
		t.Fatal(err)
	}
	return sequence, set
}

// pushedState is a sidecar's state of what was pushed, and the set that its Go process makes of it.
func pushedState(t *testing.T, resources []translator.Resource) (*policysync.State, *policyset.Set) {
	t.Helper()
	state := &policysync.State{Resources: map[string]map[string]policysync.Resource{}}
	var changes []policyset.Change
	for _, r := range resources {
		if policyset.New(r.TypeURL) != nil {
			changes = append(changes, policyset.Change{TypeURL: r.TypeURL, Name: r.Name, Message: r.Message})
			continue
		}
		body, err := proto.Marshal(r.Message)
		if err != nil {
			t.Fatal(err)
		}
		if state.Resources[r.TypeURL] == nil {
			state.Resources[r.TypeURL] = map[string]policysync.Resource{}
		}
		state.Resources[r.TypeURL][r.Name] = policysync.Resource{Version: "1", Body: body}
	}
	set, err := (*policyset.Set)(nil).With(changes, 1)
	if err != nil {
		t.Fatal(err)
	}
	return state, set
}

// expected are the resources that Envoy must show, as "<type>|<name>": those of its types, and what the Go process adds.
func expected(resources []translator.Resource, set *policyset.Set) (names []string) {
	for _, r := range resources {
		if slices.Contains(policysync.EnvoyTypes, r.TypeURL) {
			names = append(names, short(r.TypeURL)+"|"+r.Name)
		}
	}
	if set.Self.Workload != "" {
		names = append(names, "ClusterLoadAssignment|"+meshname.ClusterLocalService, "Secret|"+meshname.SecretSVID, "Secret|"+meshname.SecretPeers)
	}
	return names
}

// dump asks an Envoy what is active, as "<type>|<name>".
func dump(ctx context.Context, port int) (map[string]bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/config_dump?include_eds", port), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	type named struct {
		Name string `json:"name"`
	}
	var all struct {
		Configs []struct {
			Listeners []struct {
				named
				Active *struct{} `json:"active_state"`
			} `json:"dynamic_listeners"`
			Clusters []struct {
				Cluster named `json:"cluster"`
			} `json:"dynamic_active_clusters"`
			Endpoints []struct {
				Assignment struct {
					Cluster string `json:"cluster_name"`
				} `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
			Routes []struct {
				Route named `json:"route_config"`
			} `json:"dynamic_route_configs"`
			Scopes []struct {
				Scopes []named `json:"scoped_route_configs"`
			} `json:"dynamic_scoped_route_configs"`
			Extensions []struct {
				Extension named `json:"ecds_filter"`
			} `json:"ecds_filters"`
			Secrets []named `json:"dynamic_active_secrets"`
		} `json:"configs"`
	}
	if err := json.NewDecoder(response.Body).Decode(&all); err != nil {
		return nil, err
	}
	active := map[string]bool{}
	for _, c := range all.Configs {
		for _, l := range c.Listeners {
			active["Listener|"+l.Name] = l.Active != nil
		}
		for _, cluster := range c.Clusters {
			active["Cluster|"+cluster.Cluster.Name] = true
		}
		for _, e := range c.Endpoints {
			active["ClusterLoadAssignment|"+e.Assignment.Cluster] = true
		}
		for _, r := range c.Routes {
			active["RouteConfiguration|"+r.Route.Name] = true
		}
		for _, s := range c.Scopes {
			for _, scope := range s.Scopes {
				active["ScopedRouteConfiguration|"+scope.Name] = true
			}
		}
		for _, e := range c.Extensions {
			active["TypedExtensionConfig|"+e.Extension.Name] = true
		}
		for _, s := range c.Secrets {
			active["Secret|"+s.Name] = true
		}
	}
	return active, nil
}

// source gives SVIDs and the bundle of a development CA of the test's own.
func source(t *testing.T) *svid.Source {
	t.Helper()
	dir, ready := shortDir(t), make(chan struct{})
	socket := filepath.Join(dir, "ca.sock")
	go func() {
		_ = devca.Run(t.Context(), devca.Config{Socket: socket, DataDir: filepath.Join(dir, "ca"), TrustDomain: "mesh.example", Log: zap.NewNop()}, func() { close(ready) })
	}()
	<-ready
	id, err := identity.WorkloadID("mesh.example", "us-1", "front")
	if err != nil {
		t.Fatal(err)
	}
	if err := devca.NewClient(socket).Register(t.Context(), devca.Registration{ID: id, PID: os.Getpid(), UID: os.Getuid()}); err != nil {
		t.Fatal(err)
	}
	s, err := svid.Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// shortDir is a folder whose path leaves room for a Unix socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "golden-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func ports(t *testing.T, n int) []int {
	t.Helper()
	list, err := freeport.Take(n)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func short(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

func key(r translator.Resource) string { return r.Audience + "|" + short(r.TypeURL) + "|" + r.Name }
