package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// which are the flags that say which trail.
type which struct {
	tenant, uid string
	since       pastTime
}

func (w *which) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.tenant, "tenant", "", "tenant, or - for what is about none")
	cmd.Flags().StringVar(&w.uid, "uid", "", "of an incarnation of the tenant that is gone")
	cmd.Flags().Var(&w.since, "since", "a time as RFC 3339 has it, or how long ago, such as 24h; default: from the beginning")
}

func (w *which) check() error {
	if w.tenant == "" && w.uid == "" {
		return usageError("such as --tenant acme", "--tenant must be set")
	}
	return nil
}

// pastTime is a time, or how long ago.
type pastTime struct{ time.Time }

// String implements pflag.Value.
func (m *pastTime) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}

// Set implements pflag.Value.
func (m *pastTime) Set(text string) error {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		m.Time = time.Now().Add(-ago)
		return nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("must be a time, such as 2026-01-02T15:04:05Z, or how long ago, such as 24h")
	}
	m.Time = at
	return nil
}

// Type implements pflag.Value.
func (m *pastTime) Type() string { return "time" }

func newAuditExport() *cobra.Command {
	var w which
	cmd := &cobra.Command{
		Use: "export --tenant TENANT", Short: "Write one tenant's own audit trail with its proof, as JSON lines", Args: command.Args(cobra.NoArgs),
		Example: "  tenantmesh audit export --tenant acme --since 24h > acme.jsonl",
		Long:    "export holds nothing of another tenant. Whoever has it can verify it offline: tenantmesh audit verify FILE.",
	}
	client := addAdmin(cmd)
	w.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := w.check(); err != nil {
			return err
		}
		return client().Trail(cmd.Context(), w.tenant, w.uid, w.since.Time, cmd.OutOrStdout())
	}
	return cmd
}

// verified is what verify says.
type verified struct {
	Tenant         string   `json:"tenant"`
	Events         int      `json:"events"`
	Administrative int      `json:"administrative"`
	Problems       []string `json:"problems"`
	Notes          []string `json:"notes"`
}

func newAuditVerify() *cobra.Command {
	var format output
	var bundle string
	cmd := &cobra.Command{
		Use: "verify [FILE...]", Short: "Find what was changed, dropped, moved or put in, in audit trails",
		Example: "  tenantmesh audit verify\n  tenantmesh audit verify acme.jsonl --bundle bundle.pem",
		Long: "verify looks at exported files, of one tenant, such as of several control planes; without any, at all that the control plane\n" +
			"keeps, and at the chain of administrative events. It exits with 79 when something is not as it was recorded.",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		roots, err := readRoots(bundle)
		if err != nil {
			return err
		}
		var list []verified
		if len(files) > 0 {
			readers := make([]io.Reader, len(files))
			for i, path := range files {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				readers[i] = bytes.NewReader(text)
			}
			found, err := trail.Read(roots, readers...)
			if err != nil {
				return err
			}
			list = append(list, asVerified(found))
		} else if list, err = verifyAll(cmd.Context(), client(), roots); err != nil {
			return err
		}
		if err := format.print(cmd.OutOrStdout(), list, func(w io.Writer) { verifiedTable(w, list) }); err != nil {
			return err
		}
		for _, v := range list {
			if len(v.Problems) > 0 {
				return command.Fail(command.Findings, "compare with a copy, such as of a sink", "the evidence is not as it was recorded")
			}
		}
		return nil
	}
	cmd.Flags().StringVar(&bundle, "bundle", "", "file of the mesh's trust bundle, PEM; default: the export's own, whose fingerprint is shown")
	addOutput(cmd, &format)
	return cmd
}

func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, usageError("a PEM file of certificates", "--bundle must hold certificates (got none in %s)", path)
	}
	return roots, nil
}

func asVerified(t *trail.Trail) verified {
	v := verified{Tenant: t.Export.Tenant, Events: len(t.Events), Administrative: len(t.Administrative), Problems: []string{}, Notes: append([]string{}, t.Notes...)}
	if v.Tenant == "" {
		v.Tenant = t.Export.TenantUID
	}
	if v.Tenant == "" {
		v.Tenant = adminapi.NoTenant
	}
	for _, problem := range t.Problems {
		v.Problems = append(v.Problems, problem.Error())
	}
	return v
}

func verifiedTable(w io.Writer, list []verified) {
	rows := make([][]string, len(list))
	for i, v := range list {
		verdict := "as it was recorded"
		if len(v.Problems) > 0 {
			verdict = strconv.Itoa(len(v.Problems)) + " problems"
		}
		rows[i] = []string{v.Tenant, strconv.Itoa(v.Events), strconv.Itoa(v.Administrative), verdict}
	}
	columns(w, []string{"TENANT", "EVENTS", "ADMINISTRATIVE", "VERDICT"}, rows)
	for _, v := range list {
		for _, problem := range v.Problems {
			fmt.Fprintf(w, "%s: %s\n", v.Tenant, problem)
		}
		for _, note := range v.Notes {
			fmt.Fprintf(w, "%s: note: %s\n", v.Tenant, note)
		}
	}
}

