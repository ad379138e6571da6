package sidecar

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/durationpb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/accesslog"
	"github.com/tenantmesh/tenantmesh/sidecar/attribution"
	"github.com/tenantmesh/tenantmesh/sidecar/audit"
	"github.com/tenantmesh/tenantmesh/sidecar/coverage"
	"github.com/tenantmesh/tenantmesh/sidecar/datacommand"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
	"github.com/tenantmesh/tenantmesh/sidecar/durable"
	"github.com/tenantmesh/tenantmesh/sidecar/extauthz"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/mover"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
	"github.com/tenantmesh/tenantmesh/sidecar/position"
	"github.com/tenantmesh/tenantmesh/sidecar/quota"
	"github.com/tenantmesh/tenantmesh/sidecar/ratelimit"
	"github.com/tenantmesh/tenantmesh/sidecar/relay"
	"github.com/tenantmesh/tenantmesh/sidecar/report"
	"github.com/tenantmesh/tenantmesh/sidecar/shadow"
	"github.com/tenantmesh/tenantmesh/sidecar/streams"
	"github.com/tenantmesh/tenantmesh/sidecar/supervise"
	"github.com/tenantmesh/tenantmesh/sidecar/wire"
	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
)

// Config says how a sidecar runs. Its JSON form is that of the YAML configuration file.
type Config struct {
	Role         string `json:"role"`                  // gateway or sidecar
	Control      string `json:"control"`               // host:port of the control plane's xDS; several with commas between
	ControlAPI   string `json:"controlAPI,omitempty"`  // host:port of its admin API, to poll while the stream is down; several with commas between
	WorkloadAPI  string `json:"workloadAPI,omitempty"` // "unix:///path"; default: the environment's
	DataDir      string `json:"dataDir"`               // keeps the member's ID, its signing key and the last good state
	Address      string `json:"address,omitempty"`     // of the inbound or gateway listener, as peers reach it, and of /metrics and health; default 127.0.0.1
	ServicePort  int    `json:"servicePort,omitempty"` // where the service listens on 127.0.0.1; default: the Workload's
	GatewayPort  int    `json:"gatewayPort,omitempty"`
	InboundPort  int    `json:"inboundPort,omitempty"`
	OutboundPort int    `json:"outboundPort,omitempty"`
	AdminPort    int    `json:"adminPort,omitempty"`
	Capture      bool   `json:"capture,omitempty"`      // take the calls that rules of the kernel send to CapturedPort (docs/capture.md)
	CapturedPort int    `json:"capturedPort,omitempty"` // on the loopback addresses
	HostsFile    string `json:"hostsFile,omitempty"`    // with Capture: the hosts file of the service, in which the names that it may call are kept; "": none
	ProbePath    string `json:"probePath,omitempty"`    // path of the service's own health, asked by /probe on the health port; "": there is no /probe
	MetricsPort  int    `json:"metricsPort,omitempty"`
	HealthPort   int    `json:"healthPort,omitempty"`
	MoverPort    int    `json:"moverPort,omitempty"`    // of a gateway: other gateways send it the writes of tenants that it moves
	MoverAddress string `json:"moverAddress,omitempty"` // of a gateway: the one IP address that takes them, as other gateways reach it; default Address
	MaxBody      int64  `json:"maxBody,omitempty"`      // of a gateway: bytes of a request of a tenant that moves; default 64 MiB
	Concurrency  int    `json:"concurrency,omitempty"`  // Envoy's worker threads; default 1, of a gateway as many as there are CPUs for this process
	// RateLimitAddress is where the rate limit service (envoy.service.ratelimit.v3) answers Envoys that are not the mesh's, over
	// mTLS; "" for nowhere. RateLimitClients are the SPIFFE patterns of who may ask: whoever asks uses up tenants' limits.
	RateLimitAddress string   `json:"rateLimitAddress,omitempty"`
	RateLimitClients []string `json:"rateLimitClients,omitempty"`
	// DataCommands move a tenant's data where the Workload says tenantData.commands.
	DataCommands datacommand.Commands `json:"dataCommands,omitzero"`
	AuditRoom    int64                `json:"auditRoom,omitempty"` // bytes of audit events that wait for the control plane on the disk; default 64 MiB
	Service      Service              `json:"-"`                   // that this process started; nil: it started none
	Drain        time.Duration        `json:"-"`                   // how long open requests have at the end
	Staleness    decide.Staleness     `json:"-"`
	Version      string               `json:"-"`
	Log          *zap.Logger          `json:"-"`
}

