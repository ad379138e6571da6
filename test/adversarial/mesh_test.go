// Package adversarial attacks the mesh as clients, tenants, services, peers and strangers would, through real Envoys, and
// looks at what the service behind them got to see. cases/ holds the attacks; README.md says what they found.
package adversarial

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

const objects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: eu-1}
spec: {region: eu, residency: eu, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us, limits: {requestsPerSecond: 10000, burst: 10000, concurrency: 1000}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: globex}
spec: {tier: bronze, region: us, limits: {requestsPerSecond: 10000, burst: 10000, concurrency: 1000}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: tiny}
spec: {tier: bronze, region: us, limits: {requestsPerSecond: 0.01, burst: 3, concurrency: 10}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: small}
spec: {tier: bronze, region: us, limits: {requestsPerSecond: 10000, burst: 10000, concurrency: 100, classes: {exports: {requestsPerSecond: 0.01, burst: 2}}}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: initech}
spec: {tier: silver, region: eu, residency: eu}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: go}
spec:
  expose: [{pathPrefix: /go, stripPrefix: true}, {host: docs.example, pathPrefix: /named, stripPrefix: true}]
  classes: [{name: exports, methods: [POST], paths: ["/*/export"]}]
  deliverContext: true
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: gunicorn}
spec: {expose: [{pathPrefix: /gunicorn, stripPrefix: true}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: node}
spec: {expose: [{pathPrefix: /node, stripPrefix: true}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: nginx}
spec: {expose: [{pathPrefix: /nginx, stripPrefix: true}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /front, stripPrefix: true}], dependsOn: [go, hidden], deliverContext: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: hidden}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: everyone}
spec:
  effect: Permit
  principals: ["spiffe://mesh.example/gateway/*", "spiffe://mesh.example/cell/us-1/workload/front"]
  targets: [{workload: go}, {workload: gunicorn}, {workload: node}, {workload: nginx}, {workload: front}]
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-secrets}
spec: {effect: Forbid, principals: ["spiffe://mesh.example/**"], targets: [{workload: "*", paths: ["/secret/**"]}, {workload: "*", methods: [DELETE]}]}
`

// world is a mesh with services that write down what they see, one for each server that is attacked.
type world struct {
	*meshtest.Mesh
	gateway  *meshtest.Sidecar
	sidecars map[string]*meshtest.Sidecar // by workload
	seen     map[string]string            // by workload: the file of what it saw
	signer   *tenanttoken.Signer          // the gateway's
	uids     map[string]string            // by tenant
	off      *switches

	mu   sync.Mutex
	held map[string]*held // by tenant: a request that front serves
}

// record is a request as a service saw it.
type record struct {
	Status    int // nginx: what it answered
	Method    string
	Raw       string // its target, without the query
	Path      string // decoded
	Authority string
	Header    map[string][]string // by name in lower case
	Body      string
}

func (r *record) one(name string) string { return strings.Join(r.Header[name], " | ") }

// revoked is a transaction whose contexts were stolen.
const revoked = "5eed5eed5eed5eed5eed5eed5eed5eed"

// start starts the mesh. Servers that are not installed are left out, and named.
func start(t *testing.T) *world {
	t.Helper()
	w := &world{sidecars: map[string]*meshtest.Sidecar{}, seen: map[string]string{}, uids: map[string]string{}, off: &switches{}, held: map[string]*held{}}
	w.Mesh = meshtest.Start(t, objects, meshtest.Pushing(func(r translator.Resource) translator.Resource { return w.off.change(r) }), meshtest.Polled(t))
	w.gateway = w.Gateway(t)
	dir := t.TempDir()
	for _, name := range []string{"go", "front", "gunicorn", "node", "nginx"} {
		w.seen[name] = filepath.Join(dir, name)
	}
	w.sidecars["go"] = w.Workload(t, "us-1", "go", http.HandlerFunc(w.serveGo))
	w.sidecars["front"] = w.Workload(t, "us-1", "front", http.HandlerFunc(w.serveFront))
	for name, program := range servers(t, w, dir) {
		w.sidecars[name] = w.ProgramOn(t, "us-1", name, program)
	}
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindTenant {
			w.uids[key.Name] = o.Metadata.UID
		}
	}
	w.signer = w.forger(t, "", "spiffe://mesh.example/gateway/edge")
	applied, err := w.Admin.RevokeToken(t.Context(), revoked, "it was stolen")
	if err != nil {
		t.Fatal(err)
	}
	w.Enforced(t, applied.Revision)
	return w
}

// servers are the programs that are attacked, by the name of their workload.
func servers(t *testing.T, w *world, dir string) map[string]func(port string) *exec.Cmd {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]func(port string) *exec.Cmd{"gunicorn": func(port string) *exec.Cmd {
		cmd := exec.Command(meshtest.VenvBin(t, "gunicorn"), "--workers", "1", "--threads", "4", "--bind", "127.0.0.1:"+port, "--log-level", "warning", "seen:app")
		cmd.Dir, cmd.Env = filepath.Join(here, "services"), append(os.Environ(), "SEEN="+w.seen["gunicorn"])
		return cmd
	}}
	if node, err := exec.LookPath("node"); err == nil {
		list["node"] = func(port string) *exec.Cmd {
			cmd := exec.Command(node, filepath.Join(here, "services", "seen.js"))
			cmd.Env = append(os.Environ(), "SEEN="+w.seen["node"], "PORT="+port)
			return cmd
		}
	}
	if nginx := findNginx(); nginx != "" {
		list["nginx"] = func(port string) *exec.Cmd {
			text, err := os.ReadFile(filepath.Join("services", "nginx.conf"))
			if err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(config, []byte(strings.NewReplacer("@DIR@", dir, "@SEEN@", w.seen["nginx"], "@PORT@", port).Replace(string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
			return exec.Command(nginx, "-p", dir, "-c", config)
		}
	}
	return list
}

// findNginx is nginx's program: of TENANTMESH_NGINX, of PATH, or where Debian puts it; "" for none.
func findNginx() string {
	for _, name := range []string{os.Getenv("TENANTMESH_NGINX"), "nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// serveGo writes down what it sees. /upgrade becomes an echo, and everything else is answered.
func (w *world) serveGo(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.note("go", r, body)
	if r.URL.Path == "/upgrade" {
		echo(rw)
		return
	}
	rw.WriteHeader(http.StatusOK)
}

// echo takes a connection over, and sends back what comes.
func echo(rw http.ResponseWriter) {
	conn, buffered, err := rw.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}

func (w *world) note(workload string, r *http.Request, body []byte) {
	raw, _, _ := strings.Cut(r.RequestURI, "?")
	seen := record{Method: r.Method, Raw: raw, Path: r.URL.Path, Authority: r.Host, Header: map[string][]string{}, Body: string(body)}
	for name, values := range r.Header {
		seen.Header[strings.ToLower(name)] = values
	}
	for name, values := range r.Trailer {
		seen.Header["trailer "+strings.ToLower(name)] = values
	}
	line, err := json.Marshal(seen)
	if err != nil {
		panic(err)
	}
	file, err := os.OpenFile(w.seen[workload], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	_, _ = file.Write(append(line, '\n'))
}

// records are what a service saw until now. What nginx refused by itself, nobody served.
func (w *world) records(t testing.TB, workload string) []record {
	t.Helper()
	text, err := os.ReadFile(w.seen[workload])
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var list []record
	for line := range bytes.Lines(text) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			if !bytes.HasSuffix(line, []byte("\n")) {
				break // it is being written
			}
			t.Fatalf("%s: %v: %q", workload, err, line)
		}
		r.Raw, _, _ = strings.Cut(r.Raw, "?")
		if r.Status != http.StatusBadRequest {
			list = append(list, r)
		}
	}
	return list
}

// eventually waits until good, or for a while.
func eventually(good func() bool) bool {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		if good() {
			return true
		}
	}
	return good()
}
