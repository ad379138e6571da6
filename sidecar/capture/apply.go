package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// ErrNotPermitted says that the process may not change the kernel's rules.
var ErrNotPermitted = errors.New("capture must have the capability CAP_NET_ADMIN")

// ErrNoBackend says that there is no program to tell the kernel by.
var ErrNoBackend = errors.New("capture must have nft, or iptables with ip6tables, in PATH")

// State is what there is in the kernel.
type State struct {
	Backend   Backend  `json:"backend"`
	Installed bool     `json:"installed"` // every chain is there, and asked
	Rules     []string `json:"rules"`     // as the backend prints them, one a line
}

// Install puts the rules in the place of those that there are.
func Install(ctx context.Context, c Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	backend, err := begin(c.Backend)
	if err != nil {
		return err
	}
	if backend == NFTables {
		return run(ctx, NFTablesScript(Rules(c)), "nft", "-f", "-")
	}
	// IPv6 first: what is half done captures too much of one family, and Remove takes it away.
	for _, f := range families {
		script := IPTablesScript(Rules(c), f.v6, f.jumped(ctx))
		if err := run(ctx, script, f.program+"-restore", "--noflush", "--wait"); err != nil {
			return errors.Join(err, removeIPTables(context.WithoutCancel(ctx)))
		}
	}
	return nil
}

// Remove takes every rule away, of whatever backend. There may be none.
func Remove(ctx context.Context) error {
	if _, err := begin(""); err != nil {
		return err
	}
	var problems []error
	if found("nft") {
		problems = append(problems, run(ctx, fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\n", table), "nft", "-f", "-"))
	}
	if found("iptables", "ip6tables") {
		problems = append(problems, removeIPTables(ctx))
	}
	return errors.Join(problems...)
}

// Show returns what there is of a backend, by default of the one that is installed.
func Show(ctx context.Context, backend Backend) (State, error) {
	preferred, err := begin(backend)
	if err != nil {
		return State{}, err
	}
	state := State{Backend: preferred}
	if preferred == NFTables {
		text, err := output(ctx, "nft", "list", "tables")
		if err != nil {
			return state, err
		}
		if strings.Contains(text, "table inet "+table+"\n") {
			if text, err = output(ctx, "nft", "list", "table", "inet", table); err != nil {
				return state, err
			}
			state.Installed, state.Rules = true, strings.Split(strings.TrimRight(text, "\n"), "\n")
		}
	}
	if state.Installed || backend == NFTables || !found("iptables", "ip6tables") {
		return state, nil
	}
	return showIPTables(ctx, state)
}

func showIPTables(ctx context.Context, state State) (State, error) {
	whole := true
	for _, f := range families {
		for _, chain := range Rules(Config{}) {
			text, err := output(ctx, f.program, "-t", iptablesTable(chain.NAT), "-S", ourChain(chain))
			jump := jumpTo(chain)
			if err != nil || !f.jumped(ctx)(jump) {
				whole = false
				continue
			}
			state.Backend = IPTables
			for line := range strings.Lines(text) {
				state.Rules = append(state.Rules, fmt.Sprintf("%s -t %s %s", f.program, jump.Table, strings.TrimSpace(line)))
			}
		}
	}
	state.Installed = whole
	return state, nil
}

// begin checks what may be wrong before anything happens, and chooses the backend.
func begin(backend Backend) (Backend, error) {
	if !mayAdminister() {
		return "", fmt.Errorf("%w (uid %d has it not)", ErrNotPermitted, os.Geteuid())
	}
	switch {
	case backend != IPTables && found("nft"):
		return NFTables, nil
	case backend != NFTables && found("iptables", "iptables-restore", "ip6tables", "ip6tables-restore"):
		return IPTables, nil
	}
	return "", ErrNoBackend
}

// capNetAdmin is CAP_NET_ADMIN's bit (capabilities(7)).
const capNetAdmin = 12

func mayAdminister() bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "CapEff:"); ok {
			effective, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && effective&(1<<capNetAdmin) != 0
		}
	}
	return false
}

// family is one of iptables' programs.
type family struct {
	v6      bool
	program string
}

var families = []family{{true, "ip6tables"}, {false, "iptables"}}

func (f family) jumped(ctx context.Context) func(Jump) bool {
	return func(j Jump) bool {
		_, err := output(ctx, f.program, "--wait", "-t", j.Table, "-C", j.From, "-j", j.To)
		return err == nil
	}
}

func removeIPTables(ctx context.Context) error {
	var problems []error
	for _, f := range families {
		exists := func(table, chain string) bool {
			_, err := output(ctx, f.program, "--wait", "-t", table, "-S", chain)
			return err == nil
		}
		problems = append(problems, run(ctx, IPTablesRemoval(Rules(Config{}), f.jumped(ctx), exists), f.program+"-restore", "--noflush", "--wait"))
	}
	return errors.Join(problems...)
}

func found(programs ...string) bool {
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return false
		}
	}
	return true
}

func run(ctx context.Context, input, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func output(ctx context.Context, program string, args ...string) (string, error) {
	var problem strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(problem.String()))
	}
	return string(out), nil
}
