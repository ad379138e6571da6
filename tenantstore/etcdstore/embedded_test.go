package etcdstore

import (
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// TestNoAbstractSocket: the embedded etcd listens where the folder's mode says who may come, and nowhere else.
func TestNoAbstractSocket(t *testing.T) {
	store, err := Open(t.Context(), Config{DataDir: t.TempDir(), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var own []string // inodes of this process's sockets
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("skipped: there is no /proc")
	}
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(link, "socket:[") {
			own = append(own, strings.Trim(link, "socket:[]"))
		}
	}
	table, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	listening := 0
	for line := range strings.Lines(string(table)) {
		// Num RefCount Protocol Flags Type St Inode Path; a flag says that it listens.
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[3] != "00010000" || !slices.Contains(own, fields[6]) {
			continue
		}
		listening++
		if strings.HasPrefix(fields[7], "@") {
			t.Errorf("it listens at %s", fields[7])
		}
	}
	if listening == 0 {
		t.Error("it listens nowhere")
	}
}
