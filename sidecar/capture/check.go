package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Finding is one thing that was looked at.
type Finding struct {
	What   string `json:"what"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
}

// Result says what came out.
type Result string

// The results.
const (
	Proven Result = "ok"      // a real connection went where it should
	Wrong  Result = "wrong"   // it did not
	Hole   Result = "hole"    // it is as it was configured, and lets something past
	Unsure Result = "unknown" // it could not be tried
)

// Where checks call: addresses that nobody has (RFC 5737, RFC 3849), and a name's that no name has.
const (
	nowhereV4      = "192.0.2.1:9"
	nowhereV6      = "[2001:db8::1]:9"
	nowhereVirtual = "127.127.255.254:9"
	checkHost      = "capture-check.invalid"
)

// checkTime bounds each connection.
const checkTime = 3 * time.Second

// Dial tries to connect, for a check under another uid; nil when it is connected.
func Dial(ctx context.Context, address string) error {
	dialer := net.Dialer{Timeout: checkTime}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Check makes connections as the service would, and tells where they went. address is where peers reach the sidecar;
// asUID connects as another user. The caller must be no excluded user itself.
func Check(ctx context.Context, c Config, address string, asUID func(ctx context.Context, uid int, address string) error) ([]Finding, error) {
	state, err := Show(ctx, c.Backend)
	if err != nil {
		return nil, err
	}
	if !state.Installed {
		return []Finding{{"rules", Wrong, "no rules are installed, or not all: nothing is captured"}}, nil
	}
	findings := []Finding{{"rules", Proven, fmt.Sprintf("installed by %s, %d lines", state.Backend, len(state.Rules))}}
	for _, to := range []struct{ what, address string }{
		{"calls by IPv4", nowhereV4}, {"calls by IPv6", nowhereV6}, {"calls to names of the mesh", nowhereVirtual},
	} {
		findings = append(findings, captured(ctx, to.what, to.address))
	}
	findings = append(findings, leftAlone(ctx, c, asUID), refusesPlain(ctx, net.JoinHostPort(address, strconv.Itoa(c.InboundPort))))
	return append(findings, holes(c)...), nil
}

// captured calls an address that nobody has: only the sidecar can answer, and it does so by name.
func captured(ctx context.Context, what, address string) Finding {
	dialer := net.Dialer{Timeout: checkTime}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL):
		return Finding{what, Unsure, "this machine has no route for them: none can leave"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return Finding{what, Wrong, "they are refused: is the sidecar there, started with --capture?"}
	case err != nil:
		return Finding{what, Wrong, "they are not captured: " + err.Error()}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(checkTime))
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", checkHost); err != nil {
		return Finding{what, Wrong, "they are captured by something that does not answer: " + err.Error()}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return Finding{what, Wrong, "they are captured by something that does not answer: " + err.Error()}
	}
	_ = response.Body.Close()
	if response.Header.Get("Server") != "tenantmesh" || response.StatusCode < 400 {
		return Finding{what, Wrong, fmt.Sprintf("they are captured by something else: %s of %q", response.Status, response.Header.Get("Server"))}
	}
	return Finding{what, Proven, "they reach the sidecar, which refuses what is not declared"}
}

// leftAlone: the sidecar's own calls are not sent to it again. By an address of the virtual range, a call that is left
// alone is refused by this machine, and one that is captured is not.
func leftAlone(ctx context.Context, c Config, asUID func(context.Context, int, string) error) Finding {
	const what = "the sidecar's own calls"
	switch err := asUID(ctx, c.UID, nowhereVirtual); {
	case err == nil:
		return Finding{what, Wrong, fmt.Sprintf("calls of uid %d are captured: they go in a circle", c.UID)}
	case strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()):
		return Finding{what, Proven, fmt.Sprintf("calls of uid %d are left alone", c.UID)}
	default:
		return Finding{what, Unsure, err.Error()}
	}
}

// refusesPlain: what calls without an identity of the mesh gets no answer where the rules send it.
func refusesPlain(ctx context.Context, address string) Finding {
	const what = "callers without an identity"
	dialer := net.Dialer{Timeout: checkTime}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return Finding{what, Wrong, "the sidecar's inbound listener is not there: " + err.Error()}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(checkTime))
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", checkHost)
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		_ = response.Body.Close()
		return Finding{what, Wrong, "plain HTTP to " + address + " is answered: " + response.Status}
	}
	return Finding{what, Proven, "plain HTTP to " + address + " gets no answer"}
}

// holes are what the configuration lets past, and what no rule of ours looks at.
func holes(c Config) (findings []Finding) {
	add := func(what, detail string) { findings = append(findings, Finding{what, Hole, detail}) }
	if c.DNSPort > 0 {
		add("UDP", "only questions for names are captured: QUIC and everything else passes")
	} else {
		add("UDP", "it is not captured: questions for names, QUIC and everything else passes")
	}
	add("this machine", "processes of this machine reach the service by loopback, past the sidecar")
	for _, port := range c.ExcludeInboundPorts {
		detail := "nothing listens there now"
		if listens(port) {
			detail = "whatever listens there is reached directly"
		}
		add(fmt.Sprintf("inbound port %d", port), detail)
	}
	for _, port := range c.ExcludeOutboundPorts {
		add(fmt.Sprintf("outbound port %d", port), "calls to it, at whatever address, pass")
	}
	for _, cidr := range c.ExcludeInboundCIDRs {
		add("callers of "+cidr, "they reach every port of the service directly")
	}
	for _, cidr := range c.ExcludeOutboundCIDRs {
		add("calls to "+cidr, "they pass")
	}
	for _, uid := range append([]int{c.UID}, c.ExcludeUIDs...) {
		programs := programsOf(uid)
		if uid == c.UID {
			programs = slices.DeleteFunc(programs, func(name string) bool { return name == "envoy" || strings.HasPrefix(name, "tenantmesh") })
		}
		if uid != c.UID || len(programs) > 0 {
			add(fmt.Sprintf("uid %d", uid), "its calls pass; now it runs: "+strings.Join(programs, ", "))
		}
	}
	return findings
}

// listens reports whether something listens at a TCP port of any address.
func listens(port int) bool {
	suffix := fmt.Sprintf(":%04X", port)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "0A" && strings.HasSuffix(fields[1], suffix) {
				return true
			}
		}
	}
	return false
}

// programsOf are the programs that run as a uid, each once.
func programsOf(uid int) (names []string) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		info, err := os.Stat(process)
		if err != nil {
			continue
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(owner.Uid) != uid {
			continue
		}
		if name, err := os.ReadFile(filepath.Join(process, "comm")); err == nil {
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// AsUID returns a function for [Check] that runs this program as another user: "<program> <args> <address>" must [Dial],
// and print why it could not.
func AsUID(program string, args ...string) func(context.Context, int, string) error {
	return func(ctx context.Context, uid int, address string) error {
		cmd := exec.CommandContext(ctx, program, append(slices.Clone(args), address)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("as uid %d: %w: %s", uid, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}
