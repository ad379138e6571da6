// Package netns answers HOW DO SEVERAL HOSTS FIT ON ONE MACHINE: each is a network namespace (network_namespaces(7)) with an address, a
// hosts file and a resolver's file of its own, and all are connected by a bridge of this machine. Disk, users and processes are shared.
//
// What a network is made of goes with the process that made it, however that ends.
//
// Only root can make one. It imports the standard library.
package netns

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Network is a bridge, to which hosts are connected. It is not for concurrent use.
type Network struct {
	name   string
	octet  int
	hosts  int
	alive  io.Closer // closed, it lets ward end
	warden *exec.Cmd // removes what there is once alive is closed, by us or by our end
}

// Host is one of its hosts.
type Host struct {
	Name       string // as "ip netns exec" knows it
	IPv4, IPv6 string
}

// programs are those that make a network, and those that capture traffic in it.
var programs = []string{"ip", "nft", "iptables", "ip6tables", "setpriv", "unshare"}

// Able says why no network can be made here, with what to do.
func Able() error {
	if os.Getuid() != 0 {
		return fmt.Errorf("only root makes network namespaces, and this is user %d", os.Getuid())
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not there (apt-get install iproute2 nftables iptables util-linux)", program)
		}
	}
	if out, err := exec.Command("unshare", "--net", "nft", "list", "ruleset").CombinedOutput(); err != nil {
		return fmt.Errorf("root may not make network namespaces here, or the kernel has no nftables: %w: %s", err, out)
	}
	return nil
}

// ward waits for its input's end, and removes the network whose name is its argument.
const ward = `cat >/dev/null
for h in /run/netns/"$1"-*; do test -e "$h" && ip netns del "${h##*/}"; done
rm -rf /etc/netns/"$1"-*
rmdir /etc/netns 2>/dev/null
ip link del "$1"`

// made counts the networks of this process: the kernel takes its time to remove one, and a name is not used again soon.
var made atomic.Int64

// New makes a network, in which this machine is host 1. It fails with what [Able] says, or where no addresses are free.
func New() (*Network, error) {
	if err := Able(); err != nil {
		return nil, err
	}
	// An interface's name has 15 bytes: tm, a process ID of 7, a letter, and of a host "-", its number and "p".
	n := &Network{name: fmt.Sprintf("tm%d%c", os.Getpid(), 'a'+rune((made.Add(1)-1)%26)), hosts: 1}
	if err := n.pick(); err != nil {
		return nil, err
	}
	n.warden = exec.Command("sh", "-c", ward, "ward", n.name)
	n.warden.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what ends us must not end it
	alive, err := n.warden.StdinPipe()
	if err == nil {
		err = n.warden.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start what removes the network: %w", err)
	}
	n.alive = alive
	if err := ip(
		nil, "link add "+n.name+" type bridge", "addr add "+n.Address()+"/24 dev "+n.name,
		"addr add "+n.address6(1)+"/64 dev "+n.name+" nodad", "link set "+n.name+" up",
	); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// pick finds an octet that no interface of this machine uses.
func (n *Network) pick() error {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, a := range addresses {
		host, _, _ := strings.Cut(a.String(), "/")
		taken[host] = true
	}
	for i := range 250 {
		if n.octet = (os.Getpid() + i) % 250; !taken[n.Address()] {
			return nil
		}
	}
	return fmt.Errorf("every one of the 250 networks of 10.213.0.0/16 is in use: see ip address")
}

func (n *Network) address(host int) string  { return fmt.Sprintf("10.213.%d.%d", n.octet, host) }
func (n *Network) address6(host int) string { return fmt.Sprintf("fd74:6d00:%x::%x", n.octet, host) }

// Address is this machine's own in the network.
func (n *Network) Address() string { return n.address(1) }

// Host adds a host, whose hosts file knows itself only, and which can reach every address by way of this machine. label is the end of
// its name, as in tm4711a-LABEL; "" is its number.
func (n *Network) Host(label string) (*Host, error) {
	if n.hosts == 254 {
		return nil, fmt.Errorf("a network has 253 hosts")
	}
	n.hosts++
	if label == "" {
		label = strconv.Itoa(n.hosts)
	}
	link := fmt.Sprintf("%s-%dp", n.name, n.hosts)
	h := &Host{Name: n.name + "-" + label, IPv4: n.address(n.hosts), IPv6: n.address6(n.hosts)}
	if err := os.MkdirAll(h.etc(), 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"hosts": "127.0.0.1\tlocalhost\n", "resolv.conf": "nameserver " + n.Address() + "\noptions timeout:1 attempts:1\n",
	} {
		path := filepath.Join(h.etc(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if err := os.Chmod(path, 0o644); err != nil { // for every user, whatever the umask
			return nil, err
		}
	}
	if err := ip(nil, "netns add "+h.Name); err != nil {
		return nil, err
	}
	if err := ip(nil, "link add "+link+" master "+n.name+" type veth peer name eth0 netns "+h.Name, "link set "+link+" up"); err != nil {
		return nil, err
	}
	return h, ip(
		[]string{"-n", h.Name},
		"link set lo up", "link set eth0 up", "addr add "+h.IPv4+"/24 dev eth0", "addr add "+h.IPv6+"/64 dev eth0 nodad",
		"route add default via "+n.Address(), "-6 route add default via "+n.address6(1),
	)
}

// Close removes the hosts, whose processes must have ended, and the bridge.
func (n *Network) Close() {
	_ = n.alive.Close()
	_ = n.warden.Wait()
}

func (h *Host) etc() string { return filepath.Join("/etc/netns", h.Name) }

// HostsFile is the host's /etc/hosts.
func (h *Host) HostsFile() string { return filepath.Join(h.etc(), "hosts") }

// Path is the namespace, for setns(2).
func (h *Host) Path() string { return filepath.Join("/run/netns", h.Name) }

// Command is a program on the host, as a user; the process is the program's from its start on. It dies with the thread that starts it.
// Who is not root keeps the capabilities that are named, such as "dac_override".
func (h *Host) Command(ctx context.Context, uid int, capabilities []string, program string, args ...string) *exec.Cmd {
	line := append(h.Line(uid, capabilities, program), args...)
	return exec.CommandContext(ctx, line[0], line[1:]...)
}

// Line is what Command runs.
func (h *Host) Line(uid int, capabilities []string, program string) []string {
	user := strconv.Itoa(uid)
	line := []string{"ip", "netns", "exec", h.Name, "setpriv", "--pdeathsig", "KILL", "--reuid", user, "--regid", user, "--clear-groups"}
	for _, c := range capabilities {
		line = append(line, "--inh-caps", "+"+c, "--ambient-caps", "+"+c)
	}
	return append(line, program)
}

// ip does lines of ip(8), on the host that flags name.
func ip(flags []string, lines ...string) error {
	for _, line := range lines {
		args := append(flags[:len(flags):len(flags)], strings.Fields(line)...)
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}
