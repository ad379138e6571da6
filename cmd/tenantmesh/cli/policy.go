package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Ask what access policies allow, for all requests at once", Args: command.Args(cobra.NoArgs),
		Long: `Ask what access policies allow: of files and folders (-f), of revisions in git, or of the live mesh. The answers
are for all requests, not for samples. What depends on a condition in CEL is marked with it: nobody looks into
conditions. An AccessGrant counts as approved, and used with its reason, until it ends. Whatever finds something
(diff, prove, test, lint, shadow report) ends with 79 then.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWhoCan(), newWhatCan(), newPolicyDiff(), newProve(), newPolicyTest(), newLint(), newPolicyShadow())
	return cmd
}

// addQuery adds the flags that narrow a question, beside those that a command has of its own.
func addQuery(cmd *cobra.Command, q *analysis.Query) {
	cmd.Flags().StringVar(&q.Workload, "workload", "", "only requests to this workload")
	cmd.Flags().StringVar(&q.Method, "method", "", "only requests of this method")
	cmd.Flags().StringVar(&q.Path, "path", "", "only requests for this path, or for what this pattern matches")
}

func newWhoCan() *cobra.Command {
	var format output
	var q analysis.Query
	var tenant string
	cmd := &cobra.Command{
		Use: "who-can --tenant NAME", Short: "List every principal that may act for a tenant, and by which rule", Args: command.Args(cobra.NoArgs),
		Example: "  tenantmesh policy who-can --tenant acme --workload documents --method GET -f mesh.yaml",
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "the tenant")
	addQuery(cmd, &q)
	source := addSource(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if q.Tenant, err = identity.ParseTenantID(tenant); err != nil {
			return usageError("such as --tenant acme", "--tenant: %w", err)
		}
		return ask(cmd, source, &q, format)
	}
	addOutput(cmd, &format)
	return cmd
}

func newWhatCan() *cobra.Command {
	var format output
	var q analysis.Query
	var principal, tenant string
	cmd := &cobra.Command{
		Use: "what-can --principal ID", Short: "List all that a principal may do, for whom, and by which rule", Args: command.Args(cobra.NoArgs),
		Example: "  tenantmesh policy what-can --principal spiffe://acmedocs.example/cell/us-1/workload/documents -f mesh.yaml",
	}
	cmd.Flags().StringVar(&principal, "principal", "", "the principal's whole SPIFFE ID")
	cmd.Flags().StringVar(&tenant, "tenant", "", "only for this tenant")
	addQuery(cmd, &q)
	source := addSource(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if q.Principal, err = identity.ParsePrincipal(principal); err != nil {
			return usageError("such as --principal spiffe://example.org/gateway/g1", "--principal: %w", err)
		}
		if q.Tenant, err = identity.ParseTenantID(tenant); err != nil && tenant != "" {
			return usageError("", "--tenant: %w", err)
		}
		return ask(cmd, source, &q, format)
	}
	addOutput(cmd, &format)
	return cmd
}

func ask(cmd *cobra.Command, source *policySource, q *analysis.Query, format output) error {
	objects, err := source.objects(cmd)
	if err != nil {
		return err
	}
	if len(keysOfKind(objects, tenantstore.KindTenant)) > 0 && !q.Tenant.IsZero() && objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: q.Tenant.String()}] == nil {
		return command.Fail(command.Failed, "leave the Tenant objects out to ask about a tenant to come", "there is no tenant %s", q.Tenant)
	}
	answer, err := analysis.Ask(tenantstore.AccessMesh(objects, now()), q)
	if err != nil {
		return command.Fail(command.BadData, "", "%w", err)
	}
	return format.print(cmd.OutOrStdout(), answer, func(w io.Writer) { answerTable(w, &answer) })
}

func answerTable(w io.Writer, answer *analysis.Answer) {
	if len(answer.Allowed) == 0 {
		fmt.Fprintln(w, "nothing is allowed")
	} else {
		classTable(w, answer.Allowed, []string{"RULE"}, func(c *analysis.Class) []string { return []string{strings.Join(c.Rules, ", ")} })
	}
	if len(answer.Cut) > 0 {
		fmt.Fprintln(w, "\nforbidden, though permitted:")
		classTable(w, answer.Cut, []string{"FORBIDDEN BY", "PERMITTED BY"}, func(c *analysis.Class) []string {
			return []string{strings.Join(c.Forbids, ", "), strings.Join(c.Rules, ", ")}
		})
	}
}

func newPolicyDiff() *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use: "diff OLD NEW", Short: "Say which requests a change of policies would allow or refuse", Args: command.Args(cobra.ExactArgs(2)),
		Long: `Say which requests NEW allows and OLD does not, and the other way round. Each is a file, a folder, REVISION:PATH of a file or
folder in git, or "live", and is taken for all the policies there are. Nothing to say means that they are equivalent: no request is
judged in another way. Ends with 79 otherwise.`,
		Example: "  tenantmesh policy diff main:policies policies\n  tenantmesh policy diff live mesh.yaml",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at := now()
		var meshes [2]*analysis.Mesh
		for i, from := range args {
			source := policySource{files: []string{from}, client: client}
			if from == "live" {
				source.files = nil
			}
			objects, err := source.objects(cmd)
			if err != nil {
				return err
			}
			meshes[i] = tenantstore.AccessMesh(objects, at)
		}
		change, err := analysis.Diff(meshes[0], meshes[1])
		if err != nil {
			return command.Fail(command.BadData, "", "%w", err)
		}
		if err := format.print(cmd.OutOrStdout(), change, func(w io.Writer) { changeTable(w, &change) }); err != nil || change.Empty() {
			return err
		}
		return command.Fail(command.Findings, "", "requests are judged in another way: %s newly allowed, %d newly refused", classesCounted(len(change.Allowed)), len(change.Refused))
	}
	addOutput(cmd, &format)
	return cmd
}

func classesCounted(n int) string {
	if n == 1 {
		return "1 class is"
	}
	return fmt.Sprintf("%d classes are", n)
}

func changeTable(w io.Writer, change *analysis.Change) {
	if change.Empty() {
		fmt.Fprintln(w, "equivalent: no request is judged in another way")
		return
	}
	for _, part := range []struct {
		title, rule, other string
		classes            []analysis.Class
		none, forbids      string
	}{
		{"newly allowed:", "BY", "BEFORE", change.Allowed, "nothing permitted it", "forbidden by "},
		{"newly refused:", "WAS PERMITTED BY", "NOW", change.Refused, "nothing permits it", "forbidden by "},
	} {
		if len(part.classes) == 0 {
			continue
		}
		fmt.Fprintln(w, part.title)
		classTable(w, part.classes, []string{part.rule, part.other}, func(c *analysis.Class) []string {
			other := part.none
			if len(c.Forbids) > 0 {
				other = part.forbids + strings.Join(c.Forbids, ", ")
			}
			return []string{strings.Join(c.Rules, ", "), other}
		})
		fmt.Fprintln(w)
	}
}

func keysOfKind(objects map[tenantstore.Key]*tenantstore.Object, kind tenantstore.Kind) (keys []tenantstore.Key) {
	for key := range objects {
		if key.Kind == kind {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b tenantstore.Key) int { return strings.Compare(a.Name, b.Name) })
	return keys
}
