// Package supervise runs the Envoy beside: it starts it, starts it again when it dies, and ends it.
//
// It imports zap and the standard library.
package supervise

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Envoy is one Envoy and its command line.
type Envoy struct {
	Path        string
	Bootstrap   string // file
	Concurrency int    // worker threads; default 1
	AdminPort   int
	Ended       func() // told each time that Envoy has ended and will be started again; may be nil
	Log         *zap.Logger

	pid      atomic.Int64
	restarts atomic.Int64
}

// Restart waits: at first, at most.
const (
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
	killTime = 2 * time.Second // between SIGTERM and SIGKILL
)

// Run keeps Envoy running until ctx ends, and then ends it.
func (e *Envoy) Run(ctx context.Context) error {
	pause := minPause
	for {
		began := time.Now()
		err := e.once(ctx)
		e.pid.Store(0)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 10*time.Second {
			pause = minPause
		}
		if e.Ended != nil {
			e.Ended()
		}
		e.restarts.Add(1)
		e.Log.Error("envoy ended; starting it again", zap.Error(err), zap.Duration("after", time.Since(began)))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

func (e *Envoy) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, e.Path, "-c", e.Bootstrap, "--disable-hot-restart", "--concurrency", strconv.Itoa(max(1, e.Concurrency)), "--drain-strategy", "immediate", "--log-level", "warning")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killTime
	// Envoy may not outlive the process that decides for it. The signal is sent when the starting thread ends
	// (prctl(2)), so that thread is kept.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	started, done := make(chan error), make(chan struct{})
	defer close(done)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-done
	}()
	if err := <-started; err != nil {
		return err
	}
	e.pid.Store(int64(cmd.Process.Pid))
	e.copyLog(output)
	return cmd.Wait()
}

func (e *Envoy) copyLog(output io.Reader) {
	scanner := bufio.NewScanner(output)
	for scanner.Scan() {
		e.Log.Warn("envoy says", zap.String("line", scanner.Text()))
	}
	_, _ = io.Copy(io.Discard, output) // a line that was too long ended the scanner
}

// PID is the running Envoy's process, 0 for none.
func (e *Envoy) PID() int { return int(e.pid.Load()) }

// Restarts is how often Envoy was started again.
func (e *Envoy) Restarts() int64 { return e.restarts.Load() }

// Post calls Envoy's admin interface.
func (e *Envoy) Post(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", e.AdminPort, path), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// WriteFile writes the bootstrap where Envoy finds it.
func (e *Envoy) WriteFile(text []byte) error { return os.WriteFile(e.Bootstrap, text, 0o600) }
