// Command isolation answers DOES ANYBODY FEEL A NEIGHBOUR: it runs AcmeDocs as `tenantmesh demo` does, loads it with k6,
// and looks at what each tenant got. Every case has aims, and one of them, without enforcement, has to fail its tenant:
// the others prove nothing otherwise.
//
// It prints a table, writes one JSON with the figures and one HTML page with plots, and ends with 1 when an aim is not
// met. It imports the standard library only: the mesh is the program's, the load is k6's.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
)

//go:embed load.js
var script []byte

type config struct {
	program, k6, out, only string
	seconds                int
}

func main() {
	var c config
	flag.StringVar(&c.program, "tenantmesh", "bin/tenantmesh", "the program")
	flag.StringVar(&c.k6, "k6", ".tools/bin/k6", "the load generator")
	flag.StringVar(&c.out, "out", ".isolation", "folder for the report")
	flag.StringVar(&c.only, "only", "", "cases, by commas (default: all); alone is always run")
	flag.IntVar(&c.seconds, "seconds", 30, "length of each case")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	met, err := run(ctx, &c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	if !met {
		fmt.Fprintf(os.Stderr, "error: an aim is not met\nhint: open %s\n", filepath.Join(c.out, "report.html"))
		os.Exit(1)
	}
}

// result is one case's.
type result struct {
	Name    string            `json:"name"`
	Says    string            `json:"says"`
	Seconds float64           `json:"seconds"`
	Aims    []aim             `json:"aims"`
	Tenants map[string]figure `json:"tenants"`
	Dropped float64           `json:"droppedByGenerator"`
	outcome *outcome
}

// figure is one sender's.
type figure struct {
	Requests int                `json:"requests"`
	Served   float64            `json:"served"`
	P50      float64            `json:"p50ms"` // of what was served; 0 when nothing was
	P99      float64            `json:"p99ms"`
	Errors   float64            `json:"errors"` // share
	Reasons  map[string]float64 `json:"reasons,omitempty"`
}

func run(ctx context.Context, c *config) (met bool, err error) {
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "iso-")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fmt.Fprintln(os.Stderr, "starting AcmeDocs")
	m, err := start(ctx, c.program, dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	store, err := startStore()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	if err := m.open(ctx, store); err != nil {
		return false, err
	}
	outcomes := map[string]*outcome{}
	var results []result
	met = true
	for i := range cases {
		one := &cases[i]
		if c.only != "" && one.name != "alone" && !slices.Contains(strings.Split(c.only, ","), one.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s, %d s: %s\n", one.name, c.seconds, one.says)
		o, err := play(ctx, c, m, store, one, dir)
		if err != nil {
			return false, fmt.Errorf("%s: %w", one.name, err)
		}
		outcomes[one.name] = o
		r := result{Name: one.name, Says: one.says, Seconds: o.seconds, Aims: one.aims(o, outcomes), Tenants: figures(o), Dropped: o.dropped, outcome: o}
		for _, a := range r.Aims {
			met = met && a.Met
		}
		results = append(results, r)
		printResult(os.Stdout, &r)
	}
	return met, errors.Join(writeJSON(filepath.Join(c.out, "figures.json"), results), writeReport(filepath.Join(c.out, "report.html"), results))
}

// play loads the mesh as a case says.
func play(ctx context.Context, c *config, m *mesh, store *fileStore, one *testcase, dir string) (*outcome, error) {
	if err := m.apply(ctx, one.objects()); err != nil {
		return nil, err
	}
	senders := slices.Clone(one.senders)
	for i := range senders {
		var err error
		if senders[i].Token, err = m.token(ctx, senders[i].Tenant); err != nil {
			return nil, err
		}
		if senders[i].bucket != "" {
			senders[i].Path = store.linked(senders[i].bucket)
		}
	}
	before := store.hung.Load()
	if err := os.WriteFile(filepath.Join(dir, "load.js"), script, 0o600); err != nil {
		return nil, err
	}
	// Who floods the mesh does so from elsewhere: neither its generator's pauses nor its hunger for this machine are light's.
	quiet, loud := senders[:0:0], senders[:0:0]
	for _, s := range senders {
		if s.Rate >= flood {
			loud = append(loud, s)
		} else {
			quiet = append(quiet, s)
		}
	}
	var wrote []string
	var wg sync.WaitGroup
	failures := [2]error{}
	for i, part := range [][]sender{quiet, loud} {
		if len(part) == 0 {
			continue
		}
		file := filepath.Join(dir, fmt.Sprint(one.name, i, ".csv"))
		wrote = append(wrote, file)
		wg.Go(func() { failures[i] = generate(ctx, c, m, part, i == 1, file) })
	}
	wg.Wait()
	if err := errors.Join(failures[:]...); err != nil {
		return nil, err
	}
	o, err := read(wrote, float64(c.seconds))
	if err == nil {
		o.hung = float64(store.hung.Load() - before)
	}
	return o, err
}

// flood is the rate, a second, from which a sender is one that floods the mesh.
const flood = 100

// generate sends what the senders send, with the last claim to this machine's time or like any other process, and has what
// came of it written into a file.
func generate(ctx context.Context, c *config, m *mesh, senders []sender, last bool, file string) error {
	load, err := json.Marshal(map[string]any{"gateway": m.gateway, "seconds": c.seconds, "senders": senders})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".json", load, 0o600); err != nil {
		return err
	}
	args := []string{c.k6, "run", "--quiet", "--no-summary", "--no-usage-report", "--address", "", "--out", "csv=" + file, filepath.Join(filepath.Dir(file), "load.js")}
	if last {
		args = append([]string{"nice", "-n", "10"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LOAD="+file+".json", "K6_CSV_TIME_FORMAT=unix_milli")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("k6: %w: %s", err, said)
	}
	return nil
}

func figures(o *outcome) map[string]figure {
	list := map[string]figure{}
	for _, name := range o.tenants() {
		s := o.of(name)
		f := figure{Requests: len(s.samples), Served: s.served(), Errors: s.errors(), Reasons: map[string]float64{}}
		if f.Served > 0 {
			f.P50, f.P99 = s.latency(0.5), s.latency(0.99)
		}
		for i := range s.samples {
			if reason := s.samples[i].reason; reason != "" {
				f.Reasons[reason]++
			}
		}
		list[name] = f
	}
	return list
}

func printResult(w io.Writer, r *result) {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, a := range r.Aims {
		if a.Told {
			fmt.Fprintf(out, "%s\t%s\t%.2f\t\t\n", r.Name, a.What, min(a.Value, 1e6))
			continue
		}
		verdict, sign := "met", "at most"
		if !a.Met {
			verdict = "NOT MET"
		}
		if a.Over {
			sign = "at least"
		}
		fmt.Fprintf(out, "%s\t%s\t%.2f\t%s %.2f\t%s\n", r.Name, a.What, min(a.Value, 1e6), sign, a.Bound, verdict)
	}
	_ = out.Flush() // to a terminal or a pipe that somebody reads
}

func writeJSON(path string, results []result) error {
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
