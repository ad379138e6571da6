package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unitFiles are the names of the units that are installed.
func unitFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(systemdDir, "tenantmesh-*.service"))
	check(t, err)
	if len(paths) != 4 {
		t.Fatalf("units are %q", paths)
	}
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	return paths
}

// TestFlags: the programs know every flag that a unit names, and every setting of the settings' files.
func TestFlags(t *testing.T) {
	for _, name := range unitFiles(t) {
		u := readUnit(t, strings.Replace(name, "@.", "@front.", 1), filepath.Join(systemdDir, name))
		environment := map[string]string{"TRUST_DOMAIN": "mesh.example", "XDS_ADDRESS": "0.0.0.0:15010", "MORE_FLAGS": "--lease 20s"}
		for _, key := range []string{"ExecStart", "ExecReload", "ExecStop"} {
			for _, line := range u.values[key] {
				known(t, name, u.command(line, environment))
			}
		}
	}
	example, err := os.ReadFile(filepath.Join(systemdDir, "sidecar.yaml.example"))
	check(t, err)
	// What is wrong is the address alone, so all else was understood.
	file := filepath.Join(t.TempDir(), "front.yaml")
	check(t, os.WriteFile(file, []byte(strings.Replace(string(example), "10.0.0.7", "0.0.0.0", 1)), 0o600))
	out, err := exec.Command(filepath.Join(programs(t), "tenantmesh-sidecar"), "--config", file, "--data-dir", t.TempDir()).CombinedOutput()
	if want := "error: address must be one that peers can reach (got \"0.0.0.0\")\n"; err == nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("sidecar.yaml.example: %v: %s", err, out)
	}
	if out, err := exec.Command(filepath.Join(programs(t), "tenantmesh-sidecar"), "capture", "install", "--dry-run", "--config", filepath.Join(systemdDir, "capture.yaml")).CombinedOutput(); err != nil || !strings.Contains(string(out), "1337") {
		t.Errorf("capture.yaml: %v: %s", err, out)
	}
}

// TestDocument: the programs and the installer know what docs/deploy.md has people type.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/deploy.md")
	check(t, err)
	root, asked := t.TempDir(), 0
	for line := range strings.Lines(string(text)) {
		line, code := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, "|")
		words := strings.Fields(strings.NewReplacer(`"$(id -u tenantmesh)"`, "1").Replace(line))
		for len(words) > 0 && (words[0] == "sudo" || strings.Contains(words[0], "=")) {
			words = words[1:]
		}
		if !code || len(words) == 0 {
			continue
		}
		switch words[0] {
		case "tenantmesh", "tenantmesh-sidecar":
			known(t, "docs/deploy.md", words)
		case "deploy/install.sh":
			if out, err := install(t, slices.Concat(words[1:], stubs(t), []string{"--root", root, "--dry-run"})...); err != nil {
				t.Errorf("docs/deploy.md: %s: %v: %s", line, err, out)
			}
		default:
			continue
		}
		asked++
	}
	if asked < 8 {
		t.Errorf("%d commands were found", asked)
	}
}

// known asks the program itself: it names the first flag that it does not know before it comes to --help.
func known(t *testing.T, where string, command []string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(programs(t), filepath.Base(command[0])), append(slices.Clone(command[1:]), "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %s: %v: %s", where, strings.Join(command, " "), err, out)
	}
}

// TestCapabilities: capture has the one that it needs, and nothing else has any.
func TestCapabilities(t *testing.T) {
	for _, name := range unitFiles(t) {
		u := readUnit(t, name, filepath.Join(systemdDir, name))
		want := ""
		if name == "tenantmesh-capture.service" {
			want = "CAP_NET_ADMIN"
		}
		for _, key := range []string{"CapabilityBoundingSet", "AmbientCapabilities"} {
			if values := u.values[key]; len(values) != 1 || values[0] != want {
				t.Errorf("%s: %s is %q, want %q", name, key, values, want)
			}
		}
		for key, want := range map[string]string{"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes"} {
			if u.one(key) != want {
				t.Errorf("%s: %s is %q, want %q", name, key, u.one(key), want)
			}
		}
		if u.one("User") == "" || u.one("User") == "root" {
			t.Errorf("%s runs as %q", name, u.one("User"))
		}
	}
}

// TestSystemd: systemd reads the units without a warning, and counts little that they may do.
func TestSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("skipped: systemd-analyze is not there (apt-get install systemd)")
	}
	// Programs that units name must exist: they lie where the prefix says.
	root := t.TempDir()
	prefix := filepath.Join(t.TempDir(), "prefix")
	if out, err := install(t, append(stubs(t), "--root", root, "--prefix", prefix)...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check(t, os.Symlink(root+prefix, prefix))
	var paths []string
	for _, name := range unitFiles(t) {
		paths = append(paths, filepath.Join(root, "etc/systemd/system", strings.Replace(name, "@.", "@front.", 1)))
	}
	units := filepath.Join(root, "etc/systemd/system")
	copied(t, filepath.Join(systemdDir, "example.service"), filepath.Join(units, "front.service"))
	copied(t, filepath.Join(systemdDir, "captured.conf"), filepath.Join(units, "front.service.d/tenantmesh.conf"))
	check(t, os.Symlink("tenantmesh-sidecar@.service", filepath.Join(units, "tenantmesh-sidecar@front.service")))
	if out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", filepath.Join(units, "front.service")}, paths...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("verify: %v: %s", err, out)
	}
	for _, path := range paths {
		// 2.0 of 10: with the network and the kernel's rules there is no less.
		if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", path).CombinedOutput(); err != nil {
			t.Errorf("security: %v: %s", err, last(out))
		}
	}
}

func copied(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	check(t, err)
	check(t, os.MkdirAll(filepath.Dir(to), 0o755))
	check(t, os.WriteFile(to, text, 0o600))
}

func last(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Sprint(lines[len(lines)-1])
}
