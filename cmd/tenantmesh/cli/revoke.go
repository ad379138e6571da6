package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

func newRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke", Short: "Take a right away, and say when the last sidecar enforces it", Args: command.Args(cobra.NoArgs),
		Long: `revoke takes a right away, ahead of every other change, and returns once every sidecar that is connected
enforces it, with the moment. A sidecar that is out of reach is named, with the time by which what it has lapses
by itself, or with what to do where it does not. To suspend a tenant or to forbid a principal, apply the Tenant
or a Forbid with 'tenantmesh apply --wait'.`,
		Example: `  tenantmesh revoke token 4be1f0d2c3a94f0f8d1c0a6b7e5d9c21 --reason "a stolen laptop"
  tenantmesh revoke grant ticket-7
  tenantmesh revoke key login 2026-01`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	reason := ""
	token := revocation("token TXN", "Refuse the contexts of a transaction, by the txn that 'explain' shows", tenantstore.KindRevocation, 1,
		func(ctx context.Context, client *adminclient.Client, args []string) (adminapi.Applied, error) {
			return client.RevokeToken(ctx, args[0], reason)
		})
	token.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	grant := revocation("grant NAME", "End an AccessGrant", tenantstore.KindAccessGrant, 1,
		func(ctx context.Context, client *adminclient.Client, args []string) (adminapi.Applied, error) {
			kind, err := tenantstore.ParseKind(string(tenantstore.KindAccessGrant))
			if err != nil {
				return adminapi.Applied{}, err
			}
			return client.Delete(ctx, kind, args[0])
		})
	unknown := false
	key := revocation("key ISSUER KID", "Withdraw a key of a TokenIssuer, whatever its key set says", tenantstore.KindTokenIssuer, 2,
		func(ctx context.Context, client *adminclient.Client, args []string) (adminapi.Applied, error) {
			return withdrawKey(ctx, client, args[0], args[1], unknown)
		})
	key.Flags().BoolVar(&unknown, "unknown", false, "withdraw a key that is not in the key set now, and may come back")
	cmd.AddCommand(token, grant, key)
	return cmd
}

func withdrawKey(ctx context.Context, client *adminclient.Client, name, kid string, unknown bool) (adminapi.Applied, error) {
	kind, err := tenantstore.ParseKind(string(tenantstore.KindTokenIssuer))
	if err != nil {
		return adminapi.Applied{}, err
	}
	issuer, err := client.Get(ctx, kind, name)
	if err != nil {
		return adminapi.Applied{}, err
	}
	if slices.Contains(issuer.TokenIssuer.WithdrawnKeys, kid) {
		return client.PutIf(ctx, kind, issuer)
	}
	if known := issuer.KIDs(); !unknown && !slices.Contains(known, kid) {
		has := "it has none with a kid"
		if len(known) > 0 {
			has = "it has " + strings.Join(known, ", ")
		}
		return adminapi.Applied{}, command.Fail(command.Usage, "take a kid from those, or withdraw one that is not there now with --unknown",
			"TokenIssuer %s: KID must be a key of its key set (got %q): %s", name, kid, has)
	}
	issuer.TokenIssuer.WithdrawnKeys = append(issuer.TokenIssuer.WithdrawnKeys, kid)
	return client.PutIf(ctx, kind, issuer)
}

// revocation is one verb, which takes something away that objects of a kind gave.
func revocation(use, short string, kind tenantstore.Kind, args int, revoke func(context.Context, *adminclient.Client, []string) (adminapi.Applied, error)) *cobra.Command {
	var format output
	var seconds int
	cmd := &cobra.Command{Use: use, Short: short, Args: command.Args(cobra.ExactArgs(args))}
	client := addAdmin(cmd)
	if kind != tenantstore.KindRevocation {
		cmd.ValidArgsFunction = completeNames(client, kind)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		done, err := revoke(cmd.Context(), client(), args)
		if err != nil {
			return located(err, nil)
		}
		status, err := awaited(cmd, client(), done.Revision, seconds)
		if err != nil {
			return err
		}
		changes := []adminapi.AppliedChange{{Object: tenantstore.Key{Kind: kind, Name: args[0]}.String(), Action: tenantstore.Removed}}
		out := applied{adminapi.Applied{Revision: done.Revision, Changes: changes}, &status, cutOff(status, changes)}
		if err := format.print(cmd.OutOrStdout(), out, func(w io.Writer) { fmt.Fprintln(w, enforced(status, out.CutOff...)) }); err != nil {
			return err
		}
		return out.everywhere()
	}
	cmd.Flags().IntVar(&seconds, "timeout", 30, "seconds to wait")
	addOutput(cmd, &format)
	return cmd
}

