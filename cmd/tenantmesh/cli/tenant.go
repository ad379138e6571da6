package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newTenant() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant", Short: "Place and move tenants", Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newPlace(), newMove(), newAdvise())
	return cmd
}

// completeNames completes the names of objects of a kind, from the control plane.
func completeNames(client func() *adminclient.Client, kind tenantstore.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		info, err := tenantstore.ParseKind(string(kind))
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := client().List(cmd.Context(), info)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names := make([]string, len(list.Items))
		for i, o := range list.Items {
			names[i] = o.Metadata.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func newPlace() *cobra.Command {
	var dryRun bool
	var format output
	cmd := &cobra.Command{
		Use: "place NAME", Short: "Show how every cell would do for a tenant, and place one that has no cell", Args: command.Args(cobra.ExactArgs(1)),
	}
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = completeNames(client, tenantstore.KindTenant)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		found, err := client().Candidates(cmd.Context(), args[0], !dryRun)
		if err != nil {
			return err
		}
		if err := format.print(cmd.OutOrStdout(), found, func(w io.Writer) {
			rows := make([][]string, len(found.Candidates))
			for i, c := range found.Candidates {
				rows[i] = []string{c.Cell, fmt.Sprintf("%.3f", c.Score), either(c.Rejected, "eligible")}
			}
			columns(w, []string{"CELL", "SCORE", "VERDICT"}, rows)
			switch p := found.Placement; {
			case p != nil:
				fmt.Fprintf(w, "\n%s is in %s, %s, since epoch %d\n", found.Tenant, p.Cell, p.State, p.Epoch)
			case len(found.Candidates) > 0 && found.Candidates[0].Rejected == "":
				fmt.Fprintf(w, "\n%s would be placed in %s\n", found.Tenant, found.Candidates[0].Cell)
			default:
				fmt.Fprintf(w, "\n%s has no cell\n", found.Tenant)
			}
		}); err != nil {
			return err
		}
		if found.Placement == nil && (len(found.Candidates) == 0 || found.Candidates[0].Rejected != "") {
			return command.Fail(command.Findings, "add a cell, or change what the table says is in the way", "no cell is eligible for tenant %s", found.Tenant)
		}
		return nil
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show the table")
	addOutput(cmd, &format)
	return cmd
}

func newAdvise() *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use: "advise", Short: "Suggest tiers and flags, by what tenants used in the last hour", Args: command.Args(cobra.NoArgs),
		Long: `Suggest tiers, by the TierPromotions, and the flag spiky, by what tenants used in the last hour. Nothing is changed: what is
good is applied by an operator.`,
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := client().Advice(cmd.Context())
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), list, func(w io.Writer) {
			if len(list) == 0 {
				fmt.Fprintln(w, "nothing to suggest")
				return
			}
			rows := make([][]string, len(list))
			for i, a := range list {
				rows[i] = []string{a.Tenant, a.Do, a.Why}
			}
			columns(w, []string{"TENANT", "DO", "WHY"}, rows)
		})
	}
	addOutput(cmd, &format)
	return cmd
}
