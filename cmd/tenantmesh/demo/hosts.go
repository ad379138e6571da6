package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/internal/netns"
)

// Capture says whether each service has a host of its own, whose traffic is captured, or a proxy setting.
type Capture string

// What there is to say.
const (
	CaptureAuto Capture = "auto" // where this machine can
	CaptureOn   Capture = "on"
	CaptureOff  Capture = "off"
)

// Under capture every host is alike: ports are the programs' defaults.
const (
	sidecarUID  = 1337
	servicePort = 8000
)

// connect makes the network of the hosts, if services are to have some.
func (d *demo) connect() error {
	switch d.Capture {
	case CaptureOff:
		return nil
	case CaptureOn, CaptureAuto:
	default:
		return command.Fail(command.Usage, "", "--capture must be auto, on or off (got %q)", d.Capture)
	}
	network, err := netns.New()
	switch {
	case err == nil:
		d.network = network
	case d.Capture == CaptureOn:
		return command.WithHint(fmt.Errorf("--capture on: %w", err), "with --capture off services get a proxy setting instead")
	default:
		d.progress("without capture, because %v: services get a proxy setting instead", err)
	}
	return nil
}

// where is where a service runs, and its sidecar.
type where struct {
	host                             *netns.Host // nil: this machine
	address                          string      // of the sidecar
	admin, metrics, health           int
	inbound, outbound, service, user int
}

// at makes room for a service: a host, or ports of this machine.
func (d *demo) at(ctx context.Context, cell, service, sidecar string) (where, error) {
	if d.network == nil {
		ports := d.take(6)
		return where{address: "127.0.0.1", admin: ports[0], metrics: ports[1], health: ports[2], inbound: ports[3], outbound: ports[4], service: ports[5], user: os.Getuid()}, nil
	}
	host, err := d.network.Host(cell + "-" + service)
	if err != nil {
		return where{}, err
	}
	install := host.Command(ctx, 0, nil, sidecar, "capture", "install", "--uid", strconv.Itoa(sidecarUID))
	if out, err := install.CombinedOutput(); err != nil {
		return where{}, fmt.Errorf("capture on %s: %w: %s", host.Name, err, bytes.TrimSpace(out))
	}
	return where{host: host, address: host.IPv4, metrics: 15090, health: 15021, service: servicePort, user: sidecarUID}, nil
}

// flags are those of the sidecar there.
func (w where) flags() []string {
	flags := []string{"--service-port", strconv.Itoa(w.service)}
	if w.host != nil {
		return append(flags, "--address", w.address, "--capture", "--hosts-file", "/etc/hosts")
	}
	for _, port := range []struct {
		flag  string
		value int
	}{{"--admin-port", w.admin}, {"--metrics-port", w.metrics}, {"--health-port", w.health}, {"--inbound-port", w.inbound}, {"--outbound-port", w.outbound}} {
		flags = append(flags, port.flag, strconv.Itoa(port.value))
	}
	return flags
}

// put has a program started there, as a user.
func (w where) put(s *spec, uid int) {
	if w.host == nil {
		return
	}
	var capabilities []string
	if uid != 0 { // the demo's folder is root's alone
		capabilities = []string{"dac_override"}
	}
	line := w.host.Line(uid, capabilities, s.Path)
	s.Host, s.Path, s.Args = w.host, line[0], append(line[1:], s.Args...)
}

// showHosts looks at what the services were told, and calls each past its sidecar.
func (d *demo) showHosts(ctx context.Context) (string, error) {
	var services, calls int
	for _, p := range d.processes.running() {
		if p.Role != "service" {
			continue
		}
		services++
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid()))
		if err != nil {
			return "", err
		}
		for _, word := range []string{"proxy", "spiffe", "15001", "15002"} {
			if strings.Contains(strings.ToLower(string(environment)), word) {
				return "", fmt.Errorf("%s was told of %q by its environment", p.Name, word)
			}
		}
		for _, port := range []int{servicePort, 80} {
			dialer := net.Dialer{Timeout: 200 * time.Millisecond}
			conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(p.Host.IPv4, strconv.Itoa(port)))
			if err != nil {
				continue
			}
			calls++
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nx-tenant-id: acme\r\n\r\n"))
			answer := make([]byte, 64)
			n, _ := conn.Read(answer)
			if err = errors.Join(err, conn.Close()); n > 0 {
				return "", fmt.Errorf("%s answers who calls it past its sidecar: %q (%w)", p.Name, answer[:n], err)
			}
		}
	}
	if services == 0 {
		return "", errors.New("no service runs")
	}
	return fmt.Sprintf("%d services on hosts of their own, with no proxy variable; %d direct calls came to their sidecars, which want a certificate", services, calls), nil
}

// hostHints are commands to look around with.
func (d *demo) hostHints() string {
	p, err := d.processes.Find("us-1/documents")
	if d.network == nil || err != nil {
		return ""
	}
	return fmt.Sprintf("\n  ip netns exec %[1]s cat /etc/hosts                  # the host of documents in us-1\n  ip netns exec %[1]s %[2]s capture show\n", p.Host.Name, d.sidecar)
}
