// Package meshtest starts a real mesh for a test: the development CA and the control plane in this process, and for
// each sidecar a real tenantmesh-sidecar with a real Envoy, in front of a service that the test writes.
//
// Everything listens on free ports of the loopback address, waits for events rather than for time, and ends with the
// test.
package meshtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/control"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// TrustDomain is the mesh's.
const TrustDomain = "mesh.example"

// patience bounds every wait.
const patience = 60 * time.Second

// Mesh is a mesh that runs.
type Mesh struct {
	Admin *adminclient.Client
	Store tenantstore.Store

	dir      string
	xds      []string // of each control plane
	ttl      time.Duration
	lease    time.Duration
	others   int
	drain    time.Duration
	links    bool
	address  string // of control planes; "" for the loopback address
	federate []devca.Federation
	gateways int            // of the name edge
	api      string         // address of the admin API of the first control plane, "" for none
	roles    adminapi.Roles // there
	change   func(translator.Resource) translator.Resource
	told     *url.URL  // is told audit events, nil for nobody
	provider *Provider // of identities, nil for the development CA
	stop     func()    // of the control plane
	ca       *devca.Client
	key      *ecdsa.PrivateKey
	binary   string
}

var build = sync.OnceValues(func() (string, error) {
	// One file for every test run of a checkout, replaced in one step: packages are tested at once.
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", err
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("tenantmesh-test-%d-%08x", os.Getuid(), crc32.ChecksumIEEE(root)))
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	out, err := exec.Command("go", "build", "-o", fresh, "github.com/tenantmesh/tenantmesh/cmd/tenantmesh-sidecar").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, os.Rename(fresh, path)
})

// Option changes a mesh before it starts.
type Option func(*Mesh)

// SVIDTTL sets the life of SVIDs.
func SVIDTTL(ttl time.Duration) Option { return func(m *Mesh) { m.ttl = ttl } }

// Federate has the mesh's CA hand out the bundle of another trust domain.
func Federate(with devca.Federation) Option {
	return func(m *Mesh) { m.federate = append(m.federate, with) }
}

// CAFolder is where the CA keeps its authority.
func (m *Mesh) CAFolder() string { return filepath.Join(m.dir, "ca") }

// Others starts that many control planes more, over the same store.
func Others(n int) Option { return func(m *Mesh) { m.others = n } }

// Polled lets sidecars poll the first control plane's admin API while their stream is down.
func Polled(t testing.TB) Option {
	t.Helper()
	everyone, err := identity.ParsePattern("spiffe://" + TrustDomain + "/**")
	check(t, err)
	return func(m *Mesh) {
		m.api, m.roles = loopback(freePorts(t, 1)[0]), adminapi.Roles{adminapi.Sidecar: {everyone}}
	}
}

// Lease sets how long an endpoint outlives its member's stream.
func Lease(d time.Duration) Option { return func(m *Mesh) { m.lease = d } }

// Drain sets how long open requests have at the end of a sidecar; default 1 s.
func Drain(d time.Duration) Option { return func(m *Mesh) { m.drain = d } }

// Told has the control plane tell an OTLP receiver its audit events.
func Told(receiver *url.URL) Option { return func(m *Mesh) { m.told = receiver } }

// Start starts the CA and a control plane that holds the objects of mesh, and a TokenIssuer "test" that may speak for
// every tenant.
func Start(t testing.TB, mesh string, options ...Option) *Mesh {
	t.Helper()
	dir, err := os.MkdirTemp("", "mesh-") // short: Unix sockets lie in it
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &Mesh{dir: dir, Store: memstore.New(), drain: time.Second}
	for _, option := range options {
		option(m)
	}
	m.binary, err = build()
	check(t, err)
	m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)

	if m.provider != nil {
		m.provider.start(t, dir)
	} else {
		m.startCA(t)
	}
	for _, port := range freePorts(t, 1+m.others) {
		m.xds = append(m.xds, net.JoinHostPort(cmp.Or(m.address, "127.0.0.1"), strconv.Itoa(port)))
	}
	m.StartControl(t)
	for i := range m.others {
		m.startControl(t, 1+i)
	}
	m.Apply(t, mesh+m.issuer(t))
	return m
}

func (m *Mesh) startCA(t testing.TB) {
	t.Helper()
	dir, socket := m.dir, filepath.Join(m.dir, "ca.sock")
	run(t, "the CA", func(ctx context.Context, ready func()) error {
		return devca.Run(ctx, devca.Config{Socket: socket, DataDir: filepath.Join(dir, "ca"), TrustDomain: TrustDomain, TTL: m.ttl, Federate: m.federate, Log: zap.NewNop()}, ready)
	})
	m.ca = devca.NewClient(socket)
	id, err := identity.ControlID(TrustDomain)
	check(t, err)
	check(t, m.ca.Register(t.Context(), devca.Registration{ID: id, PID: os.Getpid(), UID: os.Getuid()}))
}

