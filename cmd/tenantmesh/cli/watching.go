package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/server"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

func now() time.Time { return time.Now() }

func newStatus() *cobra.Command {
	var format output
	var revision int64
	cmd := &cobra.Command{Use: "status", Short: "Who enforces which revision", Args: command.Args(cobra.NoArgs)}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		status, err := client().Status(cmd.Context(), revision, false, 1)
		if err != nil {
			return err
		}
		granted, err := grants(cmd, client())
		if err != nil {
			return err
		}
		breakGlass(cmd.ErrOrStderr(), granted)
		if err := format.print(cmd.OutOrStdout(), status, func(w io.Writer) { statusTable(w, status) }); err != nil {
			return err
		}
		if status.Refused > 0 {
			return command.Fail(command.Findings, "mend the objects that the refusals name, and apply them again", "%d sidecars refused what was pushed", status.Refused)
		}
		return nil
	}
	cmd.Flags().Int64Var(&revision, "revision", 0, "revision to ask about (default: the newest)")
	addOutput(cmd, &format)
	return cmd
}

func statusTable(w io.Writer, s server.Status) {
	fmt.Fprintln(w, enforced(s))
	rows := make([][]string, len(s.Members))
	for i, m := range s.Members {
		state := "enforces it"
		switch {
		case m.OutOfReach:
			state = "out of reach: member " + m.ID
		case len(m.Refused) > 0:
			state = "refused it"
		case !m.Enforced:
			state = "not yet"
		}
		rows[i] = []string{m.Principal, m.Role, m.Cell, m.Workload, state}
	}
	columns(w, []string{"PRINCIPAL", "ROLE", "CELL", "WORKLOAD", "STATE"}, rows)
}

func newExplain() *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use: "explain DECISION", Short: "Say how a decision came about", Args: command.Args(cobra.ExactArgs(1)),
		Long: "explain takes the ID in the x-tenantmesh-decision header of a refusal, and asks the sidecar that made the decision.",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		decision, err := client().Explain(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), decision, func(w io.Writer) { explain(w, decision) })
	}
	addOutput(cmd, &format)
	return cmd
}

func explain(w io.Writer, d policy.Decision) {
	verdict := "allowed"
	if !d.Allowed {
		verdict = fmt.Sprintf("refused: %s (%d)", d.Reason, d.Reason.Status())
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-10s %s\n", name, oneLine.Replace(value))
		}
	}
	line("decision", d.ID)
	line("request", d.Method+" "+strconv.QuoteToGraphic(d.Path))
	line("host", d.Authority)
	line("request ID", d.RequestID)
	for _, own := range []struct{ name, value string }{{"its ID", d.ClientRequestID}, {"its trace", d.ClientTraceparent}} {
		if own.value != "" {
			line(own.name, strconv.QuoteToGraphic(own.value)+", as the client says")
		}
	}
	line("verdict", verdict)
	line("why", d.Detail)
	line("who", d.Principal)
	line("tenant", strings.TrimSpace(d.Tenant+" "+bracket(d.Tier)))
	line("proof", d.Proof)
	line("txn", d.Txn)
	line("where", strings.TrimSpace(d.Point+" "+d.Cell+" "+d.Workload))
	line("class", d.Class)
	line("rule", d.Rule)
	for _, r := range d.Rules {
		line("  policy", ruleText(&r))
	}
	for _, l := range d.Limits {
		mark := ""
		if l.Exceeded {
			mark = "  <- used up"
		}
		line("  limit", fmt.Sprintf("%s: %.0f of %.0f used%s", l.Limit, l.Level, l.Of, mark))
	}
	line("revision", strconv.FormatInt(d.Revision, 10))
	line("when", fmt.Sprintf("%s, took %v", d.Time.Format(time.RFC3339Nano), d.Duration))
	line("what to do", d.Reason.Advice())
}

func bracket(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func newUsage() *cobra.Command {
	var format output
	var tenant string
	cmd := &cobra.Command{Use: "usage", Short: "What tenants used: by the minute, and what is older by the hour and the day", Args: command.Args(cobra.NoArgs)}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		records, err := client().Usage(cmd.Context(), tenant)
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), records, func(w io.Writer) { usageTable(w, records) })
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "only this tenant's")
	addOutput(cmd, &format)
	return cmd
}

