package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func newProve() *cobra.Command {
	var format output
	var v analysis.Invariant
	cmd := &cobra.Command{
		Use: "prove", Short: "Prove that something holds for every request, or show one for which it does not", Args: command.Args(cobra.NoArgs),
		Long: `Prove the AccessInvariants that are among the objects, or the one that flags say:
  --no-cross-tenant  who belongs to a tenant (a Workload with a boundTenant, by its SPIFFE IDs) acts for no other, but by an
                     AccessGrant of its own; and who else holds a grant acts for the tenants of its grants alone
  --only-from        what the other flags select is allowed to principals of these patterns alone
A condition in CEL that may break one is a finding, too. Ends with 79 on findings.`,
		Example: "  tenantmesh policy prove --no-cross-tenant -f mesh.yaml\n  tenantmesh policy prove --only-from 'spiffe://acmedocs.example/gateway/*' --workload documents -f mesh.yaml",
	}
	flags := cmd.Flags()
	flags.BoolVar(&v.NoCrossTenant, "no-cross-tenant", false, "nobody who belongs to a tenant acts for another one")
	flags.StringSliceVar(&v.OnlyFrom, "only-from", nil, "SPIFFE pattern of who alone may; may be given again")
	flags.StringVar(&v.Workload, "workload", "", "with --only-from: to this workload")
	flags.StringVar(&v.Tenant, "tenant", "", "with --only-from: for this tenant")
	flags.StringSliceVar(&v.Methods, "method", nil, "with --only-from: by this method; may be given again")
	flags.StringSliceVar(&v.Paths, "path", nil, "with --only-from: at this path or pattern; may be given again")
	source := addSource(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		objects, err := source.objects(cmd)
		if err != nil {
			return err
		}
		invariants := []analysis.Invariant{v}
		if !v.NoCrossTenant && len(v.OnlyFrom) == 0 {
			invariants = nil
			for _, key := range keysOfKind(objects, tenantstore.KindAccessInvariant) {
				invariants = append(invariants, analysis.Invariant{Name: key.Name, AccessInvariantSpec: *objects[key].AccessInvariant})
			}
			if len(invariants) == 0 {
				return usageError("say --no-cross-tenant or --only-from, or keep AccessInvariants beside the policies", "there is nothing to prove")
			}
		}
		mesh, proofs, open := tenantstore.AccessMesh(objects, now()), []analysis.Proof{}, 0
		for i := range invariants {
			proof, err := analysis.Prove(mesh, &invariants[i])
			if err != nil {
				return command.Fail(command.BadData, "", "%w", err)
			}
			if proof.Outcome != analysis.Holds {
				open++
			}
			proofs = append(proofs, proof)
		}
		if err := format.print(cmd.OutOrStdout(), proofs, func(w io.Writer) {
			for i := range proofs {
				proofText(w, &proofs[i])
			}
		}); err != nil || open == 0 {
			return err
		}
		return command.Fail(command.Findings, "", "%d of %s not proven", open, counted(len(proofs), "invariant"))
	}
	addOutput(cmd, &format)
	return cmd
}

func proofText(w io.Writer, p *analysis.Proof) {
	fmt.Fprintf(w, "%-12s %s\n", p.Outcome, p.Invariant)
	if p.Nobody {
		fmt.Fprintf(w, "%-12s %s\n", "  because", "nobody belongs to a tenant: no Workload has a boundTenant, and nobody holds a grant")
	}
	if len(p.Grants) > 0 {
		fmt.Fprintf(w, "%-12s %s\n", "  but for", strings.Join(p.Grants, ", "))
	}
	if p.Request != nil {
		fmt.Fprintf(w, "%-12s %s\n%-12s %s\n", "  allowed", p.Request, "  by", p.Rule)
		for _, r := range p.Results {
			fmt.Fprintf(w, "%-12s %s\n", "  policy", ruleText(&r))
		}
	}
	if len(p.Classes) > 0 {
		fmt.Fprintln(w, "  all of it:")
		classTable(w, p.Classes, []string{"RULE"}, func(c *analysis.Class) []string { return []string{strings.Join(c.Rules, ", ")} })
	}
}

// cases is a file for policy test.
type cases struct {
	Cases []analysis.Case `json:"cases"`
}