// StartControl starts the control plane again, on the store as it is.
func (m *Mesh) StartControl(t testing.TB) {
	t.Helper()
	var socket string
	m.stop, socket = m.startControl(t, 0)
	m.Admin = adminclient.New(socket)
}

// Other is the admin client of another control plane, from 1.
func (m *Mesh) Other(i int) *adminclient.Client {
	return adminclient.New(filepath.Join(m.dir, fmt.Sprint("control-", i), "admin.sock"))
}

func (m *Mesh) startControl(t testing.TB, i int) (stop func(), socket string) {
	t.Helper()
	name := "control"
	if i > 0 {
		name = fmt.Sprint("control-", i)
	}
	stop = run(t, "the control plane", func(ctx context.Context, ready func()) error {
		return control.Run(ctx, control.Config{
			DataDir: filepath.Join(m.dir, name), TrustDomain: TrustDomain, WorkloadAPI: m.workloadAPI(t, "spiffe://"+TrustDomain+"/control"),
			XDSAddress: m.xds[i], AdminAddress: m.api, Roles: m.roles, Store: m.Store, Lease: m.lease, Change: m.change, AuditOTLP: m.told, Log: zap.NewNop(),
		}, func(a control.Addresses) {
			socket = a.AdminSocket
			ready()
		})
	})
	return stop, socket
}

// ReplaceAuthority takes one step of replacing the CA's authority.
func (m *Mesh) ReplaceAuthority(t testing.TB, step devca.Step) {
	t.Helper()
	check(t, m.ca.Replace(t.Context(), step))
}

// WorkloadAPI is where this process gets the SVID of the control plane.
func (m *Mesh) WorkloadAPI() string { return "unix://" + filepath.Join(m.dir, "ca.sock") }

// XDS are the addresses of the control planes' xDS.
func (m *Mesh) XDS() []string { return m.xds }

// AdminSocket is the path of the control plane's admin socket.
func (m *Mesh) AdminSocket() string { return filepath.Join(m.dir, "control", "admin.sock") }

// StopControl ends the control plane. What was pushed is all that there is now.
func (m *Mesh) StopControl() { m.stop() }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs something until stop is called or the test ends, and returns once it is ready.
func run(t testing.TB, what string, start func(ctx context.Context, ready func()) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- start(ctx, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("%s: %v", what, err)
	case <-time.After(patience):
		t.Fatalf("%s was not ready after %v", what, patience)
	}
	return stop
}

func (m *Mesh) issuer(t testing.TB) string {
	t.Helper()
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &m.key.PublicKey, KeyID: "test", Algorithm: "ES256", Use: "sig"}}})
	check(t, err)
	return fmt.Sprintf(`
---
apiVersion: tenantmesh.dev/v1alpha1
kind: TokenIssuer
metadata: {name: test}
spec: {issuer: "https://login.test", audiences: [test], jwks: {inline: %q}, tenants: ["*"]}
`, set)
}

