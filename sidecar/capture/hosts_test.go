package capture_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tenantmesh/tenantmesh/sidecar/capture"
)

// TestHosts: our part is replaced where it is, at the end; what others wrote stays.
func TestHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("127.0.0.1\tlocalhost"), 0o600); err != nil {
		t.Fatal(err)
	}
	const ours = "# tenantmesh: the names that this service may call; this part is written by its sidecar\n"
	for _, step := range []struct {
		addresses map[string]string
		want      string
	}{
		{map[string]string{"search": "127.64.0.1", "back": "127.64.0.2"}, "127.0.0.1\tlocalhost\n" + ours + "127.64.0.2\tback\n127.64.0.1\tsearch\n# tenantmesh: end\n"},
		{map[string]string{"back": "127.64.0.2"}, "127.0.0.1\tlocalhost\n" + ours + "127.64.0.2\tback\n# tenantmesh: end\n"},
		{nil, "127.0.0.1\tlocalhost\n"},
	} {
		if err := capture.WriteHosts(path, step.addresses); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != step.want {
			t.Errorf("got %q, %v, want %q", got, err, step.want)
		}
	}
}
