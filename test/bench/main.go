// Command bench measures what enforcement costs, always as a ratio against something named, in one run:
//
//   - decisions a CPU-second of the check, against a Go gRPC check that always allows (the floor), and against itself with
//     fewer tenants;
//
//   - latency at a gateway's Envoy, against the same Envoy without a filter, and with the floor behind ext_authz;
//
//   - memory a tenant;
//
//   - a change of one tenant, from the command to the last ACK: flat in tenants, linear in the streams of sidecars that
//     serve the tenant. A load generator in a process of its own holds up to 1,000 streams, each over a connection of its
//     own by mutual TLS. CPU is the control plane's; 1,000 streams share the machine's CPUs with it.
//     The bytes of a whole move are those that a sidecar of either cell is sent until nothing is left of it, against a resync.
//
//   - a revocation, from the command until the last of 100 clients decides by it, against its bound of 250 ms.
//
// -only names one of them: decisions, latency, memory, push, revoke.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

func main() {
	serve := flag.String("serve", "", "be a server: floor, inbound-seen, inbound-new, gateway")
	socket := flag.String("socket", "", "path of the server's socket")
	tenants := flag.Int("tenants", 12_000, "how many tenants the server has")
	rounds := flag.Int("rounds", 5, "rounds of each measurement")
	only := flag.String("only", "", "decisions, latency, memory, push or revoke (default: all)")
	streams := flag.Int("streams", 0, "be a load generator that holds so many streams")
	clients := flag.Bool("clients", false, "let them be clients as sidecars have them, which decide by what comes")
	report := flag.Bool("report", false, "let them report how far they are with tenants that move")
	control := flag.String("control", "", "host:port of the load generator's control plane")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	switch {
	case *serve != "":
		err = serveChecks(*serve, *socket, *tenants)
	case *streams > 0 && *clients:
		err = holdClients(ctx, *control, *streams)
	case *streams > 0:
		err = holdStreams(ctx, *control, *streams, *report)
	default:
		err = measure(ctx, *rounds, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// measurements are all there are, in their order.
var measurements = []struct {
	name string
	run  func(ctx context.Context, rounds int) error
}{
	{"decisions", measureDecisions}, {"latency", measureLatency}, {"memory", func(context.Context, int) error { return measureMemory() }}, {"push", measurePush}, {"revoke", measureRevoke},
}

func measure(ctx context.Context, rounds int, only string) error {
	fmt.Fprintf(os.Stdout, "%s %s, %d CPUs, %d rounds each; median, and [lowest highest]\n\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), rounds)
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Setenv("BENCH_KEY", filepath.Join(dir, "key.json")); err != nil {
		return err
	}
	if _, err := key(); err != nil { // before two servers make it at once
		return err
	}
	found := false
	for _, m := range measurements {
		if only != "" && m.name != only {
			continue
		}
		found = true
		if err := m.run(ctx, rounds); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		fmt.Fprintln(os.Stdout)
	}
	if !found {
		return fmt.Errorf("-only must be decisions, latency, memory, push or revoke (got %q)", only)
	}
	return nil
}

// spread is a median with its range.
func spread(values []float64, format string) string {
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf(format+" ["+format+" "+format+"]", sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1])
}
