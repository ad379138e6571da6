// Command bench measures what enforcement costs, always as a ratio against something named, in one run:
//
//   - decisions a CPU-second of the check, against a Go gRPC check that always allows (the floor);
//   - latency at a gateway's Envoy, against the same Envoy without a filter, and with the floor behind ext_authz;
//   - memory a tenant.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
)

func main() {
	serve := flag.String("serve", "", "be a server: floor, inbound-seen, inbound-new, gateway")
	socket := flag.String("socket", "", "path of the server's socket")
	rounds := flag.Int("rounds", 5, "rounds of each measurement")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	if *serve != "" {
		err = serveChecks(*serve, *socket)
	} else {
		err = measure(ctx, *rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, rounds int) error {
	fmt.Fprintf(os.Stdout, "%s %s, %d CPUs, %d rounds each; median, and [lowest highest]\n\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), rounds)
	if err := measureDecisions(ctx, rounds); err != nil {
		return err
	}
	if err := measureLatency(ctx, rounds); err != nil {
		return err
	}
	return measureMemory()
}

// spread is a median with its range.
func spread(values []float64, format string) string {
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf(format+" ["+format+" "+format+"]", sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1])
}