func usageTable(w io.Writer, records []ledger.UsageRecord) {
	rows := make([][]string, len(records))
	for i, r := range records {
		rows[i] = []string{
			r.Minute.Format("2006-01-02 15:04"), r.End().Format("2006-01-02 15:04"), r.Tenant, r.Workload, r.Class, strconv.FormatInt(r.Requests, 10), strconv.FormatInt(r.Refused, 10), strconv.FormatInt(r.Errors, 10),
			strconv.FormatInt(r.BytesReceived, 10), strconv.FormatInt(r.BytesSent, 10), r.Duration.Round(time.Millisecond).String(),
		}
	}
	columns(w, []string{"FROM", "UNTIL", "TENANT", "WORKLOAD", "CLASS", "REQUESTS", "REFUSED", "ERRORS", "BYTES IN", "BYTES OUT", "TIME"}, rows)
}

func newAudit() *cobra.Command {
	var format output
	var after int64
	var last int
	cmd := &cobra.Command{
		Use: "audit", Short: "Who changed what, as a chain that shows forgery", Args: command.Args(cobra.NoArgs),
		Long: "audit verifies the whole chain of events, whatever it shows of them: the newest ones, or those after one that is known.",
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if last < 1 {
			return usageError("such as --last 50", "--last must be at least 1 (got %d)", last)
		}
		events := []ledger.Event{}
		broken, err := client().Audit(cmd.Context(), func(e ledger.Event) {
			if e.Sequence <= after {
				return
			}
			if events = append(events, e); len(events) > last && after == 0 {
				events = events[1:]
			}
		})
		if err != nil {
			return err
		}
		if err := format.print(cmd.OutOrStdout(), events, func(w io.Writer) {
			rows := make([][]string, len(events))
			for i, e := range events {
				rows[i] = []string{strconv.FormatInt(e.Sequence, 10), e.Time.Format(time.RFC3339), e.Actor, e.Action, e.Object}
			}
			columns(w, []string{"EVENT", "TIME", "ACTOR", "ACTION", "OBJECT"}, rows)
		}); err != nil {
			return err
		}
		if broken != nil {
			return command.Fail(command.Findings, "compare with a copy of the ledger", "the chain is broken: %w", broken)
		}
		return nil
	}
	cmd.AddCommand(newAuditVerify(), newAuditExport(), newAuditReport())
	cmd.Flags().Int64Var(&after, "after", 0, "every event after this one")
	cmd.Flags().IntVar(&last, "last", 50, "how many of the newest events, without --after")
	addOutput(cmd, &format)
	return cmd
}

// translated is one resource as translate prints it.
type translated struct {
	Type     string `json:"type"`
	Name     string `json:"name"`
	Audience string `json:"audience"`
	Resource any    `json:"resource"`
}

func newTranslate() *cobra.Command {
	var files source
	var to, node, trustDomain string
	format := outputYAML
	cmd := &cobra.Command{
		Use: "translate -f FILE --node NODE", Short: "Show the xDS resources that a sidecar would get", Args: command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to != "xds" {
				return usageError("xds is what there is", "--to must be xds (got %q)", to)
			}
			audiences := map[string]bool{translator.AudienceAll: true, node: true}
			cell, workload, ok := strings.Cut(node, "/")
			if node != translator.AudienceGateway {
				if !ok {
					return usageError("gateway, or <cell>/<workload>", "--node must name a gateway or a sidecar (got %q)", node)
				}
				for _, audience := range translator.Audiences(cell, workload) {
					audiences[audience] = true
				}
			}
			snapshot, _, err := offline(cmd, &files)
			if err != nil {
				return err
			}
			mesh := ir.Build(snapshot, ir.Options{TrustDomain: trustDomain})
			resources := translator.Translate(mesh)
			for _, t := range mesh.Tenants {
				resources = append(resources, translator.Tenant(t)...)
			}
			list := []translated{}
			for _, r := range resources {
				if !audiences[r.Audience] {
					continue
				}
				value, err := plain(r.Message)
				if err != nil {
					return err
				}
				list = append(list, translated{short(r.TypeURL), r.Name, r.Audience, value})
			}
			return format.print(cmd.OutOrStdout(), list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, r := range list {
					rows[i] = []string{r.Type, r.Name, r.Audience}
				}
				columns(w, []string{"TYPE", "NAME", "AUDIENCE"}, rows)
			})
		},
	}
	flags := cmd.Flags()
	files.flags(flags)
	flags.StringVar(&to, "to", "xds", "what to translate to")
	flags.StringVar(&node, "node", "gateway", "gateway, or <cell>/<workload>")
	flags.StringVar(&trustDomain, "trust-domain", "example.org", "SPIFFE trust domain")
	addOutput(cmd, &format)
	return cmd
}

// plain is a message as JSON values.
func plain(message proto.Message) (any, error) {
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	return jsonValue(text)
}