// verifyAll verifies all that a control plane keeps.
func verifyAll(ctx context.Context, client *adminclient.Client, roots *x509.CertPool) (list []verified, err error) {
	chain := verified{Tenant: "(administrative)", Problems: []string{}, Notes: []string{}}
	brokenAt, err := client.Audit(ctx, func(ledger.Event) { chain.Administrative++ })
	if err != nil {
		return nil, err
	}
	if brokenAt != nil {
		chain.Problems = append(chain.Problems, brokenAt.Error())
	}
	list = append(list, chain)
	uids, err := client.Trails(ctx)
	if err != nil {
		return nil, err
	}
	for _, uid := range uids {
		tenant := ""
		if uid == "" {
			tenant = adminapi.NoTenant
		}
		found, err := fetch(ctx, client, tenant, uid, time.Time{}, roots)
		if err != nil {
			return nil, err
		}
		list = append(list, asVerified(found))
	}
	return list, nil
}

func fetch(ctx context.Context, client *adminclient.Client, tenant, uid string, since time.Time, roots *x509.CertPool) (*trail.Trail, error) {
	var text bytes.Buffer
	if err := client.Trail(ctx, tenant, uid, since, &text); err != nil {
		return nil, err
	}
	return trail.Read(roots, &text)
}

func newAuditReport() *cobra.Command {
	var format output
	var w which
	var bundle string
	cmd := &cobra.Command{
		Use: "report --tenant TENANT", Short: "Who acted for a tenant, and what was kept from crossing into or out of it", Args: command.Args(cobra.NoArgs),
		Example: "  tenantmesh audit report --tenant acme --since 168h",
		Long:    "report verifies the tenant's trail, and says plainly where evidence is missing. It exits with 79 when the trail is not as it was\nrecorded.",
	}
	client := addAdmin(cmd)
	w.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := w.check(); err != nil {
			return err
		}
		roots, err := readRoots(bundle)
		if err != nil {
			return err
		}
		found, err := fetch(cmd.Context(), client(), w.tenant, w.uid, w.since.Time, roots)
		if err != nil {
			return err
		}
		report := found.Report()
		if report.OutOf, err = client().Crossings(cmd.Context(), w.tenant, w.since.Time); err != nil {
			return err
		}
		if err := format.print(cmd.OutOrStdout(), report, func(w io.Writer) { reportTable(w, &report) }); err != nil {
			return err
		}
		if len(report.Problems) > 0 {
			return command.Fail(command.Findings, "tenantmesh audit verify says more", "the evidence is not as it was recorded")
		}
		return nil
	}
	cmd.Flags().StringVar(&bundle, "bundle", "", "file of the mesh's trust bundle, PEM; default: the export's own, whose fingerprint is shown")
	addOutput(cmd, &format)
	return cmd
}

func reportTable(w io.Writer, r *trail.Report) {
	fmt.Fprintf(w, "Tenant %s (uid %s): %d administrative events, %d refusals\n", r.Tenant, r.TenantUID, r.Changes, r.Refusals)
	rows := [][]string{}
	for _, a := range r.Actors {
		right := a.Rule
		if a.BreakGlass {
			right += " BREAK GLASS"
		}
		why := ""
		if len(a.Purposes) > 0 {
			why = a.Purposes[0]
		}
		rows = append(rows, []string{a.Principal, a.Workload, right, strconv.FormatInt(a.Count, 10), a.Last.Format(time.RFC3339), why})
	}
	section(w, "Who acted for it", []string{"PRINCIPAL", "WORKLOAD", "BY", "TIMES", "LAST", "REASON GIVEN"}, rows)
	section(w, "Refused: would have crossed into it", []string{"PRINCIPAL", "WORKLOAD", "REASON", "TIMES", "LAST"}, refusedRows(r.Into))
	section(w, "Refused: its own principals, elsewhere", []string{"PRINCIPAL", "WORKLOAD", "REASON", "TIMES", "LAST"}, refusedRows(r.OutOf))
	rows = rows[:0]
	for _, g := range r.Gaps {
		lost := strconv.FormatInt(g.Lost, 10)
		if g.Lost == 0 {
			lost = "not known"
		}
		rows = append(rows, []string{g.Member, string(g.Kind), lost, g.From.Format(time.RFC3339), g.To.Format(time.RFC3339)})
	}
	section(w, "Evidence that is missing", []string{"MEMBER", "WHY", "EVENTS", "FROM", "UNTIL"}, rows)
	for _, problem := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", problem)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
}

func section(w io.Writer, title string, head []string, rows [][]string) {
	if len(rows) == 0 {
		fmt.Fprintf(w, "\n%s: none\n", title)
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	columns(w, head, rows)
}

func refusedRows(list []trail.Refused) [][]string {
	rows := make([][]string, len(list))
	for i, f := range list {
		principal := f.Principal
		if principal == "" {
			principal = "(only counted)"
		}
		rows[i] = []string{principal, f.Workload, f.Reason, strconv.FormatInt(f.Count, 10), f.Last.Format(time.RFC3339)}
	}
	return rows
}
