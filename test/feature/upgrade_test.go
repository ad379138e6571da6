package feature

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestUpgrade: a socket holds its lease as long as it is open, and no longer.
func TestUpgrade(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(echo))
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.gateway.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /front/socket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", w.Token(t, "globex"))
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d %s", response.StatusCode, response.Header.Get("x-tenantmesh-reason"))
	}
	for range 3 {
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
			t.Fatalf("the socket says %q, %v", line, err)
		}
		if leases(t, w.gateway) != 1 || metric(t, w.front, "tenantmesh_open_requests") != 1 {
			t.Errorf("%d leases at the gateway, %v requests open at front, want one of each", leases(t, w.gateway), metric(t, w.front, "tenantmesh_open_requests"))
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return leases(t, w.gateway) == 0 && metric(t, w.front, "tenantmesh_open_requests") == 0 })
}

// echo is a service that switches to a protocol of lines, and says each again.
func echo(rw http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	for {
		line, err := buffered.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(conn, line)
	}
}
