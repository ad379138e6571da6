package adminapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPerson: at the socket somebody is who logged in, whatever user they have become.
func TestPerson(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if asked := os.Getenv("PERSON_SOCKET"); asked != "" { // the child: another process, with a login of its own
		conn, err := net.Dial("unix", asked)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		_, _ = io.Copy(os.Stdout, conn)
		return
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "<%s>", actor(r.Context())) })} //nolint:gosec // of a test
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	ask := func(login string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", login+`exec "$0" -test.run '^TestPerson$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "PERSON_SOCKET="+socket)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	own, err := os.ReadFile("/proc/self/loginuid")
	want := fmt.Sprintf("<uid:%d>", os.Getuid())
	if text := strings.TrimSpace(string(own)); err == nil && text != fmt.Sprint(uint32(noLogin)) {
		want = "<uid:" + text + ">"
	}
	if got := ask(""); !strings.Contains(got, want) {
		t.Errorf("%s, want %s", got, want)
	}
	if err := exec.Command("sh", "-c", "echo 4242 >/proc/self/loginuid").Run(); err != nil {
		t.Skip("this kernel, or user, lets no login be set: ", err)
	}
	if got := ask("echo 4242 >/proc/self/loginuid; "); !strings.Contains(got, "<uid:4242>") {
		t.Errorf("who logged in as 4242 is %s", got)
	}
	if got := person(&unix.Ucred{Pid: 1 << 30, Uid: 7}); got != "uid:7" {
		t.Errorf("whose process is gone is %s", got)
	}
}