// Token is a token for a tenant; change may spoil its claims.
func (m *Mesh) Token(t testing.TB, tenant string, change ...func(claims map[string]any)) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: m.key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "test"))
	check(t, err)
	claims := map[string]any{
		"iss": "https://login.test", "aud": "test", "sub": "alice", "tenant": tenant, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for _, f := range change {
		f(claims)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	check(t, err)
	return token
}

// Apply writes objects and waits until every sidecar enforces them.
func (m *Mesh) Apply(t testing.TB, objects string) {
	t.Helper()
	revision, err := m.ApplyOnly(t, objects)
	check(t, err)
	m.Enforced(t, revision)
}

// ApplyOnly writes objects, and waits for nobody.
func (m *Mesh) ApplyOnly(t testing.TB, objects string) (revision int64, err error) {
	t.Helper()
	documents, err := tenantstore.DecodeYAML("test", strings.NewReader(objects))
	check(t, err)
	list := make([]*tenantstore.Object, len(documents))
	for i, d := range documents {
		list[i] = d.Object
	}
	applied, err := m.Admin.Apply(t.Context(), list, false)
	return applied.Revision, err
}

// Enforced waits until every connected sidecar enforces a revision.
func (m *Mesh) Enforced(t testing.TB, revision int64) {
	t.Helper()
	status, err := m.Admin.Status(t.Context(), revision, true, int(patience/time.Second))
	check(t, err)
	if !status.Done() {
		t.Fatalf("revision %d is enforced by %d of %d: %+v", revision, status.Enforced, status.Total, status.Members)
	}
}

// Sidecar is a sidecar, or a gateway, that runs.
type Sidecar struct {
	URL      string // of the gateway's or the inbound listener
	Outbound string // URL of the outbound proxy
	Health   string // URL
	Metrics  string // URL
	Admin    string // URL of Envoy's admin
	Dir      string
	PID      int
	Log      string // file
	Link     *Link  // to the control plane, with Links

	Exit func() int // waits for its end, and returns its exit code

	again func() *Sidecar
}

// Restart kills the sidecar, and its Envoy with it, and starts it again as it was.
func (s *Sidecar) Restart(t testing.TB) *Sidecar {
	t.Helper()
	check(t, syscall.Kill(s.PID, syscall.SIGKILL))
	return s.again()
}

// Gateway starts a gateway.
func (m *Mesh) Gateway(t testing.TB) *Sidecar { return m.GatewayAt(t, "gateway") }

// GatewayAt starts a gateway whose data lies in a folder of that name, with more flags: another instance of the same identity.
func (m *Mesh) GatewayAt(t testing.TB, name string, flags ...string) *Sidecar {
	t.Helper()
	id, err := identity.GatewayID(TrustDomain, "edge")
	check(t, err)
	s := m.start(t, name, id, 0, flags...)
	m.gateways++
	// It has said all that it says of itself at its start: nothing changes under a test's feet.
	m.waitFor(t, func(snapshot tenantstore.Snapshot) bool {
		settled := 0
		for key, o := range snapshot.Objects {
			at := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindEndpoint, Name: key.Name}]
			if key.Kind == tenantstore.KindMember && o.Member.Principal == id.String() && len(o.Member.Certificates) > 0 && len(o.Member.Counted) > 0 && at != nil && at.Endpoint.Ready {
				settled++
			}
		}
		return settled >= m.gateways
	})
	return s
}

// Workload starts a service and its sidecar, with more flags, and returns once its endpoint is known to the mesh.
func (m *Mesh) Workload(t testing.TB, cell, name string, service http.Handler, flags ...string) *Sidecar {
	t.Helper()
	return m.WorkloadAt(t, cell, name, cell+"-"+name, service, flags...)
}

// WorkloadAt starts a service whose sidecar's data lies in a folder of that name: another instance of the same identity.
func (m *Mesh) WorkloadAt(t testing.TB, cell, name, folder string, service http.Handler, flags ...string) *Sidecar {
	t.Helper()
	server := httptest.NewUnstartedServer(service)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true) // of a Workload that says so
	server.Start()
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	check(t, err)
	return m.workload(t, cell, name, folder, u.Port(), flags...)
}

// Executed starts a sidecar that runs the service as its child (--exec). It returns once both are there; program gets the port to listen at.
func (m *Mesh) Executed(t testing.TB, cell, name string, program func(port string) []string) *Sidecar {
	t.Helper()
	port := strconv.Itoa(freePorts(t, 1)[0])
	return m.workload(t, cell, name, cell+"-"+name, port, append([]string{"--exec", "--"}, program(port)...)...)
}

func (m *Mesh) workload(t testing.TB, cell, name, folder, service string, flags ...string) *Sidecar {
	t.Helper()
	port, err := strconv.Atoi(service)
	check(t, err)
	id, err := identity.WorkloadID(TrustDomain, cell, name)
	if m.provider != nil {
		id, err = identity.ParsePrincipal(m.provider.ID(cell, name))
	}
	check(t, err)
	s := m.start(t, folder, id, port, flags...)
	m.joined(t, cell, name, strings.TrimPrefix(s.URL, "http://"))
	return s
}

// Joined waits until the sidecar of a workload, at host:port, that a test started by itself is known to the mesh.
func (m *Mesh) Joined(t testing.TB, cell, name, at string) {
	t.Helper()
	m.joined(t, cell, name, at)
}

// joined waits until the sidecar of a workload, at host:port, is known to the mesh.
func (m *Mesh) joined(t testing.TB, cell, name, at string) {
	t.Helper()
	m.waitFor(t, func(snapshot tenantstore.Snapshot) bool {
		for _, o := range snapshot.Objects {
			if o.Kind == tenantstore.KindEndpoint && o.Endpoint.Cell == cell && o.Endpoint.Workload == name && o.Endpoint.Ready && net.JoinHostPort(o.Endpoint.Address, strconv.Itoa(o.Endpoint.Port)) == at {
				// Its part of limits is its own: nothing of it changes any more by itself.
				member := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindMember, Name: o.Metadata.Name}]
				return member != nil && len(member.Member.Counted) > 0
			}
		}
		return false
	})
}

