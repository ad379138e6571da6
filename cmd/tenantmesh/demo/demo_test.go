package demo_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/netns"
)

// build builds both programs beside each other.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir+"/", "github.com/tenantmesh/tenantmesh/cmd/tenantmesh", "github.com/tenantmesh/tenantmesh/cmd/tenantmesh-sidecar").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "tenantmesh")
}

func tempData(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-") // short: Unix sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.RemoveAll(dir)
		_ = os.Remove(dir + ".lock")
	})
	return dir
}

// TestTour: services find each other by capture, on hosts of their own, where that can be; and by a proxy setting.
func TestTour(t *testing.T) {
	program := build(t)
	for _, one := range []struct{ capture, want string }{{"on", "all 22 steps passed"}, {"off", "all 21 steps passed"}} {
		t.Run("capture "+one.capture, func(t *testing.T) {
			if err := netns.Able(); err != nil && one.capture == "on" {
				t.Skipf("skipped: %v", err)
			}
			out, err := exec.CommandContext(t.Context(), program, "demo", "--tour", "--capture", one.capture, "--gateway-port", "0", "--data", tempData(t)).CombinedOutput()
			if err != nil || !strings.Contains(string(out), one.want) || strings.Contains(string(out), "FAIL") {
				t.Errorf("the tour: %v\n%s", err, out)
			}
		})
	}
}

type ready struct {
	Gateway   string
	Processes []struct {
		Name, Role string
		PID        int
	}
}

// TestNothingStaysBehind kills the demo: every process that it started ends too, and no host of its network is left.
func TestNothingStaysBehind(t *testing.T) {
	data := tempData(t)
	file := filepath.Join(t.TempDir(), "ready.json")
	cmd := exec.CommandContext(t.Context(), build(t), "demo", "--gateway-port", "0", "--data", data, "--ready-file", file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var r ready
	wait(t, func() bool {
		text, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(text, &r) == nil
	})
	roles := map[string]int{}
	for _, p := range r.Processes {
		roles[p.Role]++
	}
	for role, n := range map[string]int{"control": 1, "ca": 1, "issuer": 1, "gateway": 1, "sidecar": 14, "envoy": 15, "service": 14} {
		if roles[role] != n {
			t.Errorf("%d processes of role %s, want %d", roles[role], role, n)
		}
	}
	second, err := exec.Command(cmd.Path, "demo", "--gateway-port", "0", "--data", data).CombinedOutput()
	if err == nil || !strings.Contains(string(second), "a demo runs in") {
		t.Errorf("a second demo in the same folder: %v: %s", err, second)
	}
	network := fmt.Sprintf("tm%d", cmd.Process.Pid)
	if netns.Able() == nil && !left(t, network) {
		t.Error("it has no network")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, p := range r.Processes {
		wait(t, func() bool { return !alive(p.PID) })
	}
	wait(t, func() bool { return !left(t, network) })
}

// left reports whether anything of a network is there.
func left(t *testing.T, network string) bool {
	t.Helper()
	for _, place := range []string{"/run/netns", "/etc/netns", "/sys/class/net"} {
		found, err := filepath.Glob(filepath.Join(place, network+"*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return true
		}
	}
	return false
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(state, "Z")
}

func wait(t *testing.T, good func() bool) {
	t.Helper()
	deadline := time.After(90 * time.Second)
	for !good() {
		select {
		case <-deadline:
			t.Fatal("it did not come to pass in 90 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
