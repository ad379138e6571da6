package feature

import (
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const execObjects = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: job}
spec: {dependsOn: [back], boundTenant: acme}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: job-back}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/job"], targets: [{workload: back}]}
`

// job waits for a file, calls back, and ends with 7.
const job = `
import os, sys, time, urllib.request
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
urllib.request.urlopen("http://back/job", timeout=5).read()
sys.exit(7)
`

// service serves, and calls back when it is told something, and once more when it is told to end.
const service = `
import http.server, os, signal, sys, threading, urllib.request
def call(path):
    urllib.request.urlopen("http://back" + path, timeout=5).read()
def end(*_):
    call("/last")
    os._exit(0)
signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=call, args=("/hup",)).start())
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
`

// TestExec: a sidecar runs its service as its child. It ends with it, and with its exit code; told to end, it has the service end first, whose calls go
// through until it is gone; other signals are the service's.
func TestExec(t *testing.T) {
	m := meshtest.Start(t, objects+execObjects)
	var mu sync.Mutex
	seen := map[string]string{} // tenant by path
	m.Workload(t, "us-1", "back", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path] = r.Header.Get("X-Tenant-Id")
	}))
	saw := func(path string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return seen[path] == "acme"
		}
	}

	file := filepath.Join(t.TempDir(), "go")
	s := m.Executed(t, "us-1", "job", func(string) []string { return []string{meshtest.Python(t), "-c", job, file} })
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := s.Exit(); code != 7 || !saw("/job")() {
		t.Errorf("the job ended with %d, and back saw %v", code, seen)
	}

	s = m.Executed(t, "us-1", "job", func(port string) []string { return []string{meshtest.Python(t), "-c", service, port} })
	if err := syscall.Kill(s.PID, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, saw("/hup"))
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := s.Exit(); code != 0 || !saw("/last")() {
		t.Errorf("the service ended with %d, and back saw %v", code, seen)
	}
}
