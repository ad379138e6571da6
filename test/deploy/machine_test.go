package deploy

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// patience bounds every wait.
const patience = 15 * time.Second

// machine is a host of its own network whose disk, where the installer writes, is its own, too: what it writes is kept in a
// layer over this machine's, and goes with it.
type machine struct {
	*meshtest.Host
	pid int    // of the process that holds the namespaces
	dir string // on this machine, seen from both; /run/spire there
}

// written are the folders that the installer and units write to.
var written = []string{"/etc", "/usr/local", "/var/lib"}

func newMachine(t *testing.T, host *meshtest.Host, spire string) *machine {
	t.Helper()
	try := t.TempDir()
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", "set -e; mount -t tmpfs tmpfs "+try+"; mkdir "+try+"/up "+try+"/work "+try+"/at; mount -t overlay overlay -o lowerdir=/etc,upperdir="+try+"/up,workdir="+try+"/work "+try+"/at").CombinedOutput(); err != nil {
		t.Skipf("skipped: root may not make a disk of layers here: %v: %s", err, out)
	}
	m := &machine{Host: host, dir: spire}
	layer := t.TempDir()
	script := []string{"set -e", "mount --make-rprivate /", "mount -t tmpfs tmpfs " + layer}
	for _, path := range written {
		at := layer + path
		script = append(script, fmt.Sprintf("mkdir -p %[1]s/up %[1]s/work", at), fmt.Sprintf("mount -t overlay overlay -o lowerdir=%[1]s,upperdir=%[2]s/up,workdir=%[2]s/work %[1]s", path, at))
	}
	script = append(script, "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir /run/spire", "mount --bind "+spire+" /run/spire", "echo up", "exec sleep infinity")
	cmd := host.Command(context.Background(), 0, "sh", "-c", strings.Join(script, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if n, err := out.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Fatalf("the machine does not come up: %v", err)
	}
	m.pid = cmd.Process.Pid
	return m
}

// command is a program on the machine, as root. Of this process's environment it gets nothing but PATH.
func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", fmt.Sprint(m.pid), "--mount", "--net"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"} // as systemd's
	return cmd
}

func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// root is the machine's root folder, as this process sees it.
func (m *machine) root() string { return fmt.Sprintf("/proc/%d/root", m.pid) }

func (m *machine) read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(m.root() + path)
	check(t, err)
	return text
}

