package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newCell() *cobra.Command {
	cmd := &cobra.Command{Use: "cell", Short: "Look after cells", Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var status bool
	var format output
	drain := &cobra.Command{
		Use: "drain NAME", Short: "Empty a cell: no new tenants, and those that are there go, one at a time", Args: command.Args(cobra.ExactArgs(1)),
		Long: `Empty a cell. It takes no new tenants, and the control plane moves those that are there, one at a time, each to where its
constraints and the score send it. It goes on by itself, across restarts; apply the cell with state Active to stop it.`,
	}
	client := addAdmin(drain)
	drain.ValidArgsFunction = completeNames(client, tenantstore.KindCell)
	drain.RunE = func(cmd *cobra.Command, args []string) error {
		plan, err := client().Drain(cmd.Context(), args[0], status)
		if err != nil {
			return err
		}
		stuck := 0
		rows := make([][]string, len(plan.Tenants))
		for i, m := range plan.Tenants {
			what := "waits its turn"
			if m.Moving {
				what = "moves"
			}
			if m.Stuck != "" {
				stuck++
				what = m.Stuck
			}
			rows[i] = []string{m.Tenant, string(m.State), m.To, what}
		}
		if err := format.print(cmd.OutOrStdout(), plan, func(w io.Writer) {
			if len(rows) == 0 {
				fmt.Fprintf(w, "%s is empty\n", plan.Cell)
				return
			}
			columns(w, []string{"TENANT", "STATE", "TO", ""}, rows)
		}); err != nil {
			return err
		}
		if stuck > 0 {
			return command.Fail(command.Findings, "add a cell, or change what is in the way; it goes on by itself", "%d of %d tenants cannot go", stuck, len(rows))
		}
		return nil
	}
	drain.Flags().BoolVar(&status, "status", false, "only show who is still there")
	addOutput(drain, &format)
	cmd.AddCommand(drain)
	return cmd
}
