package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Config says what is captured, and what is not. Its JSON form is that of the YAML configuration file.
type Config struct {
	UID          int `json:"uid,omitempty"`          // of the sidecar and its Envoy, whose connections are left alone; never 0
	InboundPort  int `json:"inboundPort,omitempty"`  // where what arrives is sent; default 15006
	CapturedPort int `json:"capturedPort,omitempty"` // where what leaves is sent; default 15002
	MetricsPort  int `json:"metricsPort,omitempty"`  // left alone; default 15090
	HealthPort   int `json:"healthPort,omitempty"`   // left alone; default 15021
	DNSPort      int `json:"dnsPort,omitempty"`      // where questions for names (UDP, port 53) are sent; 0: they are left alone

	// What is left alone. Every one of them is a hole, and Check lists it.
	ExcludeInboundPorts  []int    `json:"excludeInboundPorts,omitempty"`
	ExcludeOutboundPorts []int    `json:"excludeOutboundPorts,omitempty"`
	ExcludeInboundCIDRs  []string `json:"excludeInboundCIDRs,omitempty"`  // of those who call
	ExcludeOutboundCIDRs []string `json:"excludeOutboundCIDRs,omitempty"` // of those who are called
	ExcludeUIDs          []int    `json:"excludeUIDs,omitempty"`          // of processes that are no service of the mesh

	Backend Backend `json:"backend,omitempty"` // default: nftables where nft is found, else iptables
}

// Backend is how the kernel is told.
type Backend string

// The backends.
const (
	NFTables Backend = "nftables"
	IPTables Backend = "iptables"
)

// Defaults fills in what is not said.
func (c *Config) Defaults() {
	for _, port := range []struct {
		field *int
		value int
	}{
		{&c.InboundPort, meshname.PortInbound}, {&c.CapturedPort, meshname.PortCaptured}, {&c.MetricsPort, meshname.PortMetrics}, {&c.HealthPort, meshname.PortHealth},
	} {
		if *port.field == 0 {
			*port.field = port.value
		}
	}
}

// Check returns every problem of the configuration.
func (c *Config) Check() error {
	var problems []error
	if c.UID <= 0 {
		problems = append(problems, fmt.Errorf("uid must be that of the sidecar's own user, over 0: whatever runs as it is not captured (got %d)", c.UID))
	}
	for name, ports := range map[string][]int{
		"inbound-port": {c.InboundPort}, "captured-port": {c.CapturedPort}, "metrics-port": {c.MetricsPort}, "health-port": {c.HealthPort},
		"exclude-inbound-ports": c.ExcludeInboundPorts, "exclude-outbound-ports": c.ExcludeOutboundPorts,
	} {
		for _, port := range ports {
			if port < 1 || port > 65535 {
				problems = append(problems, fmt.Errorf("%s must be 1 to 65535 (got %d)", name, port))
			}
		}
	}
	if c.DNSPort < 0 || c.DNSPort > 65535 {
		problems = append(problems, fmt.Errorf("dns-port must be 0 to 65535 (got %d)", c.DNSPort))
	}
	for name, cidrs := range map[string][]string{"exclude-inbound-cidrs": c.ExcludeInboundCIDRs, "exclude-outbound-cidrs": c.ExcludeOutboundCIDRs} {
		for _, cidr := range cidrs {
			prefix, err := netip.ParsePrefix(cidr)
			switch {
			case err != nil:
				problems = append(problems, fmt.Errorf("%s must be like 10.0.0.0/8 or fd00::/8 (got %q)", name, cidr))
			case prefix != prefix.Masked():
				problems = append(problems, fmt.Errorf("%s must have no bits after its length: write %s (got %q)", name, prefix.Masked(), cidr))
			case prefix.Bits() == 0:
				problems = append(problems, fmt.Errorf("%s must not be everything (got %q)", name, cidr))
			}
		}
	}
	for _, uid := range c.ExcludeUIDs {
		if uid < 0 {
			problems = append(problems, fmt.Errorf("exclude-uids must be at least 0 (got %d)", uid))
		}
	}
	if c.Backend != "" && c.Backend != NFTables && c.Backend != IPTables {
		problems = append(problems, fmt.Errorf("backend must be %s or %s (got %q)", NFTables, IPTables, c.Backend))
	}
	slices.SortFunc(problems, func(a, b error) int { return compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}
