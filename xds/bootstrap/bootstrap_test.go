package bootstrap

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRealEnvoyTakesIt(t *testing.T) {
	path, version, err := FindEnvoy(t.Context())
	if err != nil || version == "" {
		t.Fatal(version, err)
	}
	text, err := Render(Config{NodeID: "n", Cluster: "c", RunDir: t.TempDir(), AdminPort: 0})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), path, "--mode", "validate", "-c", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRefusesAnOldOrForeignOne(t *testing.T) {
	for name, test := range map[string]struct{ says, want string }{
		"old":     {"envoy  version: 0123abcd/1.31.2/Clean/RELEASE/BoringSSL", "must be Envoy 1.40.0 or newer (is 1.31.2)"},
		"foreign": {"something else", "must be an Envoy"},
	} {
		file := filepath.Join(t.TempDir(), "envoy")
		if err := os.WriteFile(file, []byte("#!/bin/sh\necho '"+test.says+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv(EnvPath, file)
		if _, _, err := FindEnvoy(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	t.Setenv(EnvPath, "/nowhere")
	if _, _, err := FindEnvoy(t.Context()); err == nil {
		t.Error("an Envoy that is not there is found")
	}
}
