package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newTop() *cobra.Command {
	var format output
	var watch bool
	var every time.Duration
	var most int
	cmd := &cobra.Command{
		Use: "top", Short: "Who uses most now", Args: command.Args(cobra.NoArgs),
		Long: "top shows the tenants that use most, by what the sidecars and gateways report that are connected to this control plane: requests and " +
			"refusals a second over the last half minute or so, how many are open at services and what the tenant's share of those is, and the limit that is " +
			"nearest to its end. The sidecars follow the heaviest 128 tenants each; a request that passes several services counts at each.",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if every < 100*time.Millisecond {
			return usageError("such as --every 2s", "--every must be at least 100ms (got %v)", every)
		}
		if most < 1 {
			return usageError("such as --most 20", "--most must be at least 1 (got %d)", most)
		}
		for first := true; ; first = false {
			if !first {
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(every):
				}
			}
			list, err := client().Top(cmd.Context())
			if err != nil {
				return err
			}
			list = list[:min(len(list), most)]
			if watch && format == outputTable {
				fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J") // ECMA-48: cursor home, erase the page
			}
			if err := format.print(cmd.OutOrStdout(), list, func(w io.Writer) { topTable(w, list) }); err != nil || !watch {
				return err
			}
		}
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often, with --watch")
	cmd.Flags().IntVar(&most, "most", 20, "how many tenants")
	addOutput(cmd, &format)
	return cmd
}

func topTable(w io.Writer, list []tenantstore.Top) {
	rows := make([][]string, len(list))
	for i, t := range list {
		share, level := "", ""
		if t.Share > 0 {
			share = strconv.FormatFloat(t.Share, 'f', 1, 64)
		}
		if t.Limit != "" {
			level = percent(t.Level) + " " + t.Limit
		}
		rows[i] = []string{t.Tenant, t.Tier, strconv.FormatFloat(t.Requests, 'f', 1, 64), strconv.FormatFloat(t.Refused, 'f', 1, 64), strconv.Itoa(t.Open), share, level}
	}
	columns(w, []string{"TENANT", "TIER", "REQUESTS/S", "REFUSED/S", "OPEN", "SHARE", "LIMIT USED"}, rows)
}

func percent(x float64) string { return strconv.FormatFloat(100*x, 'f', 0, 64) + "%" }

func newSLO() *cobra.Command {
	var format output
	var since time.Duration
	cmd := &cobra.Command{
		Use: "slo", Short: "How well tenants were kept from each other, by tier", Args: command.Args(cobra.NoArgs),
		Long: "slo counts the requests that came while their tenant was under its share of the service, and how many of those were refused for want of " +
			"capacity, or decided only after 10 ms. The objective is the tier's slo.availability. It ends with a failure when a tier misses its own.",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if since < 0 {
			return usageError("such as --since 24h", "--since must not be negative (got %v)", since)
		}
		from := time.Time{}
		if since > 0 {
			from = now().Add(-since)
		}
		list, err := client().SLO(cmd.Context(), from)
		if err != nil {
			return err
		}
		if err := format.print(cmd.OutOrStdout(), list, func(w io.Writer) { sloTable(w, list) }); err != nil {
			return err
		}
		missed := 0
		for _, s := range list {
			if !s.Met {
				missed++
			}
		}
		if missed > 0 {
			return command.Fail(command.Findings, "look at 'tenantmesh top' and at the services' limits (tenantmesh_admission_limit)", "%s missed the objective", counted(missed, "tier"))
		}
		return nil
	}
	cmd.Flags().DurationVar(&since, "since", 0, "how far to look back (default: as far as there are records)")
	addOutput(cmd, &format)
	return cmd
}

func sloTable(w io.Writer, list []tenantstore.IsolationSLO) {
	rows := make([][]string, len(list))
	for i, s := range list {
		objective, met := "", ""
		if s.Objective > 0 {
			objective, met = exactly(s.Objective), "no"
			if s.Met {
				met = "yes"
			}
		}
		rows[i] = []string{
			s.Tier, strconv.FormatInt(s.Requests, 10), strconv.FormatInt(s.Refused, 10), strconv.FormatInt(s.Late, 10), exactly(s.Good), objective, met, s.Worst,
		}
	}
	columns(w, []string{"TIER", "UNDER SHARE", "REFUSED", "LATE", "GOOD", "OBJECTIVE", "MET", "WORST"}, rows)
}

func exactly(x float64) string { return strconv.FormatFloat(100*x, 'f', 3, 64) + "%" }
