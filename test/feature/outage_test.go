package feature

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestControlPlaneDies: what was served stays served, restarts included; and changes flow again once it is back.
func TestControlPlaneDies(t *testing.T) {
	w := newWorld(t)
	served := func(when string) {
		t.Helper()
		want(t, when, w.call(t, "acme", "http://back/x", "traceparent"), 200, "")
		want(t, when+", globex", w.Get(t, w.gateway.URL+"/front/x", "globex"), 200, "")
		want(t, when+", unproven", w.Get(t, w.gateway.URL+"/front/x", ""), 401, "unauthenticated_tenant")
	}
	served("before")
	saved(t, w.gateway, w.front, w.back)
	w.StopControl()
	served("without a control plane")
	w.gateway = w.gateway.Restart(t)
	served("gateway restarted from disk")
	w.front = w.front.Restart(t)
	served("sidecar restarted from disk")
	w.StartControl(t)
	until(t, func() bool {
		status, err := w.Admin.Status(t.Context(), 0, false, 1)
		return err == nil && status.Total == 3
	})
	w.Apply(t, globex("suspended: true"))
	want(t, "a change after it is back", w.Get(t, w.gateway.URL+"/front/x", "globex"), 403, "tenant_suspended")
	served2 := w.Get(t, w.gateway.URL+"/front/x", "acme")
	want(t, "acme after it is back", served2, 200, "")
}

// saved waits until the last good states are on disk and hold what is enforced.
func saved(t *testing.T, sidecars ...*meshtest.Sidecar) {
	t.Helper()
	for _, s := range sidecars {
		until(t, func() bool {
			text, err := os.ReadFile(filepath.Join(s.Dir, "last-good-state.json"))
			var file struct{ State struct{ Revision int64 } }
			return err == nil && json.Unmarshal(text, &file) == nil && file.State.Revision == int64(metric(t, s, "tenantmesh_config_revision"))
		})
	}
}

// TestTornState: a state that was changed on disk is refused whole, named, and replaced.
func TestTornState(t *testing.T) {
	w := newWorld(t)
	saved(t, w.gateway)
	path := filepath.Join(w.gateway.Dir, "last-good-state.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state's mode is %v, %v; want 0600", info.Mode(), err)
	}
	if strings.Contains(string(text), "PRIVATE KEY") {
		t.Error("there is a private key in the state")
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), `"revision":`, `"revision":9`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.gateway = w.gateway.Restart(t)
	want(t, "after the restart", w.Get(t, w.gateway.URL+"/front/x", "acme"), 200, "")
	log, err := os.ReadFile(w.gateway.Log)
	if err != nil || !strings.Contains(string(log), "the last good state is not used") {
		t.Errorf("the log does not name the torn state (%v)", err)
	}
}

// TestEnvoyDies: it comes back from the last good state.
func TestEnvoyDies(t *testing.T) {
	w := newWorld(t)
	pid := envoyOf(t, w.gateway)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return metric(t, w.gateway, "tenantmesh_envoy_restarts") == 1 })
	until(t, func() bool {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway.URL+"/front/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+w.Token(t, "acme"))
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// envoyOf is the process whose parent is the sidecar.
func envoyOf(t *testing.T, s *meshtest.Sidecar) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(s.PID) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("sidecar %d has no child", s.PID)
	return 0
}

// TestCheckFails: without the Go process Envoy refuses, whatever the tier. The process is stopped, not killed: killed, it takes its
// Envoy with it.
func TestCheckFails(t *testing.T) {
	w := newWorld(t)
	if err := syscall.Kill(w.front.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"acme", "globex"} {
		if r := w.Get(t, w.gateway.URL+"/front/x", tenant); r.Status != 503 || r.Reason() != "enforcement_unavailable" {
			t.Errorf("%s: without an answer to its check Envoy says %d %q: %s", tenant, r.Status, r.Reason(), r.Body)
		}
	}
	if err := syscall.Kill(w.front.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return w.Get(t, w.gateway.URL+"/front/x", "acme").Status == 200 })
	until(t, func() bool { return leases(t, w.front) == 0 })
}

// TestRotation: SVIDs that live for 2 seconds are replaced many times, and no request is lost.
func TestRotation(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects, meshtest.SVIDTTL(2*time.Second))}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	w.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	token := "Bearer " + w.Token(t, "globex")
	var stop atomic.Bool
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				r := meshtest.Do(t, nil, http.MethodGet, w.gateway.URL+"/front/x", http.Header{"Authorization": {token}}, nil)
				sent.Add(1)
				if r.Status != http.StatusOK {
					failed.Add(1)
					t.Errorf("%d %s %s", r.Status, r.Reason(), r.Body)
				}
			}
		})
	}
	serials := map[string]bool{}
	until(t, func() bool {
		serials[serial(t, w.front)] = true
		return len(serials) >= 5 || failed.Load() > 0
	})
	stop.Store(true)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed over %d rotations", failed.Load(), sent.Load(), len(serials)-1)
	}
}

// serial is the serial number of the SVID that an Envoy shows.
func serial(t *testing.T, s *meshtest.Sidecar) string {
	t.Helper()
	var certs struct {
		Certificates []struct {
			CertChain []struct {
				SerialNumber string `json:"serial_number"`
			} `json:"cert_chain"`
		}
	}
	body := meshtest.Do(t, nil, http.MethodGet, s.Admin+"/certs", nil, nil).Body
	if err := json.Unmarshal([]byte(body), &certs); err != nil {
		t.Fatal(err)
	}
	for _, c := range certs.Certificates {
		if len(c.CertChain) > 0 {
			return c.CertChain[0].SerialNumber
		}
	}
	return fmt.Sprint("none in ", len(body), " bytes")
}
