package command

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestReady: the word arrives, at a path or at an abstract name, and nobody to tell is no error.
func TestReady(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Errorf("with nobody to tell: %v", err)
	}
	dir, err := os.MkdirTemp("", "notify-") // short: a Unix socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	for _, name := range []string{path, "@" + path} {
		t.Setenv("NOTIFY_SOCKET", name)
		if err := Ready(); err == nil {
			t.Errorf("%s: nobody listens, and there was no error", name)
		}
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := Ready(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		word := make([]byte, 64)
		if n, err := conn.Read(word); err != nil || string(word[:n]) != "READY=1" {
			t.Errorf("%s: got %q, %v", name, word[:n], err)
		}
	}
}
