package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/internal/command"
)

// output is the value of -o.
type output string

const (
	outputTable output = "table"
	outputJSON  output = "json"
	outputYAML  output = "yaml"
)

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "table|json|yaml" }

// Set implements pflag.Value.
func (o *output) Set(s string) error {
	switch output(s) {
	case outputTable, outputJSON, outputYAML:
		*o = output(s)
		return nil
	default:
		return fmt.Errorf("must be table, json or yaml (got %q)", s)
	}
}

func addOutput(cmd *cobra.Command, o *output) {
	*o = outputTable
	cmd.Flags().VarP(o, "output", "o", "how to print")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{string(outputTable), string(outputJSON), string(outputYAML)}, cobra.ShellCompDirectiveNoFileComp))
}

// print writes value as JSON or YAML, or calls table for a person.
func (o output) print(w io.Writer, value any, table func(io.Writer)) error {
	switch o {
	case outputJSON:
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case outputYAML:
		text, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	default:
		table(visible{w})
		return nil
	}
}

// visible writes what a terminal would obey as it is spelled in Go: much of what is shown was chosen by clients, tokens
// and sidecars. Lines and tabs are the tables' own.
type visible struct{ w io.Writer }

// Write implements io.Writer.
func (v visible) Write(text []byte) (int, error) {
	var shown strings.Builder
	for _, r := range string(text) {
		if r == '\n' || r == '\t' || strconv.IsGraphic(r) && r != utf8.RuneError {
			shown.WriteRune(r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			shown.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	if _, err := io.WriteString(v.w, shown.String()); err != nil {
		return 0, err
	}
	return len(text), nil
}

// oneLine keeps a value from making lines and columns of its own.
var oneLine = strings.NewReplacer("\n", `\n`, "\t", `\t`)

// columns writes rows under a head, each column as wide as it must be.
func columns(w io.Writer, head []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = oneLine.Replace(cell); cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush()
}

// usageError is a command line that cannot be carried out.
func usageError(hint, format string, args ...any) error {
	return command.Fail(command.Usage, hint, format, args...)
}

func jsonValue(text []byte) (value any, err error) {
	err = json.Unmarshal(text, &value)
	return value, err
}
