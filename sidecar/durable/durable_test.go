package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tenantmesh/tenantmesh/sidecar/durable"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, content := range []string{"one", "another", ""} {
		if err := durable.WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		info, err2 := os.Stat(path)
		if err != nil || err2 != nil || string(text) != content || info.Mode().Perm() != 0o600 {
			t.Errorf("it holds %q with %v, %v, %v", text, info.Mode(), err, err2)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v", left, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "no", "state"), nil); err == nil {
		t.Error("a file in a folder that is not there was written")
	}
}
