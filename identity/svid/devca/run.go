package devca

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tenantmesh/tenantmesh/identity"
)

// Config says how the CA runs.
type Config struct {
	Socket      string        // path of the Workload API's Unix socket; "<Socket>.admin" takes registrations
	DataDir     string        // keeps the authority and the registrations
	TrustDomain string        // such as "example.org"
	TTL         time.Duration // of an X.509-SVID; at least 2 s, default 1 h
	// BundleEndpoint is the host:port at which other trust domains fetch this one's bundle, as spiffe://<trust domain>
	// [EndpointPath]; "" for none. Federate are those whose bundles are fetched.
	BundleEndpoint string
	Federate       []Federation
	Log            *zap.Logger
}

// MinTTL is the shortest life of an SVID.
const MinTTL = 2 * time.Second

// Run serves until ctx ends. It calls ready once both sockets answer.
func Run(ctx context.Context, config Config, ready func()) error {
	if config.TTL == 0 {
		config.TTL = time.Hour
	}
	if config.TTL < MinTTL {
		return fmt.Errorf("ttl must be at least %v (got %v)", MinTTL, config.TTL)
	}
	if _, err := spiffeid.TrustDomainFromString(config.TrustDomain); err != nil {
		return fmt.Errorf("trust domain: %w (got %q)", err, config.TrustDomain)
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return err
	}
	authorities, err := loadAuthorities(config.DataDir, config.TrustDomain, time.Now())
	if err != nil {
		return err
	}
	registry, err := loadRegistry(filepath.Join(config.DataDir, "registrations.json"), config.TrustDomain)
	if err != nil {
		return err
	}
	// The Workload API is for every local user: who may have what is decided per caller.
	api, err := listen(config.Socket, 0o666)
	if err != nil {
		return err
	}
	admin, err := listen(config.Socket+adminSuffix, 0o600)
	if err != nil {
		return errors.Join(err, api.Close())
	}
	config.Log.Warn("DEVELOPMENT CA: its key lies in a file and it attests processes of this machine only; do not use it in production",
		zap.String("trustDomain", config.TrustDomain), zap.String("socket", config.Socket), zap.Duration("ttl", config.TTL))

	server := grpc.NewServer(grpc.Creds(peerCredentials{}))
	workload.RegisterSpiffeWorkloadAPIServer(server, &workloadAPI{authorities: authorities, registry: registry, ttl: config.TTL, now: time.Now})
	web := &http.Server{Handler: adminHandler(registry, authorities, config.Log), ReadHeaderTimeout: 5 * time.Second}
	group, ctx := errgroup.WithContext(ctx)
	if err := federate(ctx, group, config, authorities); err != nil {
		return errors.Join(err, api.Close(), admin.Close())
	}
	group.Go(func() error { return server.Serve(api) })
	group.Go(func() error {
		if err := web.Serve(admin); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		server.Stop()
		return web.Close()
	})
	ready()
	return group.Wait()
}

const adminSuffix = ".admin"

func listen(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(path, mode)
}

func adminHandler(registry *registry, authorities *authorities, log *zap.Logger) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
	mux.HandleFunc("POST /registrations", func(w http.ResponseWriter, r *http.Request) {
		var registration Registration
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&registration)
		if err == nil {
			err = registry.add(registration)
		}
		if err == nil {
			log.Info("registered", zap.Stringer("id", registration.ID), zap.Int("pid", registration.PID), zap.Int("uid", registration.UID))
		}
		answer(w, err)
	})
	mux.HandleFunc("DELETE /registrations", func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.ParsePrincipal(r.URL.Query().Get("id"))
		if err == nil {
			err = registry.remove(id)
		}
		answer(w, err)
	})
	mux.HandleFunc("POST /authority/{step}", func(w http.ResponseWriter, r *http.Request) {
		step := Step(r.PathValue("step"))
		err := authorities.step(step, time.Now())
		if err == nil {
			log.Info("the authority is being replaced", zap.String("step", string(step)))
		}
		answer(w, err)
	})
	return mux
}

// Client makes registrations.
type Client struct{ http *http.Client }

// NewClient returns a client of the CA whose Workload API is at socket, a path or, as workloads name it, unix:///path.
func NewClient(socket string) *Client {
	socket = strings.TrimPrefix(socket, "unix://")
	return &Client{&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket+adminSuffix)
		},
	}}}
}

// Register entitles a process or a user.
func (c *Client) Register(ctx context.Context, registration Registration) error {
	body, err := json.Marshal(registration)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, "registrations", body)
}

// Unregister takes every entitlement to id back. SVIDs that were issued live out their life.
func (c *Client) Unregister(ctx context.Context, id identity.Principal) error {
	return c.do(ctx, http.MethodDelete, "registrations?id="+url.QueryEscape(id.String()), nil)
}

// Replace takes one step of replacing the authority.
func (c *Client) Replace(ctx context.Context, step Step) error {
	return c.do(ctx, http.MethodPost, "authority/"+url.PathEscape(string(step)), nil)
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://ca/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err == nil && response.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("development CA: %s", bytes.TrimSpace(text))
	}
	return err
}
