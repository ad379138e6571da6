package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

func newMove() *cobra.Command {
	var to string
	var rollback, abort, wait bool
	var hold, grace, pause, timeout time.Duration
	var format output
	cmd := &cobra.Command{
		Use: "move NAME --to CELL", Short: "Move a tenant to another cell", Args: command.Args(cobra.ExactArgs(1)),
		Long: `Move a tenant to another cell, while its requests are served.

A move goes from MIGRATING by FENCING, in which nobody takes the tenant's writes and gateways hold them, to CUTOVER and
FINAL. It goes on only by what every gateway and sidecar concerned has reported; 'tenantmesh tenant move status' says
what it waits for.`,
	}
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = completeNames(client, tenantstore.KindTenant)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		input := adminapi.MoveInput{Transition: tenantstore.MoveStart, To: to, Hold: hold.Seconds(), Grace: grace.Seconds(), Pause: pause.Seconds()}
		switch {
		case rollback:
			input = adminapi.MoveInput{Transition: tenantstore.MoveRollback}
		case abort:
			input = adminapi.MoveInput{Transition: tenantstore.MoveAbort}
		case to == "":
			return usageError("name the cell with --to, or take --rollback or --abort", "move must be told where to")
		}
		status, err := client().Move(cmd.Context(), args[0], input)
		if err != nil {
			return located(err, nil)
		}
		if wait {
			if status, err = arrived(cmd, client(), format, status, timeout); err != nil {
				return err
			}
		}
		if wait && format == outputJSON {
			return nil // each state was printed as an event
		}
		return format.print(cmd.OutOrStdout(), status, func(w io.Writer) { describeMove(w, status) })
	}
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "cell to move to")
	flags.BoolVar(&rollback, "rollback", false, "go back to the cell that the tenant came from")
	flags.BoolVar(&abort, "abort", false, "give the move up; only before the cutover")
	flags.BoolVar(&wait, "wait", false, "wait until the tenant has arrived")
	flags.DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait")
	flags.DurationVar(&hold, "hold", 2*time.Second, "how long gateways hold writes while nobody takes them")
	flags.DurationVar(&pause, "pause", 10*time.Second, "how long a step of the fence may take, while writes pause, before the move steps back and tries again")
	flags.DurationVar(&grace, "grace", 10*time.Minute, "how long the source keeps its tombstone afterwards")
	cmd.MarkFlagsMutuallyExclusive("to", "rollback", "abort")
	_ = cmd.RegisterFlagCompletionFunc("to", completeNames(client, tenantstore.KindCell))
	addOutput(cmd, &format)
	cmd.AddCommand(newMoveStatus())
	return cmd
}

// arrived waits until a move has ended, and shows each change: as events, or on a terminal as a line that changes.
func arrived(cmd *cobra.Command, client *adminclient.Client, format output, status adminapi.MoveStatus, timeout time.Duration) (adminapi.MoveStatus, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	screen, isFile := cmd.ErrOrStderr().(*os.File)
	screenIs := isFile && isTerminal(screen)
	shown := ""
	for {
		if line := moveLine(status); line != shown {
			shown = line
			switch {
			case format == outputJSON:
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(status); err != nil {
					return status, err
				}
			case screenIs:
				fmt.Fprintf(screen, "\r\033[K%.100s", line)
			}
		}
		if status.Placement.State == tenantstore.StateFinal || status.Move == nil || status.Move.Outcome != "" {
			if screenIs && format != outputJSON {
				fmt.Fprint(screen, "\r\033[K")
			}
			if status.Move != nil && (status.Move.Aborted || status.Move.Outcome == tenantstore.MoveAborted) {
				return status, command.Fail(command.Failed, "see 'tenantmesh audit' for who did it", "the move of %s was aborted: it stays in %s", status.Tenant, status.Placement.Cell)
			}
			return status, nil
		}
		select {
		case <-ctx.Done():
			return status, command.Fail(command.Findings, "it goes on by itself; see 'tenantmesh tenant move status "+status.Tenant+"'", "after %v the move is not done: %s", timeout, moveLine(status))
		case <-time.After(50 * time.Millisecond):
		}
		next, err := client.MoveStatus(ctx, status.Tenant)
		if err != nil && ctx.Err() == nil {
			return status, err
		}
		if err == nil {
			status = next
		}
	}
}

