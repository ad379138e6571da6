package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// batch is how many checks one measurement sends; they are made before it begins.
const batch = 8000

// child is a server in a process of its own, so that its CPU time is its own.
type child struct {
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	socket string
}

// subject is what is measured.
type subject struct {
	kind    string
	tenants int
	zipf    bool // they come as often as Zipf's law says; else all in turn: nothing of one is in a cache when it comes again
}

func (s subject) String() string {
	order := "in turn"
	if s.zipf {
		order = fmt.Sprint("Zipf ", zipfExponent)
	}
	return fmt.Sprintf("%s, %d tenants, %s", s.kind, s.tenants, order)
}

// served is the subject's server.
func (s subject) served() subject { return subject{kind: s.kind, tenants: s.tenants} }

// subjects are all there are.
var subjects = []subject{
	{"inbound-seen", 12_000, true}, {"inbound-seen", 12_000, false}, {"inbound-new", 12_000, false}, {"gateway", 12_000, false}, {"inbound-seen", 100, true}, {"inbound-seen", 100, false},
}

func start(ctx context.Context, dir string, s subject) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{socket: filepath.Join(dir, fmt.Sprint(s.kind, s.tenants, ".sock"))}
	c.cmd = exec.CommandContext(ctx, self, "-serve", s.kind, "-socket", c.socket, "-tenants", strconv.Itoa(s.tenants))
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if _, err = os.Stat(c.socket); err == nil {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if err != nil {
		return nil, err
	}
	c.conn, err = grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return c, err
}

func (c *child) stop() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// cpu is the CPU time of the process's threads so far, in nanoseconds as the scheduler counts it (proc_pid_schedstat(5)
// has it to a thread; its ticks in proc_pid_stat(5) are a hundredth of a second, which is a twentieth of a batch).
func (c *child) cpu() (time.Duration, error) { return cpuOf(c.cmd.Process.Pid) }

func cpuOf(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("process %d: no schedstat of its threads (%w)", pid, err)
	}
	var sum time.Duration
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return 0, err
		}
		ran, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ran)
	}
	return sum, nil
}

// run sends checks, flight at a time, and returns decisions a CPU-second.
func (c *child) run(ctx context.Context, checks []*auth.CheckRequest, flight int) (float64, error) {
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	client := auth.NewAuthorizationClient(c.conn)
	next := make(chan *auth.CheckRequest, len(checks))
	for _, check := range checks {
		next <- check
	}
	close(next)
	failures := make([]error, flight)
	var wg sync.WaitGroup
	for i := range flight {
		wg.Go(func() {
			for check := range next {
				response, err := client.Check(ctx, check)
				if err == nil && response.GetOkResponse() == nil {
					err = fmt.Errorf("a check was refused: %v", response.GetDeniedResponse())
				}
				if err != nil {
					failures[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failures...); err != nil {
		return 0, err
	}
	after, err := c.cpu()
	return float64(len(checks)) / (after - before).Seconds(), err
}

func measureDecisions(ctx context.Context, rounds int) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	servers := map[subject]*child{}
	for _, one := range append([]subject{floorSubject}, subjects...) {
		if servers[one.served()] != nil {
			continue
		}
		server, err := start(ctx, dir, one.served())
		if err != nil {
			return err
		}
		defer server.stop()
		servers[one.served()] = server
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	signatures, err := measureSignatures(rounds)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "decisions a CPU-second\tin flight\tfloor (always allows)\ttenantmesh\tratio to the floor\tto the floor and its signature")
	cost := map[subject][]float64{} // ratios at 16 in flight
	for _, one := range subjects {
		made, err := newRequests(one)
		if err != nil {
			return err
		}
		for _, flight := range []int{1, 16, 64} {
			var base, ours, ratio, signed []float64
			for range rounds {
				if one.kind == "inbound-seen" { // now
					if err := see(ctx, servers[one.served()], made); err != nil {
						return err
					}
				}
				checks, err := made.batch()
				if err != nil {
					return err
				}
				b, err := servers[floorSubject].run(ctx, checks, flight)
				if err != nil {
					return err
				}
				o, err := servers[one.served()].run(ctx, checks, flight)
				if err != nil {
					return err
				}
				base, ours, ratio = append(base, b), append(ours, o), append(ratio, o/b)
				signed = append(signed, o*(1/b+signatures[one.kind].Seconds()))
			}
			beside := "none is made"
			if signatures[one.kind] > 0 {
				beside = spread(signed, "%.2f")
			}
			if flight == 16 { // as the peers' figures are
				cost[one] = ratio
			}
			fmt.Fprintf(out, "%s\t%d\t%s\t%s\t%s\t%s\n", one, flight, spread(base, "%.0f"), spread(ours, "%.0f"), spread(ratio, "%.2f"), beside)
		}
	}
	for _, zipf := range []bool{true, false} {
		many, few := subject{"inbound-seen", 12_000, zipf}, subject{"inbound-seen", 100, zipf}
		var growth []float64
		for i, ratio := range cost[few] {
			growth = append(growth, ratio/cost[many][i])
		}
		fmt.Fprintf(out, "%s, cost to that of %d (both against the floor, 16 in flight): %s\n", many, few.tenants, spread(growth, "%.2f"))
	}
	fmt.Fprintln(out)
	return out.Flush()
}

var floorSubject = subject{kind: "floor"}

// see sends the contexts of the next batch, in requests of their own.
func see(ctx context.Context, server *child, made *requests) error {
	checks, err := made.all()
	if err != nil {
		return err
	}
	_, err = server.run(ctx, checks, 16)
	return err
}

// measureSignatures is what the one Ed25519 signature of a decision costs alone, by its kind: a gateway makes one, and a
// sidecar verifies one that it has not seen before.
func measureSignatures(rounds int) (map[string]time.Duration, error) {
	k, err := key()
	if err != nil {
		return nil, err
	}
	text := make([]byte, 600) // as long as a context
	signature := ed25519.Sign(k.Private, text)
	const operations = 2000
	median := func(operation func()) time.Duration {
		var took []time.Duration
		for range rounds {
			before := selfCPU()
			for range operations {
				operation()
			}
			took = append(took, (selfCPU()-before)/operations)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	costs := map[string]time.Duration{
		"gateway":     median(func() { ed25519.Sign(k.Private, text) }),
		"inbound-new": median(func() { ed25519.Verify(k.Public(), text, signature) }),
	}
	fmt.Fprintf(os.Stdout, "an Ed25519 signature of 600 bytes: %v to make, %v to verify\n", costs["gateway"], costs["inbound-new"])
	return costs, nil
}
