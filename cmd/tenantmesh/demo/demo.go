// Package demo runs a mesh on this machine: AcmeDocs ([Run]), with control plane, development CA, token issuer, a gateway, and four
// cells of unmodified services, each beside an Envoy of its own and each a process of its own; or the one service that somebody
// works on ([Dev]).
//
// It imports examples/acmedocs, the admin client, tenantstore, identity, policy, ledger, internal/netns and the standard library.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/examples/acmedocs"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/internal/netns"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Config says how the demo runs.
type Config struct {
	Data        string // folder; what an earlier demo left there is taken away
	GatewayPort int    // 0: a free one
	ReadyFile   string
	Tour        bool
	Capture     Capture
	SVIDTTL     time.Duration
	Out         io.Writer
}

const (
	trustDomain = "acmedocs.example"
	marker      = "tenantmesh-demo" // file that says a folder is a demo's
	grace       = 5 * time.Second   // to stop
	patience    = 90 * time.Second  // to start
)

var (
	cells    = []string{"us-1", "us-2", "us-9", "eu-1"}
	services = []string{"documents", "search", "httpbin"}
	// Attachments are kept where tenants move to and fro.
	alsoIn = map[string][]string{"us-1": {"attachments"}, "us-2": {"attachments"}}
)

// servicesIn are the services of a cell.
func servicesIn(cell string) []string { return slices.Concat(services, alsoIn[cell]) }

// demo is a demo that runs.
type demo struct {
	Config
	processes *processes
	ca        *devca.Client
	admin     *adminclient.Client
	venv      string
	sidecar   string         // the program
	network   *netns.Network // of the services' hosts; nil: they run on this machine, by a proxy setting
	domain    string         // trust domain
	issuer    string         // URL of its keys
	xds       string
	remote    string // host:port of the admin API for people who are elsewhere
	control   spec
	ports     []int    // free ones, not given out yet
	ready     []string // health URLs to wait for
	http      *http.Client
}

// Run runs the demo until ctx ends, or with Tour until the tour has.
func Run(ctx context.Context, config Config) error {
	d := &demo{Config: config, domain: trustDomain, http: newClient()}
	var err error
	if d.venv, err = findVenv(); err != nil {
		return err
	}
	stop, err := d.open()
	if err != nil {
		return err
	}
	defer stop()
	if err := os.CopyFS(d.path("apps"), acmedocs.Files); err != nil {
		return err
	}
	if err := d.starting(ctx, d.start); err != nil || ctx.Err() != nil {
		return err
	}
	if d.ReadyFile != "" {
		if err := d.writeReady(); err != nil {
			return err
		}
	}
	if d.Tour {
		return d.tour(ctx)
	}
	d.printHints()
	return d.processes.Wait(ctx)
}

func newClient() *http.Client { return &http.Client{Timeout: 10 * time.Second} }

