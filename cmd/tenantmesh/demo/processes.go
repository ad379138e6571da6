package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/netns"
)

// spec says how one process of the demo is started. It is kept so that a step of the tour can kill the
// process and start the very same again.
type spec struct {
	Name string // "us-1/documents"
	Role string // control, ca, issuer, gateway, sidecar, service
	Cell string
	ID   string      // SPIFFE ID that it is entitled to, "" for none
	User int         // that it runs as, with ID
	Host *netns.Host // nil: this machine

	Path string
	Args []string
	Env  []string // added to the demo's own
	Dir  string
	Out  io.Writer // nil: a log file

	// Forks marks a program that has children of its own which end only when it ends them. It gets SIGTERM
	// instead of SIGKILL when the demo dies.
	Forks bool

	Metrics    string // base URL of its metrics, "" for none
	EnvoyAdmin string // base URL of its Envoy's admin, "" for none
}

// process is one that was started.
type process struct {
	spec
	cmd  *exec.Cmd
	done chan struct{} // closed once it was reaped
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// processes starts and stops the demo's processes. Every child dies with the demo, even when the demo is
// killed: the kernel sends each the parent-death signal of the one thread that starts them all.
type processes struct {
	logs  string // folder; each process writes <name>.log into it
	start chan startRequest

	mu    sync.Mutex
	order []*process // running, in the order of their start
	died  chan error // first unexpected death
	calm  map[*process]bool
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

func newProcesses(logs string) *processes {
	ps := &processes{logs: logs, start: make(chan startRequest), died: make(chan error, 1), calm: map[*process]bool{}}
	go func() {
		// PR_SET_PDEATHSIG fires when the thread that forked ends, not the process (prctl(2)): this one never does.
		runtime.LockOSThread()
		for request := range ps.start {
			request.result <- request.cmd.Start()
		}
	}()
	return ps
}

// Start starts what s says and returns once it runs.
func (ps *processes) Start(s spec) (*process, error) {
	logFile, err := os.OpenFile(ps.logFile(s.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), isProxy), s.Env...)
	cmd.Dir = s.Dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if s.Out != nil {
		cmd.Stdout, cmd.Stderr = s.Out, s.Out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.Forks {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	result := make(chan error)
	ps.start <- startRequest{cmd, result}
	if err := <-result; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p := &process{spec: s, cmd: cmd, done: make(chan struct{})}
	ps.mu.Lock()
	ps.order = append(ps.order, p)
	ps.mu.Unlock()
	go ps.reap(p)
	return p, nil
}

// isProxy reports whether a variable is about proxies, such as http_proxy: this machine's are none of the demo's.
func isProxy(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasSuffix(strings.ToLower(name), "_proxy")
}

func (ps *processes) reap(p *process) {
	err := p.cmd.Wait()
	ps.mu.Lock()
	expected := ps.calm[p]
	delete(ps.calm, p)
	for i, q := range ps.order {
		if q == p {
			ps.order = append(ps.order[:i:i], ps.order[i+1:]...)
			break
		}
	}
	ps.mu.Unlock()
	close(p.done)
	if expected {
		return
	}
	if err == nil {
		err = errors.New("it exited with 0")
	}
	select {
	case ps.died <- fmt.Errorf("%s ended: %w\n%s", p.Name, err, ps.tail(p.Name)):
	default:
	}
}

// Kill ends p at once with SIGKILL, its whole process group with it, and returns once it is gone.
func (ps *processes) Kill(p *process) {
	ps.expect(p)
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
}

// Stop ends p with SIGTERM, and with SIGKILL when it is still there after grace.
func (ps *processes) Stop(p *process, grace time.Duration) {
	ps.expect(p)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL) // what it left behind in its group
	<-p.done
}

// StopAll ends everything: services and their sidecars first, together, then what they stand on.
func (ps *processes) StopAll(grace time.Duration) {
	for _, roles := range [][]string{{"gateway"}, {"sidecar", "service"}, {"issuer", "control"}, {"ca"}} {
		var wg sync.WaitGroup
		for _, p := range ps.running() {
			for _, role := range roles {
				if p.Role == role {
					wg.Go(func() { ps.Stop(p, grace) })
				}
			}
		}
		wg.Wait()
	}
}

// Find returns the running process of that name.
func (ps *processes) Find(name string) (*process, error) {
	for _, p := range ps.running() {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no process %q is running", name)
}

// Wait returns when ctx ends (nil) or a process ends that nobody ended.
func (ps *processes) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-ps.died:
		return err
	}
}

func (ps *processes) running() []*process {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return append([]*process(nil), ps.order...)
}

func (ps *processes) expect(p *process) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	select {
	case <-p.done:
	default:
		ps.calm[p] = true
	}
}

func (ps *processes) logFile(name string) string {
	return filepath.Join(ps.logs, strings.ReplaceAll(name, "/", "-")+".log")
}

// tail returns the last lines that a process wrote, for an error that says why it ended.
func (ps *processes) tail(name string) string {
	text, err := os.ReadFile(ps.logFile(name))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