// waitFor waits until the store is as it should be, and every sidecar enforces that.
func (m *Mesh) waitFor(t testing.TB, good func(tenantstore.Snapshot) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	snapshot, err := m.Store.Snapshot(ctx)
	check(t, err)
	changes, err := m.Store.Watch(ctx, snapshot.Revision)
	check(t, err)
	for !good(snapshot) {
		if _, ok := <-changes; !ok {
			t.Fatal("the store did not become as it should be")
		}
		snapshot, err = m.Store.Snapshot(ctx)
		check(t, err)
	}
	m.Enforced(t, snapshot.Revision)
}

func (m *Mesh) start(t testing.TB, name string, id identity.Principal, service int, flags ...string) *Sidecar {
	t.Helper()
	control := strings.Join(m.xds, ",")
	var l *Link
	if m.links {
		control = loopback(freePorts(t, 1)[0])
		l = link(t, control, m.xds[0])
	}
	s := m.startOn(t, name, id, service, control, freePorts(t, 6), flags)
	s.Link = l
	return s
}

func (m *Mesh) startOn(t testing.TB, name string, id identity.Principal, service int, control string, ports []int, flags []string) *Sidecar {
	t.Helper()
	s := &Sidecar{
		URL: "http://" + loopback(ports[0]), Outbound: "http://" + loopback(ports[1]), Admin: "http://" + loopback(ports[2]),
		Metrics: "http://" + loopback(ports[3]) + "/metrics", Health: "http://" + loopback(ports[4]), Dir: filepath.Join(m.dir, name), Log: filepath.Join(m.dir, name+".log"),
	}
	s.again = func() *Sidecar {
		again := m.startOn(t, name, id, service, control, ports, flags)
		again.Link = s.Link
		return again
	}
	role := "sidecar"
	if service == 0 {
		role = "gateway"
	}
	cmd := exec.Command(m.binary, "--role", role, "--control", control, "--data-dir", s.Dir, "--drain", m.drain.String(), "--service-port", strconv.Itoa(service),
		"--gateway-port", strconv.Itoa(ports[0]), "--inbound-port", strconv.Itoa(ports[0]), "--outbound-port", strconv.Itoa(ports[1]),
		"--admin-port", strconv.Itoa(ports[2]), "--metrics-port", strconv.Itoa(ports[3]), "--health-port", strconv.Itoa(ports[4]), "--mover-port", strconv.Itoa(ports[5]))
	if m.api != "" {
		flags = append(flags, "--control-api", m.api)
	}
	cmd.Args = append(cmd.Args, flags...)
	cmd.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET="+m.workloadAPI(t, id.String()))
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	ended := spawn(t, cmd)
	check(t, log.Close())
	s.PID = cmd.Process.Pid
	s.Exit = func() int {
		<-ended
		return cmd.ProcessState.ExitCode()
	}
	if m.provider == nil {
		check(t, m.ca.Register(t.Context(), devca.Registration{ID: id, PID: s.PID, UID: os.Getuid()}))
	}
	deadline := time.After(patience)
	for {
		if response, err := http.Get(s.Health + "/readyz"); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return s
			}
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(s.Log)
			t.Fatalf("%s ended: %s", name, tail(text))
		case <-deadline:
			text, _ := os.ReadFile(s.Log)
			t.Fatalf("%s was not ready after %v: %s", name, patience, tail(text))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tail(text []byte) []byte { return text[max(0, len(text)-4096):] }

// spawn starts cmd so that it ends with the test, however the test ends.
func spawn(t testing.TB, cmd *exec.Cmd) (ended <-chan struct{}) {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the signal comes when the starting thread ends (prctl(2))
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(done)
	}()
	check(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	return done
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports, err := freeport.Take(n)
	check(t, err)
	return ports
}

// Response is an answer, read whole.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// Reason is the refusal's reason, "" for none.
func (r Response) Reason() string { return r.Header.Get("x-tenantmesh-reason") }

// Do sends a request. client may be nil.
func Do(t testing.TB, client *http.Client, method, url string, header http.Header, body []byte) Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	check(t, err)
	request.Header = header.Clone()
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	check(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(t, err)
	return Response{response.StatusCode, response.Header, string(text)}
}

// Get sends a GET with a tenant's token ("" for none) and more headers, as name, value, name, value.
func (m *Mesh) Get(t testing.TB, url, tenant string, more ...string) Response {
	t.Helper()
	header := http.Header{}
	if tenant != "" {
		header.Set("Authorization", "Bearer "+m.Token(t, tenant))
	}
	for i := 0; i+1 < len(more); i += 2 {
		header.Add(more[i], more[i+1])
	}
	return Do(t, nil, http.MethodGet, url, header, nil)
}
