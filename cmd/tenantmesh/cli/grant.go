package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newGrant() *cobra.Command {
	cmd := &cobra.Command{
		Use: "grant", Short: "Ask for, approve and list time-limited rights over tenants", Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Long: `Ask for, approve and list time-limited rights over tenants; 'tenantmesh revoke grant' ends one.

A grant grants nothing until another person than the one who asked has approved it, and ends by itself. It is used with the
request header x-tenantmesh-grant-reason, and each use is an audit event. With --break-glass it is in force at once, for
4 hours at most, and loudly: it is shown by status, in the metrics and in the tenant's audit report.`,
	}
	cmd.AddCommand(newGrantAsk(), newGrantApprove(), newGrantList())
	return cmd
}

func newGrantAsk() *cobra.Command {
	var format output
	spec := &policy.AccessGrantSpec{}
	var workloads, methods, paths []string
	var lasts time.Duration
	cmd := &cobra.Command{
		Use: "ask NAME", Short: "Ask for a grant", Args: command.Args(cobra.ExactArgs(1)),
		Example: `  tenantmesh grant ask ticket-7 --principal spiffe://example.org/cell/us-1/workload/support \
    --tenant acme --workload documents --method GET --reason "ticket 7" --for 2h`,
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if lasts <= 0 {
			return usageError("such as --for 2h", "--for must be more than 0 (got %v)", lasts)
		}
		spec.NotAfter = time.Now().Add(lasts).UTC().Truncate(time.Second)
		for _, workload := range workloads {
			spec.Targets = append(spec.Targets, policy.Target{Workload: workload, Methods: methods, Paths: paths})
		}
		grant := &tenantstore.Object{APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindAccessGrant, Metadata: tenantstore.Metadata{Name: args[0]}, AccessGrant: spec}
		c := client()
		if _, err := c.Apply(cmd.Context(), []*tenantstore.Object{grant}, false); err != nil {
			return err
		}
		return printGrant(cmd, c, &format, args[0])
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Principal, "principal", "", "SPIFFE ID of who is to act")
	flags.StringSliceVar(&spec.Tenants.Names, "tenant", nil, "for this tenant; may be given again")
	flags.StringSliceVar(&workloads, "workload", nil, "at this workload; may be given again")
	flags.StringSliceVar(&methods, "method", nil, "with this method; default: all")
	flags.StringSliceVar(&paths, "path", nil, "at this path; default: all")
	flags.StringVar(&spec.Reason, "reason", "", "why, for the audit")
	flags.StringVar(&spec.Approver, "approver", "", "who is to approve: a SPIFFE ID, or uid:<n>; default: whoever may, but not who asks")
	flags.DurationVar(&lasts, "for", time.Hour, "how long it lasts, from now on")
	flags.BoolVar(&spec.BreakGlass, "break-glass", false, "in force at once and loudly, for 4h at most")
	addOutput(cmd, &format)
	return cmd
}

func newGrantApprove() *cobra.Command {
	var format output
	var revision int64
	cmd := &cobra.Command{
		Use: "approve NAME", Short: "Approve a grant that another has asked for", Args: command.Args(cobra.ExactArgs(1)),
		Long:    "approve puts a grant in force as it is now, or as it is at --revision. Who changes what it grants takes the approval away.",
		Example: "  tenantmesh grant approve ticket-7 --admin https://control.example.org:15011",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := client()
		if _, err := c.ApproveGrant(cmd.Context(), args[0], revision); err != nil {
			return err
		}
		return printGrant(cmd, c, &format, args[0])
	}
	cmd.Flags().Int64Var(&revision, "revision", 0, "of the grant that was looked at; 0: whatever it is")
	addOutput(cmd, &format)
	return cmd
}

func newGrantList() *cobra.Command {
	var format output
	cmd := &cobra.Command{Use: "list", Short: "Every grant: who asked, who approved, and until when", Args: command.Args(cobra.NoArgs)}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := grants(cmd, client())
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), list, func(w io.Writer) { grantTable(w, list) })
	}
	addOutput(cmd, &format)
	return cmd
}

// grantState is a grant as it is shown.
type grantState struct {
	Name      string    `json:"name"`
	State     string    `json:"state"` // asked, approved, breakGlass, ended
	Principal string    `json:"principal"`
	Tenants   []string  `json:"tenants"`
	Requester string    `json:"requester,omitempty"`
	Approver  string    `json:"approver,omitempty"`
	Reason    string    `json:"reason"`
	NotAfter  time.Time `json:"notAfter"`
	Revision  int64     `json:"revision"`
}

func stateOf(o *tenantstore.Object, now time.Time) grantState {
	g := o.AccessGrant
	s := grantState{Name: o.Metadata.Name, State: "asked", Principal: g.Principal, Tenants: g.Tenants.Names, Reason: g.Reason, NotAfter: g.NotAfter, Revision: o.Metadata.Revision}
	if state := o.Status.Grant; state != nil {
		s.Requester, s.Approver = state.Requester, state.Approver
	}
	switch {
	case !now.Before(g.NotAfter):
		s.State = "ended"
	case tenantstore.BreakGlass(o, now):
		s.State = "breakGlass"
	case tenantstore.GrantInForce(o):
		s.State = "approved"
	}
	return s
}

func grants(cmd *cobra.Command, client *adminclient.Client) ([]grantState, error) {
	info, err := tenantstore.ParseKind(string(tenantstore.KindAccessGrant))
	if err != nil {
		return nil, err
	}
	found, err := client.List(cmd.Context(), info)
	list := []grantState{}
	for _, o := range found.Items {
		list = append(list, stateOf(o, time.Now()))
	}
	return list, err
}

func printGrant(cmd *cobra.Command, client *adminclient.Client, format *output, name string) error {
	list, err := grants(cmd, client)
	if err != nil {
		return err
	}
	for _, g := range list {
		if g.Name == name {
			return format.print(cmd.OutOrStdout(), g, func(w io.Writer) { grantTable(w, []grantState{g}) })
		}
	}
	return nil
}

func grantTable(w io.Writer, list []grantState) {
	rows := make([][]string, len(list))
	for i, g := range list {
		tenants := strings.Join(g.Tenants, ",")
		if tenants == "" {
			tenants = "(by tier or label)"
		}
		rows[i] = []string{g.Name, g.State, g.Principal, tenants, g.Requester, g.Approver, g.NotAfter.UTC().Format(time.RFC3339), g.Reason}
	}
	columns(w, []string{"GRANT", "STATE", "PRINCIPAL", "TENANTS", "ASKED BY", "APPROVED BY", "UNTIL", "REASON"}, rows)
}

// breakGlass warns of the grants in force that nobody else has approved.
func breakGlass(w io.Writer, list []grantState) {
	for _, g := range list {
		if g.State == "breakGlass" {
			fmt.Fprintf(w, "BREAK GLASS: grant %s of %s over %s, asked for by %s, until %s: %s\n", g.Name, g.Principal, strings.Join(g.Tenants, ","), g.Requester, g.NotAfter.UTC().Format(time.RFC3339), g.Reason)
		}
	}
}
