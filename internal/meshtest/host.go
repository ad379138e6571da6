package meshtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/netns"
)

// Users of a [Host]. Nobody is what runs a service.
const (
	SidecarUID = 1337
	NobodyUID  = 65534
)

// Network is one of several hosts on this machine.
type Network struct{ *netns.Network }

// Host is a machine of its own, but for its disk.
type Host struct{ *netns.Host }

// NewNetwork skips the test where no network can be made.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if err := netns.Able(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	n, err := netns.New()
	check(t, err)
	t.Cleanup(n.Close)
	return &Network{n}
}

// Host adds a host.
func (n *Network) Host(t testing.TB) *Host {
	t.Helper()
	h, err := n.Network.Host("")
	check(t, err)
	return &Host{h}
}

// Command is a program on the host, as a user. Of this process's environment it gets nothing but PATH.
func (h *Host) Command(ctx context.Context, uid int, program string, args ...string) *exec.Cmd {
	var capabilities []string
	if uid == SidecarUID { // a checkout or a test's folder may be its owner's alone
		capabilities = []string{"dac_override"}
	}
	cmd := h.Host.Command(ctx, uid, capabilities, program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

// Run runs a program on the host, as root, to its end.
func (h *Host) Run(t testing.TB, program string, args ...string) (output string, err error) {
	t.Helper()
	out, err := h.Command(t.Context(), 0, program, args...).CombinedOutput()
	return string(out), err
}

// Capture runs "tenantmesh-sidecar capture" on the host, as root.
func (m *Mesh) Capture(t testing.TB, h *Host, args ...string) (output string, err error) {
	t.Helper()
	return h.Run(t, m.binary, append([]string{"capture"}, args...)...)
}

// SidecarBinary is the program itself, for tests without a mesh.
func SidecarBinary(t testing.TB) string {
	t.Helper()
	path, err := build()
	check(t, err)
	return path
}

// Spawn starts a program on the host, as nobody, that ends with the test; what it prints is in a file.
func (h *Host) Spawn(t testing.TB, program string, args ...string) {
	t.Helper()
	cmd := h.Command(context.Background(), NobodyUID, program, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	spawn(t, cmd)
}

// in runs f on a thread of the host's.
func (h *Host) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		file, err := os.Open(h.Path())
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			_ = file.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Python is an interpreter that nobody may run, too: the machine's own, where there is one.
func Python(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/usr/bin/python3", "/usr/local/bin/python3"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("python3")
	check(t, err)
	return path
}

// Dial connects from the host, as root. The address must be of an IP address.
func (h *Host) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.in(func() (err error) {
		dialer := net.Dialer{Timeout: 2 * time.Second}
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on the host.
func (h *Host) Listen(t testing.TB, address string) (listener net.Listener) {
	t.Helper()
	check(t, h.in(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// On lets control planes listen on the network, where hosts reach them.
func On(n *Network) Option { return func(m *Mesh) { m.address = n.Address() } }

// WorkloadOn starts a workload's captured sidecar on a host whose service listens at port, and returns once its endpoint
// is known to the mesh.
func (m *Mesh) WorkloadOn(t testing.TB, h *Host, cell, name string, port int, flags ...string) *Sidecar {
	t.Helper()
	id, err := identity.WorkloadID(TrustDomain, cell, name)
	check(t, err)
	at := func(port string) string { return "http://" + net.JoinHostPort(h.IPv4, port) }
	s := &Sidecar{URL: at("15006"), Metrics: at("15090") + "/metrics", Health: at("15021"), Dir: filepath.Join(m.dir, h.Name), Log: filepath.Join(m.dir, h.Name+".log")}
	cmd := h.Command(context.Background(), SidecarUID, m.binary, append([]string{
		"--control", strings.Join(m.xds, ","), "--data-dir", s.Dir, "--drain", m.drain.String(), "--service-port", strconv.Itoa(port),
		"--address", h.IPv4, "--capture", "--hosts-file", "/etc/hosts",
	}, flags...)...)
	cmd.Env = append(cmd.Env, "SPIFFE_ENDPOINT_SOCKET=unix://"+filepath.Join(m.dir, "ca.sock"), "TENANTMESH_ENVOY="+os.Getenv("TENANTMESH_ENVOY"))
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	ended := spawn(t, cmd)
	check(t, log.Close())
	s.PID = cmd.Process.Pid
	check(t, m.ca.Register(t.Context(), devca.Registration{ID: id, PID: s.PID, UID: SidecarUID}))
	if err := answers(t, s.Health+"/readyz", ended); err != nil {
		text, _ := os.ReadFile(s.Log)
		t.Fatalf("the sidecar of %s: %v: %s", name, err, tail(text))
	}
	m.joined(t, cell, name, strings.TrimPrefix(s.URL, "http://"))
	return s
}

// answers waits until a URL answers 200.
func answers(t testing.TB, url string, ended <-chan struct{}) error {
	t.Helper()
	for deadline := time.After(patience); ; {
		if response, err := http.Get(url); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return errors.New("it ended")
		case <-deadline:
			return fmt.Errorf("it was not ready after %v", patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
