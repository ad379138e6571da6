package policysync

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	empty, err := Load(path, "me")
	if err != nil || empty.Principal != "me" || len(empty.Resources) != 0 {
		t.Fatalf("without a file: %+v, %v", empty, err)
	}
	empty.Revision = 7
	empty.Resources["t"] = map[string]Resource{"acme": {"v1", []byte("body")}}
	if err := empty.Save(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	again, err := Load(path, "me")
	if err != nil || again.Revision != 7 || string(again.Resources["t"]["acme"].Body) != "body" {
		t.Errorf("read back: %+v, %v", again, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Load(path, "another"); err == nil || len(s.Resources) != 0 {
		t.Errorf("another's state is used: %+v", s)
	}
	for name, spoilt := range map[string][]byte{
		"torn": text[:len(text)/2], "changed": bytes.Replace(text, []byte(`"revision":7`), []byte(`"revision":8`), 1), "empty": {}, "no state": []byte(`{}`),
	} {
		if err := os.WriteFile(path, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Load(path, "me"); err == nil || len(s.Resources) != 0 || s.Resources == nil {
			t.Errorf("a file that is %s is used: %+v", name, s)
		}
	}
	left, err := filepath.Glob(path + ".*")
	if err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}
