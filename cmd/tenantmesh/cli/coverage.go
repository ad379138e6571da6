package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newCoverage() *cobra.Command {
	var format output
	var routes bool
	var most int
	var least float64
	cmd := &cobra.Command{
		Use: "coverage [WORKLOAD]", Short: "How much of the traffic has a proven tenant, and how it was proven", Args: command.Args(cobra.MaximumNArgs(1)),
		Long: `coverage says of the calls of each workload, and of those to it, how their tenant was proven: by a signed context that came with the call, by
a traceparent or x-request-id of a request that the service serves, by the tenant that the workload is bound to; or not at all. Calls
without a proof are refused where the target's tenancy is require, and let go where it is observe or untenanted. The most frequent of them
are listed, with an example to explain. Each sidecar counts since it began, keeps the 256 most frequent sorts of calls, and reports within 10 s.`,
		Example: `  tenantmesh coverage
  tenantmesh coverage documents --routes
  tenantmesh coverage documents --at-least 99.5   # ends with 79 below that: before 'tenancy: require'`,
	}
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = completeNames(client, tenantstore.KindWorkload)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if most < 0 {
			return usageError("such as --most 10", "--most must be at least 0 (got %d)", most)
		}
		if !(least >= 0 && least <= 100) {
			return usageError("such as --at-least 99.5", "--at-least must be a percentage, 0 to 100 (got %v)", least)
		}
		report, err := covered(cmd, client, args)
		if err != nil {
			return err
		}
		if err := format.print(cmd.OutOrStdout(), report, func(w io.Writer) { coverageTable(w, &report, routes, most) }); err != nil {
			return err
		}
		var below []string
		for _, w := range report.Workloads {
			if 100*w.Proven < least {
				below = append(below, fmt.Sprintf("%s of the calls %s are proven", share(w.Proven), whose(w.Inbound, w.Workload)))
			}
		}
		if len(below) > 0 {
			return command.Fail(command.Findings, "explain the examples: 'tenantmesh explain ID'", "less than %v%%: %s", least, strings.Join(below, "; "))
		}
		return nil
	}
	cmd.Flags().BoolVar(&routes, "routes", false, "by route, too")
	cmd.Flags().IntVar(&most, "most", 10, "how many sorts of calls without a proof are listed")
	cmd.Flags().Float64Var(&least, "at-least", 0, "percentage of proven calls below which a workload is a finding")
	addOutput(cmd, &format)
	return cmd
}

// covered is the coverage of all workloads, or of the one that args names.
func covered(cmd *cobra.Command, client func() *adminclient.Client, args []string) (tenantstore.Coverage, error) {
	report, err := client().Coverage(cmd.Context())
	if err != nil || len(args) == 0 {
		return report, err
	}
	kind, err := tenantstore.ParseKind(string(tenantstore.KindWorkload))
	if err != nil {
		return report, err
	}
	if _, err := client().Get(cmd.Context(), kind, args[0]); err != nil { // a name that there is not has no calls either
		return report, err
	}
	report.Workloads = slices.DeleteFunc(report.Workloads, func(w tenantstore.WorkloadCoverage) bool { return w.Workload != args[0] })
	report.Calls = slices.DeleteFunc(report.Calls, func(c tenantstore.CoveredCalls) bool { return c.Workload != args[0] })
	return report, nil
}

func coverageTable(w io.Writer, report *tenantstore.Coverage, routes bool, most int) {
	if len(report.Workloads) == 0 {
		fmt.Fprintln(w, "no call was counted yet")
		return
	}
	rows := make([][]string, len(report.Workloads))
	for i, of := range report.Workloads {
		rows[i] = []string{of.Workload, direction(of.Inbound), strconv.FormatInt(of.Requests, 10), share(of.Proven), by(&of), strconv.FormatInt(of.Refused, 10)}
	}
	columns(w, []string{"WORKLOAD", "CALLS", "REQUESTS", "PROVEN", "BY", "REFUSED"}, rows)
	if routes {
		fmt.Fprintln(w)
		rows = rows[:0]
		for _, c := range report.Calls {
			rows = append(rows, []string{c.Workload, direction(c.Inbound), peerName(c.Peer), c.Method, c.Route, c.Proof, strconv.FormatInt(c.Requests, 10)})
		}
		columns(w, []string{"WORKLOAD", "CALLS", "WITH", "METHOD", "ROUTE", "PROOF", "REQUESTS"}, rows)
	}
	rows = rows[:0]
	for _, c := range report.Calls {
		if c.Proof == tenantstore.NoProof && len(rows) < most {
			rows = append(rows, []string{c.Workload, direction(c.Inbound), peerName(c.Peer), c.Method, c.Path, strconv.FormatInt(c.Requests, 10), outcome(c.Refused), c.Decision})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\nwithout a proof, the most frequent first:")
		columns(w, []string{"WORKLOAD", "CALLS", "WITH", "METHOD", "PATH", "REQUESTS", "WERE", "EXPLAIN"}, rows)
	}
	if report.Since != nil {
		fmt.Fprintf(w, "by %s, the youngest of which counts since %s\n", counted(report.Members, "sidecar"), report.Since.UTC().Format(time.RFC3339))
	}
	if report.Lost > 0 {
		fmt.Fprintf(w, "%s more are in no row: there are more sorts of them than are kept\n", counted(int(report.Lost), "call"))
	}
}

func direction(inbound bool) string {
	if inbound {
		return "to it"
	}
	return "of it"
}

func whose(inbound bool, workload string) string {
	if inbound {
		return "to " + workload
	}
	return "of " + workload
}

func outcome(refused bool) string {
	if refused {
		return "refused"
	}
	return "let go"
}

// peerName is a caller's or a target's name without what all of them have.
func peerName(peer string) string {
	_, name, ok := strings.Cut(peer, "spiffe://")
	if !ok {
		return peer
	}
	_, path, _ := strings.Cut(name, "/")
	return path
}

// by is how calls were proven, the most frequent first.
func by(w *tenantstore.WorkloadCoverage) string {
	proofs := slices.SortedFunc(maps.Keys(w.Proofs), func(a, b string) int {
		if w.Proofs[a] != w.Proofs[b] {
			return int(w.Proofs[b] - w.Proofs[a])
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, p := range proofs {
		if p != tenantstore.NoProof {
			parts = append(parts, p+" "+share(float64(w.Proofs[p])/float64(w.Requests)))
		}
	}
	return strings.Join(parts, ", ")
}

// share is a percentage that says 100 for all, and 0 for none, alone.
func share(x float64) string {
	switch text := strconv.FormatFloat(100*x, 'f', 1, 64); {
	case x >= 1:
		return "100%"
	case x <= 0:
		return "0%"
	case text == "100.0":
		return "99.9%"
	case text == "0.0":
		return "0.1%"
	default:
		return text + "%"
	}
}
