package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// startShadow has the AccessPolicies that were read watched, each beside the one that is in force.
func startShadow(cmd *cobra.Command, client *adminclient.Client, documents []*tenantstore.Document, dryRun bool) (all adminapi.Applied, err error) {
	for _, d := range documents {
		if d.Object.Kind != tenantstore.KindAccessPolicy {
			return all, usageError("apply the others without it", "--shadow is for AccessPolicies (got %v)", d.Object.Key())
		}
	}
	for _, d := range documents {
		one, err := client.Rollout(cmd.Context(), d.Object, adminapi.RolloutInput{Shadow: true}, dryRun)
		if err != nil {
			return all, err
		}
		all.Revision, all.Changes = one.Revision, append(all.Changes, one.Changes...)
	}
	return all, nil
}

// shadowRemoval has it watched what would be without a policy.
func shadowRemoval(cmd *cobra.Command, client *adminclient.Client, kind tenantstore.KindInfo, name string) error {
	if kind.Kind != tenantstore.KindAccessPolicy {
		return usageError("", "--shadow is for AccessPolicies (got %v)", kind.Kind)
	}
	object, err := client.Get(cmd.Context(), kind, name)
	if err != nil {
		return err
	}
	result, err := client.Rollout(cmd.Context(), object, adminapi.RolloutInput{Shadow: true, Removes: true}, false)
	if err != nil {
		return located(err, nil)
	}
	for _, c := range result.Changes {
		fmt.Fprintf(cmd.OutOrStdout(), "%-9s %s\n", c.Action, c.Object)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "revision %d\n", result.Revision)
	return nil
}

func newPolicyShadow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "shadow", Short: "Look at what policies that are only watched would do", Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Long: `Look at what policies that are only watched would do. That are those with 'mode: Shadow', and changes:
  tenantmesh apply --shadow -f FILE            a new version of a policy, or a new one
  tenantmesh delete --shadow accesspolicy P    its removal
Nobody is refused or allowed by them. 'tenantmesh rollout promote' puts a change in force, 'tenantmesh rollout abort' drops it.`,
	}
	cmd.AddCommand(newShadowReport())
	return cmd
}

func newShadowReport() *cobra.Command {
	var format output
	var only string
	cmd := &cobra.Command{
		Use: "report", Short: "Say which requests of the live mesh they would have refused or allowed", Args: command.Args(cobra.NoArgs),
		Long: `Say which requests of the live mesh the policies that are only watched would have refused or allowed, each alone: by tenant, principal and
route, with an example to explain. A sidecar counts from its start, or that of the change, keeps the 256 most frequent, and reports within 5 s.
Ends with 79 when something would be refused.`,
		Example: "  tenantmesh policy shadow report --policy gateways",
	}
	cmd.Flags().StringVar(&only, "policy", "", "only what this policy would do")
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := client().Shadow(cmd.Context())
		if err != nil {
			return err
		}
		if only != "" {
			report = shadowOf(report, only)
			if len(report.Watched) == 0 {
				return command.Fail(command.Failed, "'tenantmesh policy shadow report' lists what is", "nothing about policy %s is only watched", only)
			}
		}
		if err := format.print(cmd.OutOrStdout(), report, func(w io.Writer) { shadowTable(w, &report) }); err != nil {
			return err
		}
		refused := int64(0)
		for _, d := range report.Differences {
			if d.Outcome == tenantstore.WouldRefuse {
				refused += d.Requests
			}
		}
		if refused > 0 {
			return command.Fail(command.Findings, "", "%s would have been refused", counted(int(refused), "request"))
		}
		return nil
	}
	addOutput(cmd, &format)
	return cmd
}

// shadowOf is the part of a report that is about one policy.
func shadowOf(report tenantstore.ShadowReport, name string) tenantstore.ShadowReport {
	part := report
	part.Watched, part.Differences = []tenantstore.WatchedPolicy{}, []tenantstore.ShadowDifference{}
	for _, w := range report.Watched {
		if w.Policy == name {
			part.Watched = append(part.Watched, w)
		}
	}
	for _, d := range report.Differences {
		if d.Policy == name {
			part.Differences = append(part.Differences, d)
		}
	}
	return part
}

func shadowTable(w io.Writer, report *tenantstore.ShadowReport) {
	if len(report.Watched) == 0 {
		fmt.Fprintln(w, "no policy is only watched")
		return
	}
	for _, watched := range report.Watched {
		fmt.Fprintf(w, "watched: %s, %s\n", watched.Policy, watched.What)
	}
	if len(report.Differences) == 0 {
		fmt.Fprintln(w, "no request would have come out in another way")
	} else {
		rows := make([][]string, len(report.Differences))
		for i, d := range report.Differences {
			rows[i] = []string{d.Policy, d.Outcome, d.Tenant, d.Principal, d.Workload, d.Method, d.Route, strconv.FormatInt(d.Requests, 10), d.Decision, d.Path}
		}
		columns(w, []string{"POLICY", "WOULD", "TENANT", "PRINCIPAL", "WORKLOAD", "METHOD", "ROUTE", "REQUESTS", "EXAMPLE", "PATH"}, rows)
	}
	if report.Since != nil {
		fmt.Fprintf(w, "by %s, the youngest of which counts since %s\n", counted(report.Members, "sidecar"), report.Since.UTC().Format(time.RFC3339))
	}
	if report.Lost > 0 {
		fmt.Fprintf(w, "%s more are in no row: there are more kinds of them than are kept\n", counted(int(report.Lost), "request"))
	}
}

// findUnused asks the live mesh which permits decided nothing.
func findUnused(cmd *cobra.Command, source *policySource, mesh *analysis.Mesh) ([]analysis.Finding, error) {
	if len(source.files) > 0 {
		return nil, usageError("leave -f out", "--unused is for the live mesh: files have no requests")
	}
	report, err := source.client().PolicyUses(cmd.Context())
	if err != nil {
		return nil, err
	}
	if report.Since == nil {
		return nil, command.Fail(command.Failed, "sidecars say it within 5 s of their first requests", "no sidecar has said yet which policies permitted something")
	}
	by := map[string][]identity.Principal{}
	for _, u := range report.Uses {
		if id, err := identity.ParsePrincipal(u.Principal); err == nil {
			by[u.Policy] = append(by[u.Policy], id)
		}
	}
	if report.Lost > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: of %s it is not known any more what permitted them\n", counted(int(report.Lost), "request"))
	}
	return analysis.FindUnused(mesh, by, *report.Since), nil
}
