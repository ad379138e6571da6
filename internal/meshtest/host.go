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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
)

// Users of a [Host]. Nobody is what runs a service.
const (
	SidecarUID = 1337
	NobodyUID  = 65534
)

// Network is a bridge of this machine, to which hosts are connected. Only root can make one.
type Network struct {
	name  string
	octet int
}

// hosts counts those of this process: the kernel takes its time to remove one, and a name is not used twice.
var hosts atomic.Int64

// Host is a network namespace: a machine of its own, but for its disk.
type Host struct {
	Name, IPv4, IPv6 string
}

// NewNetwork skips the test where no network can be made. Names hold the process's ID; what a process left that was
// killed is removed.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: it must run as root, to make network namespaces")
	}
	for _, program := range []string{"ip", "nft", "iptables", "ip6tables", "setpriv", "python3"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("skipped: %s is not there (apt-get install iproute2 nftables iptables)", program)
		}
	}
	if out, err := exec.Command("unshare", "--net", "nft", "list", "ruleset").CombinedOutput(); err != nil {
		t.Skipf("skipped: root may not make network namespaces here, or the kernel has no nftables: %v: %s", err, out)
	}
	sweep(t)
	n := &Network{name: fmt.Sprint("tm", os.Getpid()), octet: os.Getpid() % 250}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", n.name).Run() })
	for _, line := range []string{
		"link add " + n.name + " type bridge", "addr add " + n.address(1) + "/24 dev " + n.name,
		"addr add " + n.address6(1) + "/64 dev " + n.name + " nodad", "link set " + n.name + " up",
	} {
		ip(t, line)
	}
	return n
}

func (n *Network) address(host int) string  { return fmt.Sprintf("10.213.%d.%d", n.octet, host) }
func (n *Network) address6(host int) string { return fmt.Sprintf("fd74:6d00:%x::%x", n.octet, host) }

// sweep removes what test processes left that are gone.
func sweep(t testing.TB) {
	t.Helper()
	entries, _ := os.ReadDir("/run/netns")
	links, _ := os.ReadDir("/sys/class/net")
	for i, entry := range append(entries, links...) {
		pid, ok := strings.CutPrefix(entry.Name(), "tm")
		pid, _, _ = strings.Cut(pid, "-")
		n, err := strconv.Atoi(pid)
		if !ok || err != nil || syscall.Kill(n, 0) == nil {
			continue
		}
		if i < len(entries) {
			_ = exec.Command("ip", "netns", "del", entry.Name()).Run()
			_ = os.RemoveAll("/etc/netns/" + entry.Name())
		} else {
			_ = exec.Command("ip", "link", "del", entry.Name()).Run()
		}
	}
}

// Host adds a host, whose hosts file knows itself only, and which can reach every address by its router.
func (n *Network) Host(t testing.TB) *Host {
	t.Helper()
	number := int(hosts.Add(1))
	h := &Host{Name: fmt.Sprintf("%s-%d", n.name, number), IPv4: n.address(1 + number), IPv6: n.address6(1 + number)}
	etc := filepath.Join("/etc/netns", h.Name)
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", h.Name).Run()
		_ = os.RemoveAll(etc)
		_ = os.Remove("/etc/netns") // if it is empty
	})
	check(t, os.MkdirAll(etc, 0o755))
	check(t, os.WriteFile(h.HostsFile(), []byte("127.0.0.1\tlocalhost\n"), 0o600))
	check(t, os.Chmod(h.HostsFile(), 0o644))
	check(t, os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver "+n.address(1)+"\noptions timeout:1 attempts:1\n"), 0o600))
	check(t, os.Chmod(filepath.Join(etc, "resolv.conf"), 0o644))
	for _, line := range []string{
		"netns add " + h.Name,
		fmt.Sprintf("link add %sp master %s type veth peer name eth0 netns %s", h.Name, n.name, h.Name),
		"link set " + h.Name + "p up",
		"-n " + h.Name + " link set lo up", "-n " + h.Name + " link set eth0 up",
		"-n " + h.Name + " addr add " + h.IPv4 + "/24 dev eth0", "-n " + h.Name + " addr add " + h.IPv6 + "/64 dev eth0 nodad",
		"-n " + h.Name + " route add default via " + n.address(1), "-n " + h.Name + " -6 route add default via " + n.address6(1),
	} {
		ip(t, line)
	}
	return h
}

func ip(t testing.TB, line string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

// HostsFile is the host's /etc/hosts.
func (h *Host) HostsFile() string { return filepath.Join("/etc/netns", h.Name, "hosts") }

// Command is a program on the host, as a user. Of this process's environment it gets nothing but PATH.
func (h *Host) Command(ctx context.Context, uid int, program string, args ...string) *exec.Cmd {
	user := strconv.Itoa(uid)
	line := []string{"netns", "exec", h.Name, "setpriv", "--pdeathsig", "KILL", "--reuid", user, "--regid", user, "--clear-groups"}
	if uid == SidecarUID { // a checkout or a test's folder may be its owner's alone
		line = append(line, "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
	}
	cmd := exec.CommandContext(ctx, "ip", append(append(line, program), args...)...)
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
		file, err := os.Open("/run/netns/" + h.Name)
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
func On(n *Network) Option { return func(m *Mesh) { m.address = n.address(1) } }

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
