package feature

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestAddresses: clients of a gateway may come by every address, other gateways by the one that they are told, and there
// nobody gets in without a gateway's SVID.
func TestAddresses(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	port, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	mover := strconv.Itoa(port[0])
	w.gateway = w.GatewayAt(t, "gateway", "--address", "0.0.0.0", "--mover-address", "127.0.0.2", "--mover-port", mover, "--concurrency", "2")
	for _, address := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		want(t, address, w.Get(t, strings.Replace(w.gateway.URL, "127.0.0.1", address, 1)+"/front/x", "acme"), 200, "")
		conn, err := net.Dial("tcp", net.JoinHostPort(address, mover))
		if (err == nil) != (address == "127.0.0.2") {
			t.Errorf("the mover port at %s: %v", address, err)
		}
		if err != nil {
			continue
		}
		secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		_, _ = secured.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		if n, err := secured.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("the mover port answers who shows no certificate")
		}
		_ = secured.Close()
	}
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := ""
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindEndpoint && o.Endpoint.Workload == "" {
			told = net.JoinHostPort(o.Endpoint.Address, strconv.Itoa(o.Endpoint.Port))
		}
	}
	if told != "127.0.0.2:"+mover {
		t.Errorf("other gateways are told of %q", told)
	}
	var info struct {
		Options struct {
			Concurrency int `json:"concurrency"`
		} `json:"command_line_options"`
	}
	if err := json.Unmarshal([]byte(meshtest.Do(t, nil, http.MethodGet, w.gateway.Admin+"/server_info", nil, nil).Body), &info); err != nil || info.Options.Concurrency != 2 {
		t.Errorf("Envoy runs %d workers, %v: want 2", info.Options.Concurrency, err)
	}
}
