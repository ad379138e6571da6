// Package capture shows a mesh whose services know nothing of it: each host is a network namespace, whose rules send what
// a service calls, and what calls it, to its sidecar.
//
// Its tests need root; without it they are skipped, and 'make test' says so.
package capture

import (
	"context"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// say lets every connection to an address of a host know a word, and then hear its own again.
func say(t *testing.T, h *meshtest.Host, address, word string) {
	t.Helper()
	listener := h.Listen(t, address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, word)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

// hear connects from a host, and returns the word that the other side says.
func hear(t *testing.T, h *meshtest.Host, address string) (word string, conn net.Conn, err error) {
	t.Helper()
	conn, err = h.Dial(t.Context(), "tcp", address)
	if err != nil {
		return "", nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	buffer := make([]byte, 16)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), conn, err
}

// alive reports whether a connection still carries something both ways.
func alive(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "x"); err != nil {
		return false
	}
	n, _ := conn.Read(make([]byte, 1))
	return n == 1
}

// TestRules: of each backend, what goes where, and that removal leaves nothing. Connections of before are reset.
func TestRules(t *testing.T) {
	network := meshtest.NewNetwork(t)
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			us, them := network.Host(t), network.Host(t)
			binary := meshtest.SidecarBinary(t)
			capture := func(args ...string) string {
				t.Helper()
				out, err := us.Run(t, binary, append([]string{"capture"}, args...)...)
				if err != nil {
					t.Fatalf("capture %s: %v: %s", args, err, out)
				}
				return out
			}
			for _, host := range []string{us.IPv4, "[" + us.IPv6 + "]"} {
				say(t, us, host+":8080", "service")
				say(t, us, host+":9100", "excluded")
				say(t, us, host+":15006", "inbound")
				say(t, us, host+":22", "ssh")
			}
			for _, host := range []string{"127.0.0.1", "[::1]"} {
				say(t, us, host+":15002", "captured")
			}
			for _, host := range []string{them.IPv4, "[" + them.IPv6 + "]"} {
				say(t, them, host+":80", "theirs")
				say(t, them, host+":123", "time")
			}
			before := map[string]net.Conn{}
			for what, from := range map[string]struct {
				host    *meshtest.Host
				address string
			}{"out": {us, them.IPv4 + ":80"}, "in": {them, us.IPv4 + ":8080"}, "out by IPv6": {us, "[" + them.IPv6 + "]:80"}, "in by IPv6": {them, "[" + us.IPv6 + "]:8080"}} {
				_, conn, err := hear(t, from.host, from.address)
				if err != nil || !alive(conn) {
					t.Fatalf("%s, before: %v", what, err)
				}
				before[what] = conn
			}
			_, ssh, err := hear(t, them, us.IPv4+":22")
			if err != nil {
				t.Fatal(err)
			}

			install := []string{"install", "--uid", "1337", "--backend", backend, "--exclude-inbound-ports", "9100,22", "--exclude-outbound-ports", "123"}
			capture(install...)
			once := capture("show")
			capture(install...)
			if twice := capture("show"); twice != once || !strings.Contains(once, "15002") {
				t.Errorf("installed twice, there is\n%s, and installed once\n%s", twice, once)
			}
			for what, conn := range before {
				if alive(conn) {
					t.Errorf("a connection of before lives: %s", what)
				}
			}
			if !alive(ssh) {
				t.Error("a connection of before to an excluded port does not live")
			}
			for _, test := range []struct {
				what string
				from *meshtest.Host
				to   string
				want string
			}{
				{"a call", us, them.IPv4 + ":80", "captured"},
				{"a call to nobody", us, "192.0.2.1:443", "captured"},
				{"a call by IPv6", us, "[" + them.IPv6 + "]:80", "captured"},
				{"a call to a name", us, "127.64.1.2:80", "captured"},
				{"a call to an excluded port", us, them.IPv4 + ":123", "time"},
				{"a call to an excluded port by IPv6", us, "[" + them.IPv6 + "]:123", "time"},
				{"a caller", them, us.IPv4 + ":8080", "inbound"},
				{"a caller by IPv6", them, "[" + us.IPv6 + "]:8080", "inbound"},
				{"a caller of a port where nobody listens", them, us.IPv4 + ":5", "inbound"},
				{"a caller of an excluded port", them, us.IPv4 + ":9100", "excluded"},
				{"a caller of an excluded port by IPv6", them, "[" + us.IPv6 + "]:9100", "excluded"},
				{"a call to the service itself", us, us.IPv4 + ":8080", "service"},
			} {
				if got, _, err := hear(t, test.from, test.to); got != test.want {
					t.Errorf("%s reaches %q (%v), want %q", test.what, got, err, test.want)
				}
			}
			// The sidecar's own user is let through.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			theirs := "import socket; s = socket.create_connection(('" + them.IPv4 + "', 80), 2); print(s.recv(16).decode(), end='')"
			for uid, want := range map[int]string{meshtest.SidecarUID: "theirs", meshtest.NobodyUID: "captured"} {
				if out, err := us.Command(ctx, uid, meshtest.Python(t), "-c", theirs).CombinedOutput(); string(out) != want {
					t.Errorf("a call of uid %d reaches %q (%v), want %q", uid, out, err, want)
				}
			}

			capture("remove")
			capture("remove")
			for _, list := range []string{"nft list ruleset", "iptables-save", "ip6tables-save"} {
				if out, err := us.Run(t, "sh", "-c", list); err != nil || strings.Contains(strings.ToLower(out), "tenantmesh") {
					t.Errorf("after removal %s says %s (%v)", list, out, err)
				}
			}
			if got, _, err := hear(t, us, them.IPv4+":80"); got != "theirs" {
				t.Errorf("after removal a call reaches %q (%v)", got, err)
			}
			if out := capture("show"); !strings.Contains(out, "nothing is captured") {
				t.Errorf("after removal show says %s", out)
			}
		})
	}
}

// TestNotPermitted: without the capability nothing is tried.
func TestNotPermitted(t *testing.T) {
	network := meshtest.NewNetwork(t)
	h := network.Host(t)
	cmd := exec.CommandContext(t.Context(), "setpriv", "--reuid", "65534", "--clear-groups", meshtest.SidecarBinary(t), "capture", "install", "--uid", "1337")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "error: capture must have the capability CAP_NET_ADMIN (uid 65534 has it not)\nhint: run it as root") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := h.Run(t, "nft", "list", "ruleset"); err != nil || out != "" {
		t.Errorf("there are rules: %s (%v)", out, err)
	}
}