// Defaults fills in what is not said.
func (c *Config) Defaults() {
	for _, port := range []struct {
		field *int
		value int
	}{
		{&c.GatewayPort, meshname.PortGateway}, {&c.InboundPort, meshname.PortInbound}, {&c.OutboundPort, meshname.PortOutbound},
		{&c.AdminPort, meshname.PortAdmin}, {&c.MetricsPort, meshname.PortMetrics}, {&c.HealthPort, meshname.PortHealth}, {&c.MoverPort, meshname.PortMover},
		{&c.CapturedPort, meshname.PortCaptured},
	} {
		if *port.field == 0 {
			*port.field = port.value
		}
	}
	if c.Address == "" {
		c.Address = "127.0.0.1"
	}
	if c.MoverAddress == "" {
		c.MoverAddress = c.Address
	}
	if c.Concurrency == 0 {
		c.Concurrency = 1
		if c.Role == "gateway" {
			c.Concurrency = runtime.GOMAXPROCS(0)
		}
	}
}

// Check returns every problem of the configuration.
func (c *Config) Check() error {
	var problems []error
	if c.Role != "gateway" && c.Role != "sidecar" {
		problems = append(problems, fmt.Errorf("role must be gateway or sidecar (got %q)", c.Role))
	}
	for _, address := range strings.Split(c.Control, ",") {
		if _, _, err := net.SplitHostPort(address); err != nil {
			problems = append(problems, fmt.Errorf("control must be host:port, or several with commas between (got %q)", c.Control))
		}
	}
	for _, address := range c.controlAPIs() {
		if _, _, err := net.SplitHostPort(address); err != nil {
			problems = append(problems, fmt.Errorf("control-api must be host:port, or several with commas between (got %q)", c.ControlAPI))
		}
	}
	if c.DataDir == "" {
		problems = append(problems, errors.New(`data-dir must be set (got "")`))
	}
	if c.RateLimitAddress != "" {
		if _, _, err := net.SplitHostPort(c.RateLimitAddress); err != nil {
			problems = append(problems, fmt.Errorf("ratelimit-address must be host:port (got %q)", c.RateLimitAddress))
		}
		if len(c.RateLimitClients) == 0 {
			problems = append(problems, errors.New("ratelimit-clients must say who may ask at ratelimit-address (got none)"))
		}
	}
	for _, client := range c.RateLimitClients {
		if _, err := identity.ParsePattern(client); err != nil {
			problems = append(problems, fmt.Errorf("ratelimit-clients: %w", err))
		}
	}
	if c.AuditRoom < 0 {
		problems = append(problems, fmt.Errorf("auditRoom must be at least 0 (got %d)", c.AuditRoom))
	}
	if c.MaxBody < 0 {
		problems = append(problems, fmt.Errorf("max-body must be at least 0 (got %d)", c.MaxBody))
	}
	if c.Concurrency < 0 {
		problems = append(problems, fmt.Errorf("concurrency must be at least 1 (got %d)", c.Concurrency))
	}
	// Clients may come by every address; other gateways are told of one, and no more is opened for them.
	if ip := net.ParseIP(c.MoverAddress); c.Role == "gateway" && (ip == nil || ip.IsUnspecified()) {
		problems = append(problems, fmt.Errorf("mover-address must be an IP address that other gateways can reach (got %q)", c.MoverAddress))
	}
	if c.Capture && c.Role != "sidecar" {
		problems = append(problems, fmt.Errorf("capture must be a sidecar's (role is %q)", c.Role))
	}
	if c.HostsFile != "" && !c.Capture {
		problems = append(problems, fmt.Errorf("hosts-file must come with capture (got %q)", c.HostsFile))
	}
	if c.ProbePath != "" && (c.ProbePath[0] != '/' || strings.ContainsAny(c.ProbePath, "?# ")) {
		problems = append(problems, fmt.Errorf("probe-path must be a path without a query, like /healthz (got %q)", c.ProbePath))
	}
	if ip := net.ParseIP(c.Address); ip == nil {
		problems = append(problems, fmt.Errorf("address must be an IP address (got %q)", c.Address))
	} else if c.Role == "sidecar" && ip.IsUnspecified() {
		problems = append(problems, fmt.Errorf("address must be one that peers can reach (got %q)", c.Address))
	}
	return errors.Join(problems...)
}

