package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/sidecar"
)

// child is the service as a child of its sidecar (--exec). It lives from when the sidecar is ready; it is told to end once nobody is let in
// any more, and the sidecar stays for its calls until it has.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has, or could not be started
	begun chan struct{} // closed once it runs
	asked atomic.Bool   // to run
	err   error         // of Wait; to be read once ended is closed
}

func newChild(args []string, config *sidecar.Config) *child {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = os.Environ()
	if _, said := os.LookupEnv("http_proxy"); !said && !config.Capture {
		cmd.Env = append(cmd.Env, fmt.Sprintf("http_proxy=http://127.0.0.1:%d", config.OutboundPort))
	}
	// A sidecar that is killed takes it along. The signal comes when the thread ends that started it, so that one waits for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return &child{cmd: cmd, ended: make(chan struct{}), begun: make(chan struct{})}
}

// run starts it, hands signals on to it until it ends, and then calls gone.
func (c *child) run(gone func()) {
	c.asked.Store(true)
	go func() {
		runtime.LockOSThread()
		defer gone()
		defer close(c.ended)
		if c.err = c.cmd.Start(); c.err != nil {
			return
		}
		close(c.begun)
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
		go func() {
			for s := range signals {
				_ = c.cmd.Process.Signal(s)
			}
		}()
		c.err = c.cmd.Wait()
		signal.Stop(signals)
		close(signals)
	}()
}

// Stop implements sidecar.Service: it tells it to end, if it runs.
func (c *child) Stop() {
	select {
	case <-c.begun:
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // one that has ended gets none
	default:
	}
}

// Running implements sidecar.Service.
func (c *child) Running() bool {
	select {
	case <-c.begun:
	default:
		return false
	}
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// finish waits for its end, and has it end after patience. It returns how it ended as this program's own end.
func (c *child) finish(patience time.Duration) error {
	if !c.asked.Load() { // the sidecar never was ready
		return nil
	}
	select {
	case <-c.begun:
	case <-c.ended:
	}
	if c.Running() {
		c.Stop()
		select {
		case <-c.ended:
		case <-time.After(patience):
			_ = c.cmd.Process.Kill()
			<-c.ended
		}
	}
	var exit *exec.ExitError
	switch {
	case errors.As(c.err, &exit):
		code := exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal()) // as shells do
		}
		return command.Fail(code, "", "%s: %w", c.cmd.Path, c.err)
	case c.err != nil:
		return command.Fail(command.Failed, "say the program and its arguments after --", "%s could not be started: %w", c.cmd.Path, c.err)
	default:
		return nil
	}
}
