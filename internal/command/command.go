// Package command answers HOW A PROGRAM ENDS: exit codes, and errors that a person can act on, for both
// binaries alike.
//
// It imports cobra and the standard library, and no room of this module.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes. 64 and 65 are those of sysexits.h.
const (
	OK       = 0
	Failed   = 1
	Usage    = 64 // the command line is wrong
	BadData  = 65 // an input file or object is wrong
	Findings = 79 // the command worked and found problems
)

// Error is an error with what to do about it.
type Error struct {
	Code int // one of the exit codes; 0 means [Failed]
	Hint string
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Fail returns an error of that exit code, with a hint ("" for none).
func Fail(code int, hint string, format string, args ...any) error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// WithHint returns err with a hint and its exit code kept; nil stays nil.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code(err), Hint: hint, Err: err}
}

// Main runs root with the process's arguments until it ends or a SIGINT or SIGTERM cancels its context, and
// returns the exit code. A second signal ends the process at once.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Run(ctx, root)
}

// Run runs root under ctx and prints its error, if any, to root's standard error.
func Run(ctx context.Context, root *cobra.Command) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Fail(Usage, "see '"+cmd.CommandPath()+" --help'", "%w", err)
	})
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return OK
	}
	if strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") {
		err = Fail(Usage, "see '"+cmd.CommandPath()+" --help'", "%w", err)
	}
	Print(root.ErrOrStderr(), err)
	return code(err)
}

// Print writes err as "error:" and, when it has one, "hint:".
func Print(w io.Writer, err error) {
	fmt.Fprintf(w, "error: %v\n", err)
	var e *Error
	if errors.As(err, &e) && e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
}

// Args wraps a cobra argument check so that its failure is a usage error.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return Fail(Usage, "usage: "+cmd.UseLine(), "%w", err)
		}
		return nil
	}
}

func code(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Code != 0 {
		return e.Code
	}
	return Failed
}
