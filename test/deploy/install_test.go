package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
)

const installer = "../../deploy/install.sh"

var bin string // is made by TestMain, and filled by build

var build = sync.OnceValue(func() error {
	out, err := exec.Command("go", "build", "-o", bin+"/", "../../cmd/tenantmesh", "../../cmd/tenantmesh-sidecar").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "deploy-bin-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(bin)
	os.Exit(code)
}

// programs is the folder of both programs, as they are now.
func programs(t *testing.T) string {
	t.Helper()
	check(t, build())
	return bin
}

func envoy(t *testing.T) string {
	t.Helper()
	path, _, err := bootstrap.FindEnvoy(t.Context())
	check(t, err)
	return path
}

// install runs the installer on this machine; only into folders, or without effect.
func install(t *testing.T, flags ...string) (output string, err error) {
	t.Helper()
	out, err := exec.Command("sh", append([]string{installer}, flags...)...).CombinedOutput()
	return string(out), err
}

// stubs are programs that are quickly copied.
func stubs(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"tenantmesh", "tenantmesh-sidecar", "envoy"} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o700))
	}
	return []string{"--bin", dir, "--envoy", filepath.Join(dir, "envoy")}
}

func files(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	for _, dir := range []string{"usr", "opt", "etc/systemd", "etc/sysusers.d", "etc/tenantmesh"} {
		check(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, entry os.DirEntry, err error) error {
			if err != nil {
				return nil // it is not there
			}
			if !entry.IsDir() {
				info, err := entry.Info()
				check(t, err)
				list = append(list, fmt.Sprintf("%s %v", strings.TrimPrefix(path, root), info.Mode()))
			}
			return nil
		}))
	}
	return list
}

// TestInstall: into a folder; a second time nothing changes, configuration that was edited stays, and removal leaves nothing.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	flags := append(stubs(t), "--root", root, "--prefix", "/opt/mesh")
	if out, err := install(t, append(flags, "--dry-run")...); err != nil || len(files(t, root)) > 0 || !strings.Contains(out, "install    /opt/mesh/bin/tenantmesh\n") {
		t.Errorf("dry run: %v, %q: %s", err, files(t, root), out)
	}
	if out, err := install(t, flags...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []string{
		"/opt/mesh/bin/tenantmesh -rwxr-xr-x", "/opt/mesh/bin/tenantmesh-sidecar -rwxr-xr-x", "/opt/mesh/lib/tenantmesh/envoy -rwxr-xr-x",
		"/etc/systemd/system/tenantmesh-ca.service -rw-r--r--", "/etc/systemd/system/tenantmesh-capture.service -rw-r--r--",
		"/etc/systemd/system/tenantmesh-control.service -rw-r--r--", "/etc/systemd/system/tenantmesh-sidecar@.service -rw-r--r--",
		"/etc/sysusers.d/tenantmesh.conf -rw-r--r--", "/etc/tenantmesh/capture.yaml -rw-r--r--", "/etc/tenantmesh/captured.conf -rw-r--r--",
		"/etc/tenantmesh/control.env -rw-r--r--", "/etc/tenantmesh/sidecar.yaml.example -rw-r--r--",
	}
	if have := files(t, root); !slices.Equal(have, want) {
		t.Errorf("installed are\n%s", strings.Join(have, "\n"))
	}
	for _, name := range unitFiles(t) {
		u := readUnit(t, name, filepath.Join(root, "etc/systemd/system", name))
		if line := u.one("ExecStart"); !strings.HasPrefix(line, "/opt/mesh/bin/") {
			t.Errorf("%s runs %s", name, line)
		}
	}
	env := filepath.Join(root, "etc/tenantmesh/control.env")
	check(t, os.WriteFile(env, []byte("TRUST_DOMAIN=mine.example\n"), 0o600))
	out, err := install(t, flags...)
	if text, _ := os.ReadFile(env); err != nil || strings.Contains(out, "install ") || string(text) != "TRUST_DOMAIN=mine.example\n" {
		t.Errorf("again: %v, the settings are %q: %s", err, text, out)
	}
	// What was enabled is so no more: an instance, too.
	if path, err := exec.LookPath("systemctl"); err == nil {
		if out, err := exec.Command(path, "--root="+root, "enable", "tenantmesh-capture.service", "tenantmesh-sidecar@front.service").CombinedOutput(); err != nil {
			t.Errorf("enable: %v: %s", err, out)
		}
		if have := files(t, root); len(have) != len(want)+2 {
			t.Errorf("enabled are\n%s", strings.Join(have, "\n"))
		}
	}
	for _, step := range []struct {
		flags []string
		left  int
	}{{[]string{"--uninstall"}, 2}, {[]string{"--uninstall"}, 2}, {[]string{"--uninstall", "--purge"}, 0}} {
		if out, err := install(t, append(flags, step.flags...)...); err != nil || len(files(t, root)) != step.left {
			t.Errorf("%s: %v, left are %q: %s", step.flags, err, files(t, root), out)
		}
	}
}

// TestInstallRefuses: nothing is done by half, and every refusal says what to do.
func TestInstallRefuses(t *testing.T) {
	taken := t.TempDir()
	check(t, os.Mkdir(filepath.Join(taken, "etc"), 0o755))
	check(t, os.WriteFile(filepath.Join(taken, "etc/passwd"), []byte("alice:x:1337:1337::/:/bin/sh\n"), 0o600))
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--colour"}, "there is no option --colour"},
		{[]string{"--bin"}, "--bin must have a value"},
		{[]string{"--root", t.TempDir(), "--bin", "/nowhere"}, "run 'make build'"},
		{append(stubs(t), "--root", t.TempDir(), "--envoy", "/nowhere"), "run 'make tools'"},
		{[]string{"--prefix", "usr"}, "--prefix must be an absolute path"},
		{[]string{"--prefix", "/a|b"}, "--prefix must be a path of letters"},
		{[]string{"--root", "here"}, "--root must be an absolute path"},
		{[]string{"--purge", "--root", t.TempDir()}, "--purge must come with --uninstall"},
		{append(stubs(t), "--root", taken), "uid 1337 must be that of tenantmesh-sidecar (is that of alice)"},
	} {
		if out, err := install(t, c.flags...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v: %s", c.flags, err, out)
		}
	}
	if left := files(t, taken); len(left) > 0 {
		t.Errorf("it was refused, and installed %q", left)
	}
}

// TestShellcheck: the installer has none of the mistakes that shellcheck knows.
func TestShellcheck(t *testing.T) {
	path, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("skipped: shellcheck is not there (apt-get install shellcheck)")
	}
	if out, err := exec.Command(path, "--severity=warning", installer).CombinedOutput(); err != nil { // what it is told of taste differs by version
		t.Errorf("%v: %s", err, out)
	}
}

// TestUsersAreTheContract: capture excludes the sidecar by the number that the users' file and its own settings say.
func TestUsersAreTheContract(t *testing.T) {
	users, err := os.ReadFile(filepath.Join(systemdDir, "tenantmesh.sysusers"))
	check(t, err)
	settings, err := os.ReadFile(filepath.Join(systemdDir, "capture.yaml"))
	check(t, err)
	if !strings.Contains(string(users), "u tenantmesh-sidecar 1337 ") || !strings.Contains(string(settings), "\nuid: 1337\n") {
		t.Errorf("the sidecar's uid must be 1337 in both: %s%s", users, settings)
	}
}