// cutOffMember is a member that is out of reach, and what becomes of what it has.
type cutOffMember struct {
	ID        string     `json:"id"`
	Principal string     `json:"principal"`
	LapsesBy  *time.Time `json:"lapsesBy,omitempty"` // nil: not before it is back
	Advice    string     `json:"advice,omitempty"`
}

// cutOff says of each member that is out of reach when what changes took away lapses there.
func cutOff(status server.Status, changes []adminapi.AppliedChange) (list []cutOffMember) {
	for _, m := range status.Members {
		if !m.OutOfReach {
			continue
		}
		bound, lapses, gateways := time.Duration(0), len(changes) > 0, len(changes) > 0
		for _, c := range changes {
			name, _, _ := strings.Cut(c.Object, "/")
			kind := tenantstore.Kind(name)
			after, ok := tenantstore.Lapse(kind, m.GrantAge, m.IssuerAge)
			bound = max(bound, after)
			lapses = lapses && ok && (kind == tenantstore.KindRevocation || c.Action != tenantstore.Created)
			gateways = gateways && kind == tenantstore.KindTokenIssuer // nobody else reads it
		}
		if gateways && m.Role != string(tenantstore.RoleGateway) {
			continue
		}
		c := cutOffMember{ID: m.ID, Principal: m.Principal}
		if lapses && m.Heard != nil {
			by := m.Heard.Add(bound).UTC().Truncate(time.Second).Add(time.Second)
			c.LapsesBy = &by
		} else {
			c.Advice = "it keeps what it has until it is back: 'tenantmesh member fence " + m.ID + "' has its peers refuse it"
		}
		list = append(list, c)
	}
	return list
}

func (c cutOffMember) String() string {
	name := c.Principal[strings.LastIndexByte(c.Principal, '/')+1:]
	if c.LapsesBy != nil {
		return fmt.Sprintf("%s (member %s) unreachable, lapses by %s", name, c.ID, moment(*c.LapsesBy))
	}
	return fmt.Sprintf("%s (member %s) unreachable, %s", name, c.ID, c.Advice)
}

// moment is a time of day, in UTC, with the date where it is not today's.
func moment(at time.Time) string {
	if at = at.UTC(); at.Truncate(24 * time.Hour).Equal(now().UTC().Truncate(24 * time.Hour)) {
		return at.Format("15:04:05Z")
	}
	return at.Format(time.RFC3339)
}

// enforced is how far a revision is, in words.
func enforced(s server.Status, unreachable ...cutOffMember) string {
	text := fmt.Sprintf("revision %d: enforced by %d of %d sidecars", s.Revision, s.Enforced, s.Total+s.OutOfReach)
	if s.At != nil && s.Done() {
		text += " at " + s.At.UTC().Format("15:04:05.000Z")
	}
	switch {
	case len(unreachable) == 1:
		text += "; " + unreachable[0].String()
	case s.OutOfReach > 0:
		text += fmt.Sprintf(", %d out of reach", s.OutOfReach)
		for _, c := range unreachable {
			text += "\n  " + c.String()
		}
	}
	if s.Refused > 0 {
		text += fmt.Sprintf(", %d refused it", s.Refused)
		for _, m := range s.Members {
			for _, r := range m.Refused {
				text += fmt.Sprintf("\n  %s: %s %s: %s", m.Principal, short(r.TypeURL), r.Name, r.Error)
			}
		}
	}
	return text
}

// everywhere is nil when the revision is enforced by every sidecar that it concerns.
func (a *applied) everywhere() error {
	switch {
	case a.Status == nil:
		return nil
	case !a.Status.Done():
		return command.Fail(command.Findings, "see 'tenantmesh status'", "revision %d is not enforced everywhere", a.Revision)
	case len(a.CutOff) > 0:
		hint := "see 'tenantmesh status', and fence those that are gone for good"
		if slices.ContainsFunc(a.CutOff, func(c cutOffMember) bool { return c.LapsesBy == nil }) {
			hint = "fence those that are gone for good, or that may not keep what they have: 'tenantmesh member fence ID'"
		}
		return command.Fail(command.Findings, hint, "revision %d is enforced by all that are connected, and %d sidecars are out of reach", a.Revision, a.Status.OutOfReach)
	default:
		return nil
	}
}