func newPolicyTest() *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use: "test FILE", Short: "Judge the requests of a file, and compare", Args: command.Args(cobra.ExactArgs(1)),
		Long: `Judge the requests of a file, and compare with what it wants:

  cases:
  - name: documents reads from search
    request: {principal: spiffe://acmedocs.example/cell/us-1/workload/documents, tenant: acme, workload: search, method: GET, path: /search/x}
    want: {decision: allow, rule: documents-search}

A decision is allow or refuse; rule (that decides) and reason (of a refusal) may be left out. A tenant whose
object is there is as that says; of another one the request may say tier and labels. A request without a time
is of now. Ends with 79 when one comes out in another way.`,
		Example: "  tenantmesh policy test cases.yaml -f mesh.yaml",
	}
	source := addSource(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return command.Fail(command.BadData, "", "%w", err)
		}
		var file cases
		if err := yaml.UnmarshalStrict(text, &file); err != nil {
			return command.Fail(command.BadData, "see 'tenantmesh policy test --help'", "%s: %w", args[0], err)
		}
		objects, err := source.objects(cmd)
		if err != nil {
			return err
		}
		failures, err := analysis.Try(tenantstore.AccessMesh(objects, now()), file.Cases)
		if err != nil {
			return command.Fail(command.BadData, "", "%s: %w", args[0], err)
		}
		if err := format.print(cmd.OutOrStdout(), failures, func(w io.Writer) { failureTable(w, len(file.Cases), failures) }); err != nil || len(failures) == 0 {
			return err
		}
		return command.Fail(command.Findings, "", "%d of %s came out in another way", len(failures), counted(len(file.Cases), "case"))
	}
	addOutput(cmd, &format)
	return cmd
}

func failureTable(w io.Writer, n int, failures []analysis.Failure) {
	if len(failures) == 0 {
		fmt.Fprintf(w, "%s: all as they should be\n", counted(n, "case"))
		return
	}
	rows := make([][]string, len(failures))
	for i, f := range failures {
		rows[i] = []string{f.Case.Name, wantText(&f.Case.Want), wantText(&f.Got), f.Case.Request.String()}
	}
	columns(w, []string{"CASE", "WANT", "GOT", "REQUEST"}, rows)
	for _, f := range failures {
		fmt.Fprintf(w, "\n%s:\n", f.Case.Name)
		for _, r := range f.Why {
			fmt.Fprintln(w, "  "+ruleText(&r))
		}
	}
}

func wantText(want *analysis.Want) string {
	text := string(want.Decision)
	if want.Rule != "" {
		text += " by " + want.Rule
	}
	if want.Reason != policy.Permitted {
		text += " " + bracket(want.Reason.String())
	}
	return text
}

func newLint() *cobra.Command {
	var format output
	var within string
	var unused bool
	cmd := &cobra.Command{
		Use: "lint", Short: "Find rules that change nothing, match nothing, permit too much, or soon end", Args: command.Args(cobra.NoArgs),
		Long: `Find rules that are shadowed by others, that name what there is none of (of tenants and workloads only where
there are such objects), permits of calls that no Workload has registered (dependsOn, expose), and grants that
end. With --unused, and only in the live mesh, also permits that decided no request, or none of a principal that
they name, since the sidecars began to count. Each rule is looked at alone: of two that say the same, delete
one. Ends with 79 on findings.`,
		Example: "  tenantmesh policy lint -f mesh.yaml --within 30d\n  tenantmesh policy lint --unused",
	}
	source := addSource(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		soon, err := parseDays(within)
		if err != nil {
			return err
		}
		objects, err := source.objects(cmd)
		if err != nil {
			return err
		}
		mesh := tenantstore.AccessMesh(objects, now())
		findings, err := analysis.Lint(mesh, soon)
		if err != nil {
			return command.Fail(command.BadData, "", "%w", err)
		}
		if unused {
			more, err := findUnused(cmd, source, mesh)
			if err != nil {
				return err
			}
			findings = append(findings, more...)
		}
		if err := format.print(cmd.OutOrStdout(), findings, func(w io.Writer) {
			if len(findings) == 0 {
				fmt.Fprintln(w, "nothing to say")
				return
			}
			rows := make([][]string, len(findings))
			for i, f := range findings {
				rows[i] = []string{f.Rule, string(f.Check), f.Text}
			}
			columns(w, []string{"RULE", "FINDING", "WHAT"}, rows)
		}); err != nil || len(findings) == 0 {
			return err
		}
		return command.Fail(command.Findings, "", "%s", counted(len(findings), "finding"))
	}
	cmd.Flags().BoolVar(&unused, "unused", false, "of the live mesh: also what no request was permitted by")
	cmd.Flags().StringVar(&within, "within", "7d", "how soon a grant must end to be a finding: days (7d), or as 36h")
	addOutput(cmd, &format)
	return cmd
}

// parseDays reads a duration that may be in days.
func parseDays(s string) (time.Duration, error) {
	text, days := s, time.Duration(1)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		text, days = n+"h", 24
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, usageError("such as --within 7d", "--within must be a duration (got %q)", s)
	}
	return days * d, nil
}