// open makes the folder, and what ends everything that will run.
func (d *demo) open() (stop func(), err error) {
	if err := d.prepare(); err != nil {
		return nil, err
	}
	lock, err := d.lock()
	if err != nil {
		return nil, err
	}
	if err := d.clean(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := d.connect(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	d.processes = newProcesses(d.path("log"))
	return func() {
		d.processes.StopAll(grace)
		if d.network != nil {
			d.network.Close()
		}
		_ = lock.Close()
		fmt.Fprintln(d.Out, "everything is stopped")
	}, nil
}

// starting starts things with patience, and gives up once a process ends. It is nil when ctx ends meanwhile.
func (d *demo) starting(ctx context.Context, start func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	patient, fail := context.WithCancelCause(bounded)
	defer fail(nil)
	go func() {
		select {
		case died := <-d.processes.died:
			fail(died)
		case <-patient.Done():
		}
	}()
	err := start(patient)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return command.WithHint(err, "the logs are in "+d.path("log"))
}

// prepare finds what the demo needs before it touches anything.
func (d *demo) prepare() error {
	var err error
	if d.Data, err = filepath.Abs(d.Data); err != nil {
		return err
	}
	if n := len(d.Data) + len("/us-1-documents/sidecar.sock"); n > 100 {
		return command.Fail(command.Usage, "", "--data must be shorter: a Unix socket's path holds 107 bytes (got %q)", d.Data)
	}
	if d.GatewayPort != 0 {
		if err := freeport.Check(d.GatewayPort); err != nil {
			return command.WithHint(err, "name another with --gateway-port, or 0 for a free one")
		}
	} else {
		ports, err := freeport.Take(1)
		if err != nil {
			return err
		}
		d.GatewayPort = ports[0]
	}
	return nil
}

// EnvVenv is the environment variable that names the Python environment of the services.
const EnvVenv = "TENANTMESH_VENV"

func findVenv() (string, error) {
	if path := os.Getenv(EnvVenv); path != "" {
		return path, nil
	}
	dir, err := os.Getwd()
	for err == nil {
		path := filepath.Join(dir, ".tools", "venv")
		if _, err := os.Stat(filepath.Join(path, "bin", "gunicorn")); err == nil {
			return path, nil
		}
		if filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	return "", command.Fail(command.Failed, "run 'make demo', which fetches them, or name a Python environment in "+EnvVenv, "the services' Python packages were not found")
}

func (d *demo) lock() (*os.File, error) {
	file, err := os.OpenFile(d.Data+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(command.Fail(command.Failed, "stop it, or name another folder with --data", "a demo runs in %s already", d.Data), file.Close())
	}
	return file, nil
}

// clean takes away what an earlier demo left, and nothing else.
func (d *demo) clean() error {
	entries, err := os.ReadDir(d.Data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(d.Data, marker)); err != nil {
			return command.Fail(command.Usage, "name an empty folder, or one that a demo made", "--data %s holds something else", d.Data)
		}
		if err := os.RemoveAll(d.Data); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(d.Data, "log"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.Data, marker), nil, 0o600)
}

func (d *demo) path(parts ...string) string {
	return filepath.Join(append([]string{d.Data}, parts...)...)
}

func (d *demo) workloadAPI() string { return d.path("ca.sock") }

func (d *demo) adminSocket() string { return d.path("control", "admin.sock") }

func (d *demo) progress(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

func (d *demo) start(ctx context.Context) error {
	if err := d.startBase(ctx, 4+6*len(cells)*(len(services)+1)); err != nil {
		return err
	}
	if err := d.applyMesh(ctx); err != nil {
		return err
	}
	how := "each beside its Envoy"
	if d.network != nil {
		how = "each on a host of its own, a network namespace, whose traffic goes through the Envoy there"
	}
	d.progress("starting the gateway, and in each cell %s, %s", strings.Join(services, ", "), how)
	if err := d.startGateway(ctx); err != nil {
		return err
	}
	for _, cell := range cells {
		for _, service := range servicesIn(cell) {
			if err := d.startWorkload(ctx, cell, service); err != nil {
				return err
			}
		}
	}
	if err := d.untilReady(ctx); err != nil {
		return err
	}
	return d.untilServed(ctx)
}

// startBase starts what every mesh stands on, and takes so many ports for the rest.
func (d *demo) startBase(ctx context.Context, ports int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	d.sidecar = filepath.Join(filepath.Dir(self), "tenantmesh-sidecar")
	if d.ports, err = freeport.Take(4 + ports); err != nil {
		return err
	}
	own := d.take(4)
	d.progress("starting the development CA, the token issuer and the control plane")
	if _, err := d.processes.Start(spec{Name: "ca", Role: "ca", Path: self, Args: []string{
		"ca", "--data-dir", d.path("ca"), "--socket", d.workloadAPI(), "--trust-domain", d.domain, "--ttl", d.SVIDTTL.String(),
	}}); err != nil {
		return err
	}
	d.ca = devca.NewClient(d.workloadAPI())
	if err := until(ctx, "the CA", func() error { _, err := os.Stat(d.workloadAPI() + ".admin"); return err }); err != nil {
		return err
	}
	d.issuer = "http://" + loopback(own[0]) + "/jwks.json"
	if _, err := d.processes.Start(spec{Name: "issuer", Role: "issuer", Path: self, Args: []string{"demo", "issuer", "--data", d.Data, "--address", loopback(own[0])}}); err != nil {
		return err
	}
	d.xds = loopback(own[1])
	if d.network != nil {
		d.xds = fmt.Sprintf("%s:%d", d.network.Address(), own[1])
	}
	d.remote = loopback(own[3])
	d.control = spec{Name: "control", Role: "control", Path: self, User: os.Getuid(), Metrics: "http://" + loopback(own[2]) + "/metrics", Args: []string{
		"control", "--data-dir", d.path("control"), "--trust-domain", d.domain, "--xds-address", d.xds, "--jwks-host", "127.0.0.1", "--allow-http-jwks", "--allow-loopback-jwks", "--metrics-address", loopback(own[2]),
		"--admin-address", d.remote, "--operator", "spiffe://" + d.domain + "/person/*",
	}}
	if err := d.startControl(ctx); err != nil {
		return err
	}
	return until(ctx, "the issuer", func() error { return d.get(d.issuer) })
}

// untilReady waits for the sidecars.
func (d *demo) untilReady(ctx context.Context) error {
	for _, url := range d.ready {
		if err := until(ctx, url, func() error { return d.get(url) }); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) take(n int) (ports []int) {
	ports, d.ports = d.ports[:n], d.ports[n:]
	return ports
}

func (d *demo) startControl(ctx context.Context) error {
	if err := d.startAs(ctx, d.control, "spiffe://"+d.domain+"/control"); err != nil {
		return err
	}
	d.admin = adminclient.New(d.adminSocket())
	return until(ctx, "the control plane", func() error {
		_, err := d.admin.Status(ctx, 0, false, 1)
		return err
	})
}

// startAs starts a process and entitles it to an SVID.
func (d *demo) startAs(ctx context.Context, s spec, id string) error {
	s.ID, s.Env = id, append(s.Env, "SPIFFE_ENDPOINT_SOCKET=unix://"+d.workloadAPI())
	return d.startSpec(ctx, s)
}

// startSpec starts a process, and entitles it to its SVID if it has one.
func (d *demo) startSpec(ctx context.Context, s spec) error {
	p, err := d.processes.Start(s)
	if err != nil {
		return err
	}
	if s.ID == "" {
		return nil
	}
	principal, err := identity.ParsePrincipal(s.ID)
	if err != nil {
		return err
	}
	return d.ca.Register(ctx, devca.Registration{ID: principal, PID: p.pid(), UID: s.User})
}

func (d *demo) applyMesh(ctx context.Context) error {
	file, err := acmedocs.Files.Open("mesh.yaml")
	if err != nil {
		return err
	}
	defer file.Close()
	documents, err := tenantstore.DecodeYAML("mesh.yaml", file)
	if err != nil {
		return err
	}
	objects := make([]*tenantstore.Object, len(documents))
	for i, document := range documents {
		objects[i] = document.Object
		if issuer := document.Object.TokenIssuer; issuer != nil {
			issuer.JWKS = tenantstore.JWKS{URI: d.issuer}
		}
	}
	_, err = d.admin.Apply(ctx, objects, false)
	return err
}

// proxy is a sidecar or a gateway of which health and metrics are asked at an address.
func (d *demo) proxy(name, role, address string, metrics, health int, more ...string) spec {
	at := func(port int) string { return fmt.Sprintf("http://%s:%d", address, port) }
	d.ready = append(d.ready, at(health)+"/readyz")
	return spec{
		Name: name, Role: role, Path: d.sidecar, Metrics: at(metrics) + "/metrics", User: os.Getuid(),
		Args: append([]string{"--role", role, "--control", d.xds, "--data-dir", d.path(strings.ReplaceAll(name, "/", "-")), "--drain", "3s"}, more...),
	}
}

func (d *demo) startGateway(ctx context.Context) error {
	ports := d.take(4)
	gateway := d.proxy("gateway", "gateway", "127.0.0.1", ports[1], ports[2],
		"--admin-port", strconv.Itoa(ports[0]), "--metrics-port", strconv.Itoa(ports[1]), "--health-port", strconv.Itoa(ports[2]),
		"--gateway-port", strconv.Itoa(d.GatewayPort), "--mover-port", strconv.Itoa(ports[3]))
	gateway.EnvoyAdmin = "http://" + loopback(ports[0])
	return d.startAs(ctx, gateway, "spiffe://"+d.domain+"/gateway/edge")
}

// startWorkload starts a service of a cell, and its sidecar.
func (d *demo) startWorkload(ctx context.Context, cell, service string) error {
	w, err := d.at(ctx, cell, service, d.sidecar)
	if err != nil {
		return err
	}
	var more []string
	if service == "attachments" {
		for _, verb := range []string{"export", "import", "delete"} {
			more = append(more, "--data-"+verb, strings.Join([]string{filepath.Join(d.venv, "bin", "python"), d.path("apps", service, "data.py"), verb, d.path(cell + "-attachments")}, " "))
		}
	}
	if err := d.startSidecar(ctx, cell, service, w, more...); err != nil {
		return err
	}
	_, err = d.processes.Start(d.service(cell, service, w))
	return err
}

func (d *demo) startSidecar(ctx context.Context, cell, service string, w where, more ...string) error {
	id, err := identity.WorkloadID(d.domain, cell, service)
	if err != nil {
		return err
	}
	s := d.proxy(cell+"/"+service, "sidecar", w.address, w.metrics, w.health, append(w.flags(), more...)...)
	s.Cell, s.Name, s.User = cell, cell+"/"+service+"-sidecar", w.user
	if w.admin != 0 {
		s.EnvoyAdmin = "http://" + loopback(w.admin)
	}
	w.put(&s, w.user)
	return d.startAs(ctx, s, id.String())
}

// service is an ordinary web service, started as ever: what it is told is its port and, unless its traffic is captured, a proxy.
func (d *demo) service(cell, name string, w where) spec {
	gunicorn := []string{filepath.Join(d.venv, "bin", "gunicorn"), "--workers", "1", "--threads", "8", "--bind", loopback(w.service), "--log-level", "warning"}
	s := spec{
		Name: cell + "/" + name, Role: "service", Cell: cell, Forks: true, Dir: d.Data,
		Path: gunicorn[0], Args: append(gunicorn[1:], "httpbin:app"),
	}
	if w.host == nil {
		s.Env = append(s.Env, "http_proxy=http://"+loopback(w.outbound))
	}
	if name != "httpbin" {
		s.Dir = d.path("apps", name)
		s.Env = append(s.Env, "DOCUMENTS_DB="+d.path(cell+"-documents.db"), "SEARCH_DB="+d.path(cell+"-search.db"), "ATTACHMENTS="+d.path(cell+"-attachments"))
		s.Path = filepath.Join(d.venv, "bin", "opentelemetry-instrument")
		s.Args = append(gunicorn, "app:app")
		s.Env = append(s.Env, "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none", "PATH="+filepath.Join(d.venv, "bin")+":"+os.Getenv("PATH"))
	}
	w.put(&s, os.Getuid())
	return s
}

// untilServed waits until every tenant is served by every service.
func (d *demo) untilServed(ctx context.Context) error {
	for _, tenant := range []string{"acme", "initech", "hooli"} {
		for _, path := range []string{"/documents", "/search?q=road", "/httpbin/get"} {
			if err := until(ctx, tenant+" "+path, func() error {
				answer, err := d.request(ctx, call{path: path, tenant: tenant})
				if err == nil && answer.status != http.StatusOK {
					err = fmt.Errorf("status %d %s", answer.status, answer.header.Get("x-tenantmesh-reason"))
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) get(url string) error {
	response, err := d.http.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// until calls check until it succeeds or ctx ends.
func until(ctx context.Context, what string, check func() error) error {
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
				return cause
			}
			return fmt.Errorf("%s is not ready: %w", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// readyProcess is one process in the ready file.
type readyProcess struct {
	Name       string `json:"name"`
	PID        int    `json:"pid"`
	Role       string `json:"role"`
	Cell       string `json:"cell,omitempty"`
	Metrics    string `json:"metrics,omitempty"`
	EnvoyAdmin string `json:"envoyAdmin,omitempty"`
}

func (d *demo) writeReady() error {
	var list []readyProcess
	for _, p := range d.processes.running() {
		list = append(list, readyProcess{p.Name, p.pid(), p.Role, p.Cell, p.Metrics, p.EnvoyAdmin})
		if p.Role != "gateway" && p.Role != "sidecar" {
			continue
		}
		for _, pid := range children(p.pid()) {
			envoy := readyProcess{Name: p.Name + "-envoy", PID: pid, Role: "envoy", Cell: p.Cell, EnvoyAdmin: p.EnvoyAdmin}
			if p.EnvoyAdmin != "" {
				envoy.Metrics = p.EnvoyAdmin + "/stats/prometheus"
			}
			list = append(list, envoy)
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"gateway": d.gateway(), "admin": d.adminSocket(), "issuer": d.issuer, "data": d.Data, "processes": list,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.ReadyFile+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(d.ReadyFile+".new", d.ReadyFile)
}

func (d *demo) gateway() string { return "http://" + loopback(d.GatewayPort) }

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// children are the processes whose parent is pid.
func children(pid int) []int {
	var list []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			list = append(list, child)
		}
	}
	return list
}

func (d *demo) printHints() {
	self := os.Args[0]
	dataFlag, adminFlag := " --data "+d.Data, " --admin "+d.adminSocket()
	d.progress(`
AcmeDocs is ready at %[1]s. Try:

  TOKEN=$(%[2]s demo token --tenant acme%[3]s)
  curl -i -H "Authorization: Bearer $TOKEN" %[1]s/httpbin/headers
  curl -i -H "Authorization: Bearer $TOKEN" "%[1]s/documents/find?q=road"
  curl -i %[1]s/documents                       # no token: 401, and a decision to explain
  %[2]s explain <x-tenantmesh-decision>%[4]s
  %[2]s get tenants%[4]s
  %[2]s tenant move acme --to us-2 --wait%[4]s
  %[2]s status%[4]s
  %[2]s usage --tenant acme%[4]s
  %[2]s coverage%[4]s
%[5]s
Ctrl-C stops everything.`, d.gateway(), self, dataFlag, adminFlag, d.hostHints())
}
