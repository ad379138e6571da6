package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// rolloutFlags are the flags of an apply that reaches the tenants step by step.
type rolloutFlags struct {
	steps   []float64
	tenants []string
	every   time.Duration
}

func (s *rolloutFlags) flags(flags *pflag.FlagSet) {
	flags.Float64SliceVar(&s.steps, "rollout", nil, "give the change to these shares of the tenants, in percent, one after the other, such as 1,10,50,100")
	flags.StringSliceVar(&s.tenants, "rollout-tenants", nil, "give it to these tenants first, then to 10, 50 and 100 % unless --rollout says otherwise")
	flags.DurationVar(&s.every, "rollout-every", 0, "take the next step by itself after this long, when nothing is wrong; 0: by 'tenantmesh rollout promote'")
}

func (s *rolloutFlags) asked() bool { return len(s.steps) > 0 || len(s.tenants) > 0 || s.every != 0 }

// start starts the rollout of the one object that was read; false when none was asked for.
func (s *rolloutFlags) start(cmd *cobra.Command, client *adminclient.Client, documents []*tenantstore.Document, dryRun bool) (result adminapi.Applied, ok bool, err error) {
	if len(s.steps) == 0 && len(s.tenants) == 0 {
		if s.every != 0 {
			err = usageError("such as --rollout 1,10,50,100", "--rollout-every needs --rollout or --rollout-tenants")
		}
		return result, false, err
	}
	if len(documents) != 1 {
		return result, true, usageError("apply the others without it", "a rollout must be of one object (got %d)", len(documents))
	}
	result, err = client.Rollout(cmd.Context(), documents[0].Object, adminapi.RolloutInput{Steps: s.steps, Tenants: s.tenants, Every: s.every.Seconds()}, dryRun)
	return result, true, err
}

func newRollout() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rollout", Short: "Look after changes that reach the tenants step by step", Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Long: `Look after changes that reach the tenants step by step. 'tenantmesh apply --rollout' begins one.

A rollout halts by itself when a sidecar refuses the change, or when more of its tenants' requests are refused or fail
than of the others'. It stays at its step then: abort it, or promote it all the same. It halts again at the next step
while that is so.`,
	}
	cmd.AddCommand(newRolloutStatus(),
		rolloutVerb("promote", "Take the next step; the last one applies the change", (*adminclient.Client).PromoteRollout),
		rolloutVerb("abort", "End a rollout: everyone has the object as it was", (*adminclient.Client).AbortRollout))
	return cmd
}

func rolloutVerb(verb, what string, call func(*adminclient.Client, context.Context, string) (adminapi.Applied, error)) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " NAME", Short: what, Args: command.Args(cobra.ExactArgs(1))}
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = completeNames(client, tenantstore.KindRollout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		result, err := call(client(), cmd.Context(), args[0])
		if err != nil {
			return notThere(err)
		}
		for _, c := range result.Changes {
			fmt.Fprintf(cmd.OutOrStdout(), "%-9s %s\n", c.Action, c.Object)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "revision %d\n", result.Revision)
		return nil
	}
	return cmd
}

// notThere says where the names of rollouts are.
func notThere(err error) error {
	var problems tenantstore.Problems
	if errors.As(err, &problems) {
		return located(err, nil)
	}
	if strings.Contains(err.Error(), tenantstore.ErrNotFound.Error()) {
		return command.Fail(command.Failed, "'tenantmesh rollout status' lists them; one that is over is gone, see 'tenantmesh audit'", "%w", err)
	}
	return err
}

func newRolloutStatus() *cobra.Command {
	var format output
	cmd := &cobra.Command{Use: "status [NAME]", Short: "Say how far rollouts are, and how their tenants fare", Args: command.Args(cobra.MaximumNArgs(1))}
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = completeNames(client, tenantstore.KindRollout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			status, err := client().RolloutStatus(cmd.Context(), args[0])
			if err != nil {
				return notThere(err)
			}
			return format.print(cmd.OutOrStdout(), status, func(w io.Writer) { describeRollout(w, status) })
		}
		all, err := client().Rollouts(cmd.Context())
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), all, func(w io.Writer) {
			rows := make([][]string, len(all))
			for i, s := range all {
				rows[i] = []string{s.Name, string(s.Rollout.State), reach(s), fmt.Sprintf("%v %%", s.Next), s.Rollout.Why}
			}
			columns(w, []string{"ROLLOUT", "STATE", "REACHED", "NEXT", ""}, rows)
		})
	}
	addOutput(cmd, &format)
	return cmd
}

// reach says who has the change.
func reach(s adminapi.RolloutStatus) string {
	text := fmt.Sprintf("%v %%", s.Percent)
	if names := s.Rollout.Tenants; len(names) > 0 {
		text += " and " + strings.Join(names, ", ")
	}
	return text
}

func describeRollout(w io.Writer, s adminapi.RolloutStatus) {
	f := s.Figures
	fmt.Fprintf(w, "%s: %s, %s has reached %s: %d of %d tenants\n", s.Name, s.Rollout.State, s.Object, reach(s), f.Canary.Tenants, f.Canary.Tenants+f.Others.Tenants)
	fmt.Fprintf(w, "asked for by %s at %s\n", s.Rollout.Actor, s.Rollout.Began.Format(time.RFC3339))
	if s.Rollout.Why != "" {
		fmt.Fprintf(w, "  halted: %s\n", s.Rollout.Why)
	}
	for _, side := range []struct {
		name string
		tenantstore.Served
	}{{"with it", f.Canary}, {"without it", f.Others}, {"before it", f.Before}} {
		fmt.Fprintf(w, "  %-11s %d requests, %d refused, %d errors\n", side.name+":", side.Requests, side.Refused, side.Errors)
	}
	how := "by 'tenantmesh rollout promote " + s.Name + "'"
	if s.Due != nil {
		how = "at " + s.Due.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "next: %v %%, %s; 'tenantmesh rollout abort %s' takes it back\n", s.Next, how, s.Name)
}
