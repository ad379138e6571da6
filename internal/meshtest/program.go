package meshtest

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/examples/acmedocs"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Program is a service that is a program of its own, as it is in production.
type Program struct {
	*Sidecar
	again func() (pid int)
	pid   int
}

// Kill ends the program with SIGKILL, its whole process group with it, and starts it again. What it was doing is lost.
func (p *Program) Kill(t testing.TB) {
	t.Helper()
	check(t, syscall.Kill(-p.pid, syscall.SIGKILL))
	p.pid = p.again()
}

// Documents starts AcmeDocs' documents service, with a SQLite file of its own in each cell, and its sidecar.
func (m *Mesh) Documents(t testing.TB, cell string) *Program {
	t.Helper()
	venv := venv(t)
	apps := filepath.Join(m.dir, "apps")
	if _, err := os.Stat(apps); err != nil {
		check(t, os.CopyFS(apps, acmedocs.Files))
	}
	address := loopback(freePorts(t, 1)[0])
	p := &Program{again: func() int {
		cmd := exec.Command(filepath.Join(venv, "bin", "gunicorn"), "--workers", "1", "--threads", "8", "--bind", address, "--log-level", "warning", "app:app")
		cmd.Dir = filepath.Join(apps, "documents")
		cmd.Env = append(os.Environ(), "DOCUMENTS_DB="+filepath.Join(m.dir, cell+"-documents.db"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		log, err := os.OpenFile(filepath.Join(m.dir, cell+"-documents-service.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		check(t, err)
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		spawn(t, cmd)
		return cmd.Process.Pid
	}}
	p.pid = p.again()
	_, port, err := net.SplitHostPort(address)
	check(t, err)
	p.Sidecar = m.workload(t, cell, "documents", cell+"-documents", port)
	return p
}

// venv is the Python environment of AcmeDocs' services.
func venv(t testing.TB) string { return filepath.Dir(filepath.Dir(Tool(t, "venv/bin/gunicorn"))) }

// Tool is a program of those that 'make tools' fetches, by its path in .tools.
func Tool(t testing.TB, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	check(t, err)
	for {
		program := filepath.Join(dir, ".tools", path)
		if _, err := os.Stat(program); err == nil {
			return program
		}
		if filepath.Dir(dir) == dir {
			t.Fatalf(".tools/%s was not found: run 'make tools'", path)
		}
		dir = filepath.Dir(dir)
	}
}

// GatewayAs starts a gateway of that name.
func (m *Mesh) GatewayAs(t testing.TB, name string) *Sidecar {
	t.Helper()
	id, err := identity.GatewayID(TrustDomain, name)
	check(t, err)
	return m.start(t, "gateway-"+name, id, 0)
}

// Links gives each sidecar a link of its own to the control plane, which a test can cut.
func Links() Option { return func(m *Mesh) { m.links = true } }

// Through puts something between the control planes and their store.
func Through(between func(tenantstore.Store) tenantstore.Store) Option {
	return func(m *Mesh) { m.Store = between(m.Store) }
}

// Link is a sidecar's way to the control plane: a TCP proxy.
type Link struct {
	address, to string

	mu       sync.Mutex
	listener net.Listener // nil: the link is cut
	conns    map[net.Conn]bool
}

// link returns a link that is not cut, and that ends with the test.
func link(t testing.TB, address, to string) *Link {
	t.Helper()
	l := &Link{address: address, to: to, conns: map[net.Conn]bool{}}
	l.Mend(t)
	t.Cleanup(l.Cut)
	return l
}

// Cut ends every connection, and lets nobody in.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil {
		return
	}
	_ = l.listener.Close()
	l.listener = nil
	for conn := range l.conns {
		_ = conn.Close()
	}
	clear(l.conns)
}

// Mend lets the sidecar through again.
func (l *Link) Mend(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		return
	}
	// Connections that were cut may hold the port for a moment.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	listener, err := net.Listen("tcp", l.address)
	for errors.Is(err, syscall.EADDRINUSE) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
		listener, err = net.Listen("tcp", l.address)
	}
	check(t, err)
	l.listener = listener
	go l.accept(listener)
}

func (l *Link) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		onward, err := net.Dial("tcp", l.to)
		if err != nil {
			_ = conn.Close()
			continue
		}
		l.mu.Lock()
		if l.listener != listener { // cut meanwhile
			_, _ = conn.Close(), onward.Close()
		} else {
			l.conns[conn], l.conns[onward] = true, true
			go l.pump(conn, onward)
			go l.pump(onward, conn)
		}
		l.mu.Unlock()
	}
}

// pump copies one way, until either end is closed: then both are.
func (l *Link) pump(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, to)
	delete(l.conns, from)
}