// write writes a file on the machine.
func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	cmd := m.command("sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0" && chmod 644 "$0"`, path)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", path, err, out)
	}
}

// install runs the installer there, with what was built for this test.
func (m *machine) install(t *testing.T, flags ...string) {
	t.Helper()
	script, err := filepath.Abs("../../deploy/install.sh")
	check(t, err)
	m.run(t, append([]string{script}, flags...)...)
}

// running is a unit's main process.
type running struct {
	unit
	cmd  *exec.Cmd
	done chan struct{}
	log  string // file
}

// start starts a unit as systemd does, and returns once it is started: as its user, with its capabilities, on a disk of
// which it may write its own folders only. What is left out is what needs a kernel's filter: SystemCallFilter=,
// RestrictAddressFamilies= and their like.
func (m *machine) start(t *testing.T, u unit) *running {
	t.Helper()
	notify, ready := m.notified(t, u)
	for _, line := range append(u.values["ExecStartPre"], u.values["ExecStart"]...) {
		cmd := m.command(m.confined(t, u, line)...)
		cmd.Env = append(cmd.Env, m.environment(t, u)...)
		if notify != "" {
			cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify)
		}
		if u.one("Type") == "oneshot" || line != u.one("ExecStart") {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %s: %v: %s", u.name, line, err, out)
			}
			continue
		}
		return m.serve(t, u, cmd, ready)
	}
	return &running{unit: u}
}

// serve starts the main process, and waits for its word where the unit is one that gives it.
func (m *machine) serve(t *testing.T, u unit, cmd *exec.Cmd, ready <-chan error) *running {
	t.Helper()
	r := &running{unit: u, cmd: cmd, done: make(chan struct{}), log: filepath.Join(t.TempDir(), u.name+".log")}
	log, err := os.Create(r.log)
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	check(t, log.Close())
	go func() {
		_ = cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-r.done
	})
	if ready == nil {
		return r
	}
	select {
	case err := <-ready:
		check(t, err)
	case <-r.done:
		t.Fatalf("%s ended: %s", u.name, r.said(t))
	case <-time.After(patience):
		t.Fatalf("%s was not ready after %v: %s", u.name, patience, r.said(t))
	}
	return r
}

func (r *running) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(r.log)
	check(t, err)
	return string(text[max(0, len(text)-4096):])
}

// notified listens where a unit with Type=notify says that it is ready; ready is nil for others.
func (m *machine) notified(t *testing.T, u unit) (path string, ready <-chan error) {
	t.Helper()
	if u.one("Type") != "notify" {
		return "", nil
	}
	name := u.name + ".notify"
	_ = os.Remove(filepath.Join(m.dir, name)) // of the start before
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(m.dir, name), Net: "unixgram"})
	check(t, err)
	check(t, os.Chmod(filepath.Join(m.dir, name), 0o666))
	t.Cleanup(func() { _ = conn.Close() })
	told := make(chan error, 1)
	go func() {
		word := make([]byte, 64)
		n, err := conn.Read(word)
		if err == nil && string(word[:n]) != "READY=1" {
			err = fmt.Errorf("%s said %q", u.name, word[:n])
		}
		told <- err
	}()
	return "/run/spire/" + name, told
}

// stop ends a unit as systemd does: ExecStop= where there is one, SIGTERM for the main process alone where there is none.
func (m *machine) stop(t *testing.T, r *running) {
	t.Helper()
	for _, line := range r.values["ExecStop"] {
		m.run(t, m.confined(t, r.unit, line)...)
	}
	if r.cmd == nil {
		return
	}
	check(t, r.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.done:
	case <-time.After(patience):
		_ = r.cmd.Process.Signal(syscall.SIGQUIT)
		<-time.After(2 * time.Second)
		text, _ := os.ReadFile(r.log)
		_ = os.WriteFile("/tmp/ctl/stuck.log", text, 0o600)
		t.Fatalf("%s did not end: %s", r.name, r.said(t))
	}
}

// environment is Environment= and, in the machine, EnvironmentFile=.
func (m *machine) environment(t *testing.T, u unit) []string {
	t.Helper()
	list := append([]string{}, u.values["Environment"]...)
	for _, file := range u.values["EnvironmentFile"] {
		text, err := os.ReadFile(m.root() + file)
		check(t, err)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				list = append(list, line)
			}
		}
	}
	return list
}

// confined is a command line of the unit's, within what the unit says.
func (m *machine) confined(t *testing.T, u unit, line string) []string {
	t.Helper()
	user := u.one("User")
	script := []string{"set -e", "cd /"}
	for _, bind := range u.words("BindReadOnlyPaths") {
		from, to, _ := strings.Cut(bind, ":")
		script = append(script, fmt.Sprintf("mount --bind %[1]s %[2]s && mount -o remount,bind,ro %[2]s", from, to))
	}
	if u.one("ProtectSystem") == "strict" {
		for parent, key := range map[string]string{"/var/lib/": "StateDirectory", "/run/": "RuntimeDirectory"} {
			for _, dir := range u.words(key) {
				script = append(script, fmt.Sprintf("mkdir -p %[1]s && chmod %[3]s %[1]s && chown %[2]s: %[1]s && mount --bind %[1]s %[1]s", parent+dir, user, u.one(key+"Mode")))
			}
		}
		for _, path := range append(written, "/run", "/") {
			script = append(script, "mount -o remount,bind,ro "+path)
		}
	}
	if u.one("PrivateTmp") == "yes" {
		script = append(script, "mount -t tmpfs -o mode=1777 tmpfs /tmp")
	}
	only := func(key string) string {
		set := "-all"
		for _, name := range u.words(key) {
			set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
		}
		return set
	}
	if mask := u.one("UMask"); mask != "" {
		script = append(script, "umask "+mask)
	}
	drop := fmt.Sprintf(`exec setpriv --pdeathsig KILL --reuid %[1]s --regid "$(id -g %[1]s)" --init-groups --inh-caps %[2]s --ambient-caps %[2]s`, user, only("AmbientCapabilities"))
	if _, ok := u.values["CapabilityBoundingSet"]; ok {
		drop += " --bounding-set " + only("CapabilityBoundingSet")
	}
	if u.one("NoNewPrivileges") == "yes" {
		drop += " --no-new-privs"
	}
	args := []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", strings.Join(append(script, drop+` "$0" "$@"`), "\n")}
	values := map[string]string{}
	for _, line := range m.environment(t, u) {
		name, value, _ := strings.Cut(line, "=")
		values[name] = value
	}
	return append(args, u.command(line, values)...)
}