// moveLine is a move on one line.
func moveLine(s adminapi.MoveStatus) string {
	p := s.Placement
	line := fmt.Sprintf("%s: %s in %s", s.Tenant, p.State, p.Cell)
	if p.Target != "" {
		line += " -> " + p.Target
		if p.State == tenantstore.StateCutover || p.State == tenantstore.StateFinal {
			line = fmt.Sprintf("%s: %s in %s, from %s", s.Tenant, p.State, p.Cell, p.Target)
			if s.Move != nil && s.Move.Aborted {
				line = fmt.Sprintf("%s: stays in %s, and its copy in %s is deleted", s.Tenant, p.Cell, p.Target)
			}
		}
	}
	line += fmt.Sprintf(", epoch %d", p.Epoch)
	if len(s.Waits) > 0 {
		line += ", waits for " + s.Waits[0].For
	}
	return line
}

func describeMove(w io.Writer, s adminapi.MoveStatus) {
	fmt.Fprintln(w, moveLine(adminapi.MoveStatus{Tenant: s.Tenant, Placement: s.Placement, Move: s.Move}))
	if m := s.Move; m != nil {
		fmt.Fprintf(w, "asked for by %s at %s; %s\n", m.Actor, m.Began.Format(time.RFC3339), cmp.Or(strings.ToLower(string(m.Outcome)), "next: "+string(s.Next)))
	}
	if len(s.Copies) > 0 {
		rows := make([][]string, len(s.Copies))
		for i, c := range s.Copies {
			rows[i] = []string{c.Workload, strconv.FormatInt(c.Bytes, 10), strconv.FormatInt(c.Passes, 10), strconv.FormatInt(c.Journal, 10), strconv.FormatInt(c.Resyncs, 10), copied(&c)}
		}
		columns(w, []string{"WORKLOAD", "BYTES", "PASSES", "JOURNAL", "RESYNCS", ""}, rows)
	}
	for _, wait := range s.Waits {
		fmt.Fprintf(w, "  waits for %s\n", wait.For)
		if wait.Hint != "" {
			fmt.Fprintf(w, "    %s\n", wait.Hint)
		}
	}
}

// copied says how far one workload's data is.
func copied(c *tenantstore.Copy) string {
	switch {
	case c.Error != "":
		return c.Error
	case c.Deleted:
		return "deleted at the source"
	case c.DigestTo != "" && c.DigestFrom == c.DigestTo:
		return "equal"
	case c.DigestTo != "":
		return "not equal"
	case c.Caught:
		return "close"
	default:
		return "under way"
	}
}

func newMoveStatus() *cobra.Command {
	var format output
	cmd := &cobra.Command{Use: "status [NAME]", Short: "Say how far moves are, and what they wait for", Args: command.Args(cobra.MaximumNArgs(1))}
	client := addAdmin(cmd)
	cmd.ValidArgsFunction = completeNames(client, tenantstore.KindTenant)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			status, err := client().MoveStatus(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return format.print(cmd.OutOrStdout(), status, func(w io.Writer) { describeMove(w, status) })
		}
		all, err := client().Moves(cmd.Context())
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), all, func(w io.Writer) {
			rows := make([][]string, len(all))
			for i, s := range all {
				waits := string(s.Move.Outcome)
				if len(s.Waits) > 0 {
					waits = "waits for " + s.Waits[0].For
				}
				rows[i] = []string{s.Tenant, string(s.Placement.State), s.Move.From, s.Move.To, strconv.FormatInt(s.Placement.Epoch, 10), waits}
			}
			columns(w, []string{"TENANT", "STATE", "FROM", "TO", "EPOCH", ""}, rows)
		})
	}
	addOutput(cmd, &format)
	return cmd
}

func newMember() *cobra.Command {
	cmd := &cobra.Command{Use: "member", Short: "Look after gateways and sidecars", Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	fence := &cobra.Command{
		Use: "fence ID", Short: "Shut a member out for good, so that moves need not wait for it", Args: command.Args(cobra.ExactArgs(1)),
		Long: `Shut a member out for good. It may not connect to the control plane any more, its signing keys are taken away, and moves
do not wait for it. Do it only when the instance is gone, or cut off from the mesh: start it again with an empty data
directory to make it another member.`,
	}
	client := addAdmin(fence)
	fence.ValidArgsFunction = completeNames(client, tenantstore.KindMember)
	fence.RunE = func(cmd *cobra.Command, args []string) error {
		applied, err := client().FenceMember(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "fenced    Member/%s\nrevision %d\n", args[0], applied.Revision)
		return nil
	}
	cmd.AddCommand(fence)
	return cmd
}
