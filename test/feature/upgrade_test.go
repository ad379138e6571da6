package feature

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// TestUpgrade: a socket holds its lease as long as it is open, and no longer.
func TestUpgrade(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(echo))
	s := upgrade(t, w.Mesh, w.gateway, "globex")
	for range 3 {
		s.echoes(t)
		if leases(t, w.gateway) != 1 || metric(t, w.front, "tenantmesh_open_requests") != 1 {
			t.Errorf("%d leases at the gateway, %v requests open at front, want one of each", leases(t, w.gateway), metric(t, w.front, "tenantmesh_open_requests"))
		}
	}
	if err := s.conn.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return leases(t, w.gateway) == 0 && metric(t, w.front, "tenantmesh_open_requests") == 0 })
}

// socket is a client's upgrade.
type socket struct {
	conn   net.Conn
	reader *bufio.Reader
}

// upgrade opens a socket to front for a tenant.
func upgrade(t *testing.T, m *meshtest.Mesh, gateway *meshtest.Sidecar, tenant string) *socket {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(gateway.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "GET /front/socket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", m.Token(t, tenant))
	s := &socket{conn, bufio.NewReader(conn)}
	response, err := http.ReadResponse(s.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d %s", response.StatusCode, response.Header.Get("x-tenantmesh-reason"))
	}
	return s
}

// echoes checks that the socket is alive.
func (s *socket) echoes(t *testing.T) {
	t.Helper()
	if _, err := s.conn.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := s.reader.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("the socket says %q, %v", line, err)
	}
}

// ends waits until the other side has ended the socket, and says when.
func (s *socket) ends(t *testing.T) time.Time {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(endBound)); err != nil {
		t.Fatal(err)
	}
	if text, err := s.reader.ReadString('\n'); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after %v the socket is open still: %q, %v", endBound, text, err)
	}
	return time.Now()
}

// endBound is how long an open stream may outlive the change that ends it, from the command on.
const endBound = 5 * time.Second

// TestUpgradeEnds: what is open of a tenant that moves, is suspended or is deleted is ended within a bound, and nothing
// else of the same connections.
func TestUpgradeEnds(t *testing.T) {
	m := meshtest.Start(t, objects+secondCell)
	gateway := m.Gateway(t)
	front := m.Workload(t, "us-1", "front", http.HandlerFunc(echo))
	m.Workload(t, "us-2", "front", http.HandlerFunc(echo))
	w := &moving{Mesh: m, gateway: gateway}
	stays := upgrade(t, m, gateway, "globex")
	for _, test := range []struct {
		name string
		end  func(t *testing.T)
	}{
		{"moved", func(t *testing.T) {
			w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 1})
		}},
		{"moved back", func(t *testing.T) {
			w.settled(t, "us-2")
			w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-1", Grace: 1})
		}},
		{"suspended", func(t *testing.T) { w.settled(t, "us-1"); change(t, m, "suspended: true") }},
		{"deleted", func(t *testing.T) {
			kind, err := tenantstore.ParseKind("tenants")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Admin.Delete(t.Context(), kind, "acme"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "deleted" {
				change(t, m, "suspended: false")
			}
			ends := upgrade(t, m, gateway, "acme")
			ends.echoes(t)
			began := time.Now()
			test.end(t)
			t.Logf("ended after %v", ends.ends(t).Sub(began).Round(time.Millisecond))
			stays.echoes(t)
		})
	}
	if leases(t, gateway) != 1 || metric(t, front, "tenantmesh_open_requests") != 1 {
		t.Errorf("%d leases at the gateway, %v requests open at front, want one of each", leases(t, gateway), metric(t, front, "tenantmesh_open_requests"))
	}
}

// change gives acme's tenant one more member of its spec, everywhere.
func change(t *testing.T, m *meshtest.Mesh, member string) {
	t.Helper()
	m.Apply(t, "apiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {tier: gold, region: us, "+member+"}\n")
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
