package deploy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const objects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /front, stripPrefix: true}], dependsOn: [back]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: back}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: front}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: front-back}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/front"], targets: [{workload: back}]}
`

const servicePort = 8080

// TestInstalledUnits: the installer runs on a machine; its units, in their own order, as their own users and without a
// capability that they do not name, let an ordinary service be called and call under capture. In the reverse order they end,
// and leave no rule.
func TestInstalledUnits(t *testing.T) {
	network := meshtest.NewNetwork(t)
	front, back := network.Host(t), network.Host(t)
	mesh := meshtest.Start(t, objects, meshtest.On(network))
	socket := strings.TrimPrefix(mesh.WorkloadAPI(), "unix://")
	check(t, os.Chmod(filepath.Dir(socket), 0o755))
	id, err := identity.WorkloadID(meshtest.TrustDomain, "us-1", "front")
	check(t, err)
	check(t, devca.NewClient(socket).Register(t.Context(), devca.Registration{ID: id, UID: meshtest.SidecarUID}))
	gateway := mesh.Gateway(t)
	service, err := os.ReadFile("../capture/testdata/service.py")
	check(t, err)

	m := newMachine(t, front, filepath.Dir(socket))
	m.install(t, "--bin", programs(t), "--envoy", envoy(t))
	m.write(t, "/etc/tenantmesh/sidecar/front.yaml", strings.NewReplacer("NAME", "front", "10.0.0.7", front.IPv4, "/run/spire/agent.sock", "/run/spire/"+filepath.Base(socket),
		"control.mesh.example:15010", strings.Join(mesh.XDS(), ",")).Replace(string(m.read(t, "/etc/tenantmesh/sidecar.yaml.example")))+"drain: 2s\n") // a drain waits for the service to be gone
	m.write(t, "/usr/local/lib/front.py", string(service))
	m.write(t, "/etc/systemd/system/front.service", fmt.Sprintf("[Service]\nUser=nobody\nExecStart=%s /usr/local/lib/front.py %d\n", meshtest.Python(t), servicePort))
	m.write(t, "/etc/systemd/system/front.service.d/tenantmesh.conf", string(m.read(t, "/etc/tenantmesh/captured.conf")))

	units := order([]unit{installed(t, m.root(), "front.service"), installed(t, m.root(), "tenantmesh-sidecar@front.service"), installed(t, m.root(), "tenantmesh-capture.service")})
	if names := fmt.Sprint(unitNames(units)); names != "[tenantmesh-capture.service tenantmesh-sidecar@front.service front.service]" {
		t.Fatalf("the order is %s", names)
	}
	var started []*running
	for _, u := range units {
		started = append(started, m.start(t, u))
	}
	powerless(t, started[1])

	back.Spawn(t, meshtest.Python(t), write(t, string(service)), fmt.Sprint(servicePort))
	if out, err := mesh.Capture(t, back, "install", "--uid", fmt.Sprint(meshtest.SidecarUID)); err != nil {
		t.Fatalf("capture install: %v: %s", err, out)
	}
	mesh.WorkloadOn(t, back, "us-1", "back", servicePort)

	crosses := func(when string) {
		t.Helper()
		r := mesh.Get(t, gateway.URL+"/front/call?"+url.Values{"to": {"http://back/hello"}, "forward": {"traceparent"}}.Encode(), "acme")
		var seen struct {
			Path   string
			Header http.Header
		}
		if err := json.Unmarshal([]byte(r.Body), &seen); err != nil || r.Status != http.StatusOK || seen.Path != "/hello" || !tenantIs(seen.Header, "acme") {
			t.Errorf("through the installed sidecar, %s: %d %q: %.500s", when, r.Status, r.Reason(), r.Body)
		}
	}
	crosses("at first")
	if out := m.run(t, "/usr/local/bin/tenantmesh-sidecar", "capture", "check", "--config", "/etc/tenantmesh/capture.yaml", "--address", front.IPv4); strings.Contains(out, "wrong") {
		t.Errorf("capture check: %s", out)
	}

	// An upgrade: programs are replaced under those that run, which go on until they are started again.
	m.install(t, "--bin", longer(t, programs(t)), "--envoy", envoy(t))
	crosses("while its program is replaced")
	m.stop(t, started[1])
	started[1] = m.start(t, units[1])
	mesh.Joined(t, "us-1", "front", front.IPv4+":15006")
	crosses("after its restart")

	slices.Reverse(started)
	for _, r := range started {
		m.stop(t, r)
	}
	if out := m.run(t, "/usr/local/bin/tenantmesh-sidecar", "capture", "show"); !strings.Contains(out, "nothing is captured") {
		t.Errorf("after the units ended: %s", out)
	}
	m.install(t, "--uninstall", "--purge")
	if out := m.run(t, "sh", "-c", "find /etc /usr/local /var/lib -path '*tenantmesh*' | grep -v front.service.d || true"); out != "" {
		t.Errorf("the installer left %s", out)
	}
}

// TestInstalledControl: the units of the development CA and the control plane, and the operator's tool beside them.
func TestInstalledControl(t *testing.T) {
	m := newMachine(t, meshtest.NewNetwork(t).Host(t), readable(t))
	m.install(t, "--bin", programs(t), "--envoy", envoy(t))
	m.write(t, "/etc/tenantmesh/control.env", "TRUST_DOMAIN=mesh.example\nXDS_ADDRESS=0.0.0.0:15010\nSPIFFE_ENDPOINT_SOCKET=unix:///run/tenantmesh-ca/workload-api.sock\nMORE_FLAGS=--metrics-address 127.0.0.1:15014 --lease 20s\n")
	units := order([]unit{installed(t, m.root(), "tenantmesh-control.service"), installed(t, m.root(), "tenantmesh-ca.service")})
	if names := fmt.Sprint(unitNames(units)); names != "[tenantmesh-ca.service tenantmesh-control.service]" {
		t.Fatalf("the order is %s", names)
	}
	ca := m.start(t, units[0])
	uid := strings.TrimSpace(m.run(t, "id", "-u", "tenantmesh"))
	m.run(t, "tenantmesh", "ca", "register", "--socket", "/run/tenantmesh-ca/workload-api.sock", "--id", "spiffe://mesh.example/control", "--uid", uid)
	control := m.start(t, units[1])
	powerless(t, ca, control)
	m.write(t, "/etc/tenantmesh/cell.yaml", objects)
	m.run(t, "tenantmesh", "apply", "--admin", "/run/tenantmesh/admin.sock", "-f", "/etc/tenantmesh/cell.yaml")
	if out := m.run(t, "tenantmesh", "get", "tenant", "--admin", "/run/tenantmesh/admin.sock"); !strings.Contains(out, "acme") {
		t.Errorf("tenants are %s", out)
	}
	m.stop(t, control)
	m.stop(t, ca)
}

// powerless: neither the main process nor a child of it has, or can get, a capability.
func powerless(t *testing.T, all ...*running) {
	t.Helper()
	for _, r := range all {
		for _, pid := range append(children(t, r.cmd.Process.Pid), fmt.Sprint(r.cmd.Process.Pid)) {
			text, err := os.ReadFile("/proc/" + pid + "/status")
			check(t, err)
			for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
				if !strings.Contains(string(text), want) {
					t.Errorf("process %s of %s: want %s, is %s", pid, r.name, want, text)
				}
			}
			if strings.Contains(string(text), "Uid:\t0") {
				t.Errorf("process %s of %s is root's", pid, r.name)
			}
		}
	}
}

func children(t *testing.T, pid int) []string {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	check(t, err)
	var pids []string
	for _, list := range lists {
		text, err := os.ReadFile(list)
		check(t, err)
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

func tenantIs(header http.Header, tenant string) bool {
	for name, values := range header {
		if strings.EqualFold(name, "x-tenant-id") {
			return slices.Equal(values, []string{tenant})
		}
	}
	return false
}

func unitNames(units []unit) []string {
	var names []string
	for _, u := range units {
		names = append(names, u.name)
	}
	return names
}

// readable is a folder that everybody may read.
func readable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "deploy-")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	return dir
}

// longer copies programs that are another version: with a byte more, which nobody reads.
func longer(t *testing.T, dir string) string {
	t.Helper()
	other := t.TempDir()
	for _, name := range []string{"tenantmesh", "tenantmesh-sidecar"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(other, name), append(text, 0), 0o700))
	}
	return other
}

// write writes a program that everybody may read.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(readable(t), "service.py")
	check(t, os.WriteFile(path, []byte(text), 0o600))
	check(t, os.Chmod(path, 0o644))
	return path
}
