package cli

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenantmesh/tenantmesh/internal/freeport"
)

// TestServers runs testdata/servers, where each script starts its own servers and ends them. A script has free ports in
// PORT1 and PORT2, and one that somebody else has in TAKEN.
func TestServers(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // the scripts outlast this function
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "servers"),
		Setup: func(env *testscript.Env) error {
			ports, err := freeport.Take(2)
			if err != nil {
				return err
			}
			for name, value := range map[string]string{
				"PORT1": strconv.Itoa(ports[0]), "PORT2": strconv.Itoa(ports[1]), "TAKEN": strconv.Itoa(taken.Addr().(*net.TCPAddr).Port),
				"TENANTMESH_ADMIN": filepath.Join(env.WorkDir, "control", "admin.sock"), "SPIFFE_ENDPOINT_SOCKET": "unix://" + filepath.Join(env.WorkDir, "ca.sock"),
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exitcode": exitCode, "await": await},
	})
}

// await waits until something listens at a path, or at host:port: await ca.sock.
func await(ts *testscript.TestScript, _ bool, args []string) {
	network, address := "tcp", args[0]
	if !strings.Contains(address, ":") {
		network, address = "unix", ts.MkAbs(address)
	}
	deadline := time.After(30 * time.Second)
	for {
		conn, err := net.Dial(network, address)
		if err == nil {
			ts.Check(conn.Close())
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("nothing listens at %s: %v", args[0], err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