// controlAPIs are the admin APIs that are polled, none when there is no setting.
func (c *Config) controlAPIs() []string {
	if c.ControlAPI == "" {
		return nil
	}
	return strings.Split(c.ControlAPI, ",")
}

// maxMessage bounds what the control plane may send at once: 12,000 tenants are about 2 MB.
const maxMessage = 64 << 20

// Run runs until ctx ends, then drains. ready is called once Envoy serves.
func Run(ctx context.Context, config Config, ready func()) error {
	if err := config.Check(); err != nil {
		return err
	}
	envoyPath, envoyVersion, err := bootstrap.FindEnvoy(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return err
	}
	member, err := memberID(filepath.Join(config.DataDir, "member-id"))
	if err != nil {
		return err
	}
	source, err := svid.Open(ctx, config.WorkloadAPI)
	if err != nil {
		return err
	}
	defer source.Close()
	self, err := source.Principal()
	if err != nil {
		return err
	}
	control, err := identity.ControlID(self.TrustDomain())
	if err != nil {
		return err
	}
	// One of them, at random; another when that one is gone.
	controls := strings.Split(config.Control, ",")
	conn, err := dial(source, control, controls)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Only one of them divides limits, and it is looked for.
	var allocators []*grpc.ClientConn
	for _, address := range controls {
		allocator, err := grpc.NewClient("passthrough:///"+address, dialOptions(source, control, grpc.WithConnectParams(quota.ConnectParams))...)
		if err != nil {
			return err
		}
		defer allocator.Close()
		allocators = append(allocators, allocator)
	}
	s := &sidecar{config: config, self: self, control: control, source: source, sets: &policyset.Holder{}, registry: prometheus.NewRegistry(), member: member, inflight: inflight.New(inflight.Options{})}
	s.position = position.New(s.inflight)
	s.envoy = &supervise.Envoy{Path: envoyPath, Bootstrap: filepath.Join(config.DataDir, "envoy.json"), Concurrency: config.Concurrency, AdminPort: config.AdminPort, Log: config.Log}
	return s.run(ctx, conn, allocators, self, envoyVersion, ready)
}

