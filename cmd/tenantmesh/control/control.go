// Package control assembles the control plane: store, admin API, publisher, xDS.
//
// It imports tenantstore, xds, identity and ledger, and is imported by the command and by the test kit.
package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/tenantstore/etcdstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/move"
	"github.com/tenantmesh/tenantmesh/tenantstore/rollout"
	"github.com/tenantmesh/tenantmesh/xds"
	"github.com/tenantmesh/tenantmesh/xds/server"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// Config says how a control plane runs.
type Config struct {
	DataDir        string // keeps the embedded store and the usage ledger
	TrustDomain    string
	WorkloadAPI    string           // "unix:///path"; default: the environment's
	AdminSocket    string           // path of the local operator's Unix socket; default <DataDir>/admin.sock
	AdminAddress   string           // host:port of the admin API over mTLS; "" for none
	XDSAddress     string           // host:port; port 0 for a free one
	MetricsAddress string           // host:port; "" for none
	Etcd           etcdstore.Config // Endpoints and TLS files; empty: embedded
	Roles          adminapi.Roles   // of the admin API over mTLS
	KeySources     xds.KeySources
	Admission      float64           // new streams of sidecars that are taken a second; default server.DefaultAdmission
	Lease          time.Duration     // how long an endpoint outlives its member's stream; default 15 s
	Keep           ledger.Keep       // how long usage is kept; default see there
	AuditKeep      trail.Keep        // how much of each tenant's audit trail is kept; default all
	AuditOTLP      *url.URL          // of the receiver of audit events, see sink.ParseURL; nil for none
	AuditHeader    http.Header       // of requests to it
	Store          tenantstore.Store // instead of etcd
	Version        string
	// Change changes what is pushed: for tests that show what a part of it is for. nil: nothing is changed.
	Change func(translator.Resource) translator.Resource
	Log    *zap.Logger
}

// Addresses are where a control plane answers.
type Addresses struct{ AdminSocket, Admin, XDS, Metrics string }

// maxStreams bounds what one connection may open at once.
const maxStreams = 16

// storePatience is how long a status waits for the store.
const storePatience = 5 * time.Second

// Run runs until ctx ends. ready is called once sidecars can connect.
func Run(ctx context.Context, config Config, ready func(Addresses)) error {
	if config.Lease == 0 {
		config.Lease = 15 * time.Second
	}
	config.Keep.Defaults()
	if err := config.Keep.Check(); err != nil {
		return err
	}
	if config.AdminSocket == "" {
		config.AdminSocket = filepath.Join(config.DataDir, "admin.sock")
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return err
	}
	source, err := svid.Open(ctx, config.WorkloadAPI)
	if err != nil {
		return err
	}
	defer source.Close()
	want, err := identity.ControlID(config.TrustDomain)
	if err != nil {
		return err
	}
	if self, err := source.Principal(); err != nil || self != want {
		return errors.Join(err, fmt.Errorf("the control plane's SVID must be %s (is %s)", want, self))
	}
	store := config.Store
	if store == nil {
		if len(config.Etcd.Endpoints) == 0 {
			config.Etcd.DataDir = config.DataDir
		}
		config.Etcd.Log = config.Log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
		if store, err = etcdstore.Open(ctx, config.Etcd); err != nil {
			return err
		}
		defer store.Close()
	}
	usage, err := ledger.OpenUsage(filepath.Join(config.DataDir, "ledger"))
	if err != nil {
		return err
	}
	defer usage.Close()
	evidence, err := openEvidence(config, source)
	if err != nil {
		return err
	}
	return assemble(ctx, config, source, store, usage, evidence, ready)
}

// compactInterval is how often usage is compacted.
const compactInterval = time.Hour

