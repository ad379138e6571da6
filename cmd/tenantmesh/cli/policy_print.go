package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
)

// widest is how wide a column may be, in characters, before its words go on below.
const widest = 52

// classTable writes classes, with columns of its caller's last.
func classTable(w io.Writer, classes []analysis.Class, head []string, more func(*analysis.Class) []string) {
	only := false
	for i := range classes {
		only = only || onlyText(&classes[i]) != ""
	}
	var rows [][]string
	for i := range classes {
		c := &classes[i]
		row := []string{c.Principals.String(), c.Tenants.String(), c.Workloads.String(), c.Methods.String(), c.Paths.String()}
		if only {
			row = append(row, onlyText(c))
		}
		rows = append(rows, below(append(row, more(c)...))...)
	}
	columnsOf := []string{"PRINCIPALS", "TENANTS", "WORKLOADS", "METHODS", "PATHS"}
	if only {
		columnsOf = append(columnsOf, "ONLY")
	}
	columns(w, append(columnsOf, head...), rows)
}

// onlyText says when a class is one: times, and conditions that nobody looked into.
func onlyText(c *analysis.Class) string {
	parts := make([]string, 0, len(c.When)+1)
	if c.Times != "" {
		parts = append(parts, c.Times)
	}
	for _, when := range c.When {
		parts = append(parts, "when "+when)
	}
	return strings.Join(parts, ", ")
}

// below is a row as several, where a cell is a list that is too wide.
func below(row []string) [][]string {
	var rows [][]string
	for i, cell := range row {
		line, n := "", 0
		put := func() {
			if n == len(rows) {
				rows = append(rows, make([]string, len(row)))
				if n > 0 {
					for j := range rows[n] {
						rows[n][j] = " " // goes on, and is not nothing
					}
				}
			}
			rows[n][i] = line
			n++
		}
		for _, word := range strings.SplitAfter(cell, ", ") {
			if line != "" && len(line)+len(word) > widest {
				put()
				line = ""
			}
			line += word
		}
		put()
	}
	return rows
}

// ruleText says what a rule had to do with a decision.
func ruleText(r *policy.RuleResult) string {
	outcome := "does not match: " + r.Why
	if r.Matched {
		outcome = "matches"
	}
	return fmt.Sprintf("%s %s %s", r.Rule, bracket(strings.TrimSpace(string(r.Mode)+" "+string(r.Effect))), outcome)
}