// dial connects to one of some control planes.
func dial(source *svid.Source, control identity.Principal, controls []string) (*grpc.ClientConn, error) {
	addresses, state := manual.NewBuilderWithScheme("control"), resolver.State{}
	for _, address := range controls {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	addresses.InitialState(state)
	return grpc.NewClient("control:///control", dialOptions(source, control, grpc.WithResolvers(addresses), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}`))...)
}

func dialOptions(source *svid.Source, control identity.Principal, more ...grpc.DialOption) []grpc.DialOption {
	return append(more, grpc.WithTransportCredentials(credentials.NewTLS(svid.ClientTLS(source, svid.AuthorizeIDs(control)))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
}

// memberID is this member's durable ID: 32 hex digits, made once.
func memberID(path string) (string, error) {
	text, err := os.ReadFile(path)
	if _, wrong := hex.DecodeString(string(text)); err == nil && wrong == nil && len(text) == 32 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	encoded := hex.EncodeToString(id[:])
	return encoded, durable.WriteFile(path, []byte(encoded)) // what is reported under it must not outlive it
}

type sidecar struct {
	config   Config
	self     identity.Principal
	control  identity.Principal
	source   *svid.Source
	sets     *policyset.Holder
	registry *prometheus.Registry
	envoy    *supervise.Envoy
	member   string
	decider  *decide.Decider
	streams  *streams.Server
	inflight *inflight.Ledger
	position *position.Tracker
	shares   *quota.Shares
	relay    *relay.Relay
	client   atomic.Pointer[policysync.Client]
	serving  atomic.Bool
	draining atomic.Bool
	began    time.Time   // of the process
	left     atomic.Bool // what the disk remembers is not to be served again
}

func (s *sidecar) run(ctx context.Context, conn *grpc.ClientConn, allocators []*grpc.ClientConn, self identity.Principal, envoyVersion string, ready func()) error {
	// Work goes on while requests drain after ctx has ended.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	c := s.config
	ports := map[string]int{meshname.ListenerGateway: c.GatewayPort, meshname.ListenerInbound: c.InboundPort, meshname.ListenerOutbound: c.OutboundPort}
	if c.Capture {
		ports[meshname.ListenerCaptured] = c.CapturedPort
	}
	s.relay = relay.New(work, relay.Config{Source: s.source, Dir: c.DataDir, Address: c.Address, ServicePort: c.ServicePort, Ports: ports})
	s.began = time.Now()
	decisions := decisionlog.New(s.member, c.Log)
	recorder, err := audit.Open(audit.Config{Member: s.member, Dir: filepath.Join(c.DataDir, "audit"), Room: c.AuditRoom, Signer: svid.Signer{Source: s.source}, Metrics: audit.NewMetrics(s.registry), Log: c.Log, Now: time.Now})
	if err != nil {
		return err
	}
	meter := ledger.NewMeter()
	address, port := c.Address, c.InboundPort
	if c.Role == "gateway" {
		address, port = c.MoverAddress, c.MoverPort
	}
	reporter, err := report.New(report.Config{
		Conn: conn, Principal: self, Dir: c.DataDir, Log: decisions, Meter: meter, Positions: s.position.Positions, Certificate: s.certificate, Pulse: s.pulse, Zap: c.Log, Top: s.top, Shadow: s.watching, Uses: s.uses, Coverage: s.coverage, Audit: recorder,
		Hello: &api.Hello{MemberId: s.member, Version: c.Version, EnvoyVersion: envoyVersion, Address: address, Port: uint32(port), GrantAge: durationpb.New(cmp.Or(c.Staleness.Grants, meshname.GrantTime)), IssuerAge: durationpb.New(cmp.Or(c.Staleness.Issuers, meshname.IssuerTime))},
	}, s.signs, time.Now())
	if err != nil {
		return err
	}
	limiter := limit.New(limit.Options{})
	s.shares = quota.New(s.member, limiter, time.Now())
	shared, err := quota.NewClient(quota.Config{Shares: s.shares, Conns: allocators, Path: filepath.Join(c.DataDir, "shared-limits.json"), Now: time.Now, Log: c.Log})
	if err != nil {
		return err
	}
	s.decider = decide.New(decide.Config{
		Sets: s.sets, Limiter: limiter, Shares: s.shares, Attribution: attribution.New(attribution.Options{}), InFlight: s.inflight, Log: decisions, Meter: meter,
		Signer: reporter.Signer, Member: s.member, Metrics: decide.NewMetrics(s.registry), Now: time.Now, Staleness: c.Staleness, Shadows: shadow.New(), Uses: shadow.New(), Coverage: coverage.New(), Audit: recorder,
	})
	s.envoy.Ended = s.decider.EnvoyEnded
	s.streams = streams.New(s.decider, c.Log)
	RegisterMetrics(s.registry, s.gauges())
	client, err := s.restore(conn, self)
	if err != nil {
		return err
	}
	s.client.Store(client)
	s.names(s.sets.Load())
	s.relay.OnVerdict = client.Judged

	group, work := errgroup.WithContext(work)
	if err := s.serve(work, group); err != nil {
		return err
	}
	text, err := bootstrap.Render(bootstrap.Config{NodeID: s.member, Cluster: c.Role, RunDir: c.DataDir, AdminPort: c.AdminPort})
	if err != nil {
		return err
	}
	if err := s.envoy.WriteFile(text); err != nil {
		return err
	}
	group.Go(func() error { return s.envoy.Run(work) })
	group.Go(func() error { return client.Run(work) })
	group.Go(func() error { return reporter.Run(work) })
	group.Go(func() error { return recorder.Run(work) })
	group.Go(func() error { return shared.Run(work) })
	group.Go(func() error { return s.rotate(work, reporter) })
	group.Go(func() error { return s.streams.Run(work) })
	group.Go(func() error { return s.watch(work, reporter, ready) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			s.drain(work, reporter)
		case <-work.Done():
		}
		stop()
		return nil
	})
	err = group.Wait()
	if s.left.Load() {
		err = errors.Join(err, os.Remove(s.statePath()))
	}
	return err
}

func (s *sidecar) statePath() string { return filepath.Join(s.config.DataDir, "last-good-state.json") }

// restore begins with the last good state. One that cannot be used is named and left; the control plane has another.
func (s *sidecar) restore(conn *grpc.ClientConn, self identity.Principal) (*policysync.Client, error) {
	config := policysync.Config{Conn: conn, Sets: s.sets, Envoy: s.relay, Path: s.statePath(), Saved: s.saved, Log: s.config.Log, Poll: s.poll()}
	state, err := policysync.Load(config.Path, self.String())
	if err == nil {
		var client *policysync.Client
		if client, err = policysync.New(config, state); err == nil {
			return client, nil
		}
		state = &policysync.State{Principal: self.String(), Resources: map[string]map[string]policysync.Resource{}}
	}
	s.config.Log.Error("the last good state is not used", zap.Error(err))
	return policysync.New(config, state)
}

// saved takes note of what is on the disk.
func (s *sidecar) saved(set *policyset.Set) {
	s.names(set)
	s.shares.Saved(set)
	s.position.Saved(set)
}

// poll is how this sidecar asks for what cannot be pushed: by its own identity, of who is the control plane by its own.
func (s *sidecar) poll() policysync.Poll {
	var poll policysync.Poll
	for _, address := range s.config.controlAPIs() {
		poll.URLs = append(poll.URLs, "https://"+address+meshname.PathSidecarResources)
	}
	if len(poll.URLs) > 0 {
		poll.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: svid.ClientTLS(s.source, svid.AuthorizeIDs(s.control)), ForceAttemptHTTP2: true}}
	}
	return poll
}

// signs reports whether this member may sign contexts: a gateway, or the sidecar of a bound workload.
func (s *sidecar) signs() bool {
	set := s.sets.Load()
	return set != nil && set.Self != nil && (set.Self.Role == "gateway" || !set.Self.BoundTenant.IsZero())
}

// ServerOptions are those of the gRPC server that answers Envoy.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		wire.ServerOption(),
		grpc.MaxConcurrentStreams(4096),
		// Goroutines that stay answer checks without growing a stack for each; Envoy's long streams take a few of them.
		grpc.NumStreamWorkers(uint32(16 + 2*runtime.GOMAXPROCS(0))),
		// Over a Unix socket there is no bandwidth to estimate, which costs a ping for every window.
		grpc.StaticStreamWindowSize(1 << 20), grpc.StaticConnWindowSize(4 << 20),
	}
}

// serve answers Envoy on two Unix sockets, and the world on the metrics and health ports.
func (s *sidecar) serve(ctx context.Context, group *errgroup.Group) error {
	g := grpc.NewServer(ServerOptions()...)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s.relay)
	extauthz.Register(g, s.decider)
	accesslog.Register(g, s.decider)
	limits := &ratelimit.Server{Sets: s.sets, Limiter: s.decider.Limiter, Shares: s.shares, Now: time.Now}
	rls.RegisterRateLimitServiceServer(g, &ratelimit.Connections{RateLimitServiceServer: limits, Decider: s.decider})
	if err := s.serveLimits(ctx, group, limits); err != nil {
		return err
	}
	socket, err := listenUnix(filepath.Join(s.config.DataDir, meshname.SocketSidecar))
	if err != nil {
		return err
	}
	keys, err := listenUnix(filepath.Join(s.config.DataDir, meshname.SocketJWKS))
	if err != nil {
		return err
	}
	streamSocket, err := listenUnix(filepath.Join(s.config.DataDir, meshname.SocketStreams))
	if err != nil {
		return err
	}
	moveSocket, err := listenUnix(filepath.Join(s.config.DataDir, meshname.SocketMove))
	if err != nil {
		return err
	}
	metrics, err := net.Listen("tcp", fmt.Sprintf("%s:%d", s.config.Address, s.config.MetricsPort))
	if err != nil {
		return err
	}
	health, err := net.Listen("tcp", fmt.Sprintf("%s:%d", s.config.Address, s.config.HealthPort))
	if err != nil {
		return err
	}
	metricsMux := http.NewServeMux()
	metricsMux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	healthMux := http.NewServeMux()
	healthMux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	healthMux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.serving.Load() || s.draining.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	healthMux.HandleFunc("GET "+propagation.PathContextKeys, s.contextKeys)
	if s.config.Role == "sidecar" {
		tokens := s.eventTokens()
		healthMux.Handle("POST "+event.PathSeal, tokens)
		healthMux.Handle("POST "+event.PathOpen, tokens)
	}
	if s.config.ProbePath != "" {
		healthMux.HandleFunc("GET /probe", s.probe)
	}
	group.Go(func() error { return g.Serve(socket) })
	context.AfterFunc(ctx, g.Stop)
	open := grpc.NewServer()
	extproc.RegisterExternalProcessorServer(open, s.streams)
	group.Go(func() error { return open.Serve(streamSocket) })
	context.AfterFunc(ctx, open.Stop)
	move, err := s.moves(ctx, group)
	if err != nil {
		return err
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	for listener, handler := range map[net.Listener]http.Handler{keys: http.HandlerFunc(s.jwks), moveSocket: move, metrics: metricsMux, health: healthMux} {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, Protocols: protocols}
		context.AfterFunc(ctx, func() { _ = server.Close() })
		group.Go(func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// serveLimits answers Envoys that are not the mesh's.
func (s *sidecar) serveLimits(ctx context.Context, group *errgroup.Group, limits *ratelimit.Server) error {
	if s.config.RateLimitAddress == "" {
		return nil
	}
	var clients []identity.Pattern
	for _, text := range s.config.RateLimitClients {
		pattern, err := identity.ParsePattern(text)
		if err != nil {
			return err
		}
		clients = append(clients, pattern)
	}
	listener, err := net.Listen("tcp", s.config.RateLimitAddress)
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.MaxConcurrentStreams(4096), grpc.Creds(credentials.NewTLS(svid.ServerTLS(s.source, func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if !slices.ContainsFunc(clients, func(p identity.Pattern) bool { return p.Match(identity.PrincipalOf(id)) }) {
			return fmt.Errorf("peer must be one of ratelimit-clients (is %s)", id)
		}
		return nil
	}))))
	rls.RegisterRateLimitServiceServer(g, limits)
	group.Go(func() error { return g.Serve(listener) })
	context.AfterFunc(ctx, g.Stop)
	return nil
}

// moves is who answers on the socket of moves: a gateway's mover, or the commands beside a workload.
func (s *sidecar) moves(ctx context.Context, group *errgroup.Group) (http.Handler, error) {
	c := s.config
	if c.Role != "gateway" {
		return datacommand.New(c.DataCommands, filepath.Join(c.DataDir, "fences.json"), c.Log)
	}
	domain := svid.AuthorizeTrustDomain(s.self.TrustDomain())
	m := mover.New(mover.Config{
		Decider: s.decider, Sets: s.sets, Member: s.member, Egress: filepath.Join(c.DataDir, meshname.SocketEgress), Dir: filepath.Join(c.DataDir, "journal"),
		Peers: svid.ClientTLS(s.source, s.gateways(domain)), MaxBody: c.MaxBody,
	})
	listener, err := net.Listen("tcp", net.JoinHostPort(c.MoverAddress, strconv.Itoa(c.MoverPort)))
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: s.byPeer(m.Peer()), TLSConfig: svid.ServerTLS(s.source, s.members(domain)), ReadHeaderTimeout: 5 * time.Second, ErrorLog: zap.NewStdLog(c.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel)))}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	group.Go(func() error {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error { return m.Run(ctx, s.position.Copied, c.Log) })
	return m, nil
}

// gateways permits the gateways of the mesh, as they are now.
func (s *sidecar) gateways(domain svid.Authorizer) svid.Authorizer {
	return func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		if err := domain(id, chains); err != nil {
			return err
		}
		if set := s.sets.Load(); set == nil || set.Self == nil || !set.Self.Peers[identity.PrincipalOf(id)] {
			return fmt.Errorf("peer must be a gateway of this mesh (is %s)", id)
		} else if len(chains) > 0 && set.Self.Fenced[report.Fingerprint(chains[0][0])] {
			return fmt.Errorf("peer must not be an instance that was shut out (is %s)", id)
		}
		return nil
	}
}

// certificate is the one that peers are shown.
func (s *sidecar) certificate() (*x509.Certificate, error) {
	own, err := s.source.X509SVID()
	if err != nil {
		return nil, err
	}
	return own.Certificates[0], nil
}

// pulse notes that the control plane reaches its store.
func (s *sidecar) pulse(now time.Time) {
	if client := s.client.Load(); client != nil {
		client.Pulse(now)
	}
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(path, 0o600)
}

// jwks gives Envoy an issuer's keys, as they were pushed.
func (s *sidecar) jwks(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, "/jwks/")
	set := s.sets.Load()
	if !ok || set == nil || set.Issuers[name] == nil {
		http.NotFound(w, r)
		return
	}
	keys, err := set.Issuers[name].ForEnvoy()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	if _, err := w.Write(keys); err == nil {
		set.Issuers[name].Fetched(time.Now())
	}
}

// rotate gives Envoy each new SVID.
func (s *sidecar) rotate(ctx context.Context, reporter *report.Reporter) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.source.Updated():
			reporter.Rotated()
			if err := s.relay.Rotated(); err != nil {
				s.config.Log.Error("a rotated SVID could not be given to Envoy", zap.Error(err))
			}
		}
	}
}

// watch looks whether Envoy's listener accepts connections, and says so.
func (s *sidecar) watch(ctx context.Context, reporter *report.Reporter, ready func()) error {
	port := s.config.InboundPort
	if s.config.Role == "gateway" {
		port = s.config.GatewayPort
	}
	address := net.JoinHostPort(s.config.Address, fmt.Sprint(port))
	dialer := net.Dialer{Timeout: time.Second}
	warned := false
	patience := time.Now().Add(shareTime)
	for first := true; ; {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		// A gateway serves once it can sign; a sidecar does not sign, unless it is bound.
		serving := err == nil && (!s.signs() || reporter.Signer() != nil) && (!first || s.shares.Ready(time.Now()) || time.Now().After(patience))
		s.serving.Store(serving)
		reporter.SetReady(serving && !s.draining.Load())
		if serving && first {
			first = false
			ready()
		}
		pause := 50 * time.Millisecond
		if serving {
			pause = time.Second
		}
		if old := s.sets.Age(time.Now()) > warnAge; old != warned {
			if warned = old; old {
				s.config.Log.Warn("the control plane has not been heard for a while; what was pushed last stays in force", zap.Duration("age", s.sets.Age(time.Now())))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// shareTime is how long a member that begins waits for its share of limits: it could only refuse.
const shareTime = 3 * time.Second

// warnAge is how old the configuration may be without a word.
const warnAge = time.Minute

// Service is the service beside a sidecar that started it.
type Service interface {
	Running() bool
	Stop() // tells it to end; it may take its time
}

// drain takes this member out of the mesh, and waits until its requests and its service are gone, or the deadline.
func (s *sidecar) drain(ctx context.Context, reporter *report.Reporter) {
	s.draining.Store(true)
	reporter.SetReady(false)
	drain := func(path string) {
		if err := s.envoy.Post(ctx, path); err != nil {
			s.config.Log.Warn("envoy could not be told to drain", zap.Error(err))
		}
	}
	deadline := time.NewTimer(s.config.Drain)
	defer deadline.Stop()
	// Each answer ends its connection, while those who send are told to go elsewhere; then nobody is let in.
	drain("/drain_listeners?inboundonly&graceful&skip_exit")
	select {
	case <-ctx.Done():
		return
	case <-time.After(min(lameTime, s.config.Drain/2)):
	}
	drain("/drain_listeners?inboundonly")
	if s.config.Service != nil {
		s.config.Service.Stop()
	}
	for over := false; !over && (s.inflight.Open() > 0 || s.serviceAnswers(ctx)); {
		select {
		case <-deadline.C:
			over = true
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	if open := s.inflight.Open(); open > 0 {
		s.config.Log.Warn("requests are open at the end of the drain; this member counts as one that will come back", zap.Int("open", open))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := reporter.Leave(ctx); err != nil {
		s.config.Log.Warn("the control plane could not be told that this member leaves; it counts as one that will come back", zap.Error(err))
		return
	}
	s.left.Store(true)
}

// lameTime is how long a member that drains still takes new connections: the others need as long to hear of it.
const lameTime = time.Second

// leaveTime is how long the control plane has to note that a member leaves.
const leaveTime = 2 * time.Second

func (s *sidecar) serviceAnswers(ctx context.Context) bool {
	if s.config.Service != nil {
		return s.config.Service.Running()
	}
	set := s.sets.Load()
	if s.config.Role == "gateway" || set == nil || set.Self == nil {
		return false
	}
	port := s.servicePort(set)
	dialer := net.Dialer{Timeout: 200 * time.Millisecond}
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}