func compact(ctx context.Context, usage *ledger.Usage, config Config) {
	ticker := time.NewTicker(compactInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := usage.Compact(time.Now(), config.Keep); err != nil {
			config.Log.Error("usage is not compacted; it will be tried again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func assemble(ctx context.Context, config Config, source *svid.Source, store tenantstore.Store, usage *ledger.Usage, evidence *evidence, ready func(Addresses)) error {
	group, ctx := errgroup.WithContext(ctx)
	cache := server.NewCache()
	writer := tenantstore.NewWriter(store, time.Now)
	writer.CheckKeys(config.KeySources.Check)
	publisher := xds.NewPublisher(xds.PublisherConfig{Store: store, Writer: writer, Cache: cache, TrustDomain: config.TrustDomain, KeySources: config.KeySources, Change: config.Change, Log: config.Log})
	id := rand.Text()
	members := xds.NewMembers(ctx, xds.MembersConfig{Store: store, Writer: writer, Cache: cache, Usage: usage, Audit: evidence.audit(), Lease: config.Lease, ID: id, Log: config.Log})
	published := make(chan struct{})
	group.Go(func() error { return publisher.Run(ctx, func() { close(published) }) })
	group.Go(func() error { return members.RemoveOldKeys(ctx) })
	group.Go(func() error { return members.Follow(ctx) })
	group.Go(func() error { return members.Sweep(ctx) })
	group.Go(func() error { return members.Reach(ctx) })
	group.Go(func() error { return members.KeepHeads(ctx) })
	registry := prometheus.NewRegistry()
	if config.AuditOTLP != nil {
		told, err := evidence.sink(config, store, registry)
		if err != nil {
			return err
		}
		group.Go(func() error { return told.Run(ctx) })
	}
	quota := xds.NewQuota(xds.QuotaConfig{Store: store, Writer: writer, Now: time.Now, Log: config.Log})
	group.Go(func() error { return quota.Run(ctx) })
	group.Go(func() error { return store.Present(ctx, id) })
	group.Go(func() error {
		compact(ctx, usage, config)
		return nil
	})
	group.Go(func() error {
		return move.Run(ctx, move.Config{Store: store, Writer: writer, Now: time.Now, Log: config.Log})
	})
	group.Go(func() error {
		return rollout.Run(ctx, rollout.Config{Store: store, Writer: writer, Usage: usage.Sum, Refused: cache.Refused, Now: time.Now, Log: config.Log})
	})
	select {
	case <-published:
	case <-ctx.Done():
		return group.Wait()
	}

	var serving atomic.Bool
	api := adminapi.New(adminapi.Config{
		Store: store, Writer: writer, Roles: config.Roles, Usage: usage, Version: config.Version, Log: config.Log, Ready: serving.Load, Explain: members.Explain, Top: members.Top, Shadow: members.Shadow, Uses: members.Uses, Coverage: members.Coverage,
		Trail: &adminapi.Trail{Archive: evidence.archive, Roots: evidence.roots, Signer: svid.Signer{Source: source}, Note: members.NoteHeads},
		Resources: func(principal identity.Principal) (any, string, bool) {
			subject, ok := publisher.Lookup(principal)
			if !ok || !members.Fresh() {
				return nil, "", false
			}
			polled, tag := cache.Poll(subject)
			return polled, tag, true
		},
		Status: func(ctx context.Context, revision int64, wait bool) (any, error) {
			status := cache.Status(revision)
			var late error
			if wait {
				status, late = cache.Wait(ctx, revision)
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storePatience)
			defer cancel()
			absent, err := members.Absent(ctx)
			if err != nil { // the rest does not stand on the store
				config.Log.Warn("who is out of reach could not be read", zap.Error(err))
			}
			status.Add(absent)
			return status, late
		},
	})
	var addresses Addresses
	var err error
	if addresses.AdminSocket, err = serveSocket(ctx, group, config.AdminSocket, api); err != nil {
		return err
	}
	if config.AdminAddress != "" {
		listener, err := net.Listen("tcp", config.AdminAddress)
		if err != nil {
			return err
		}
		addresses.Admin = listener.Addr().String()
		web := &http.Server{Handler: adminapi.Authenticated(config.Roles, api), TLSConfig: svid.ServerTLS(source, svid.AuthorizeTrustDomain(config.TrustDomain)), ReadHeaderTimeout: 5 * time.Second}
		serve(ctx, group, web, func() error { return web.ServeTLS(listener, "", "") })
	}
	if config.MetricsAddress != "" {
		if addresses.Metrics, err = serveMetrics(ctx, group, registry, config.MetricsAddress, cache, quota, store); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", config.XDSAddress)
	if err != nil {
		return err
	}
	addresses.XDS = listener.Addr().String()
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(svid.ServerTLS(source, svid.AuthorizeTrustDomain(config.TrustDomain)))),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	server.Register(ctx, g, server.Config{Cache: cache, Directory: publisher, Members: members, Quota: quota, Log: config.Log, Admission: config.Admission})
	group.Go(func() error { return g.Serve(listener) })
	context.AfterFunc(ctx, g.Stop)
	serving.Store(true)
	ready(addresses)
	return group.Wait()
}

func serve(ctx context.Context, group *errgroup.Group, web *http.Server, run func() error) {
	group.Go(func() error {
		if err := run(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	context.AfterFunc(ctx, func() { _ = web.Close() })
}

func serveSocket(ctx context.Context, group *errgroup.Group, path string, handler http.Handler) (string, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return "", err
	}
	web := &http.Server{Handler: handler, ConnContext: adminapi.ConnContext, ReadHeaderTimeout: 5 * time.Second}
	serve(ctx, group, web, func() error { return web.Serve(listener) })
	return path, nil
}

func serveMetrics(ctx context.Context, group *errgroup.Group, registry *prometheus.Registry, address string, cache *server.Cache, quota *xds.Quota, store tenantstore.Store) (string, error) {
	RegisterMetrics(registry, func() server.Status { return cache.Status(0) }, quota.Sizes, func() float64 { return breakGlass(ctx, store) })
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	serve(ctx, group, web, func() error { return web.Serve(listener) })
	return listener.Addr().String(), nil
}
