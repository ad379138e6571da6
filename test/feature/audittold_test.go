package feature

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestAuditIsTold: an OTLP receiver is told each write and each refusal, also those of while it, or the control plane, was
// away.
func TestAuditIsTold(t *testing.T) {
	var mu sync.Mutex
	reasons, actions, down := []string{}, []string{}, true
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, err := io.ReadAll(r.Body)
		var sent collector.ExportLogsServiceRequest
		if down || err != nil || proto.Unmarshal(body, &sent) != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for _, record := range sent.ResourceLogs[0].ScopeLogs[0].LogRecords {
			for _, a := range record.Attributes {
				switch a.Key {
				case "tenantmesh.audit.reason":
					reasons = append(reasons, a.Value.GetStringValue())
				case "tenantmesh.audit.object":
					actions = append(actions, a.Value.GetStringValue())
				}
			}
		}
	}))
	t.Cleanup(receiver.Close)
	address, err := url.Parse(receiver.URL + "/v1/logs")
	if err != nil {
		t.Fatal(err)
	}
	told := func(what string, has func() bool) {
		t.Helper()
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-ticker.C {
			mu.Lock()
			good := has()
			mu.Unlock()
			if good {
				return
			}
		}
		t.Fatalf("%s: it was told %v, %v", what, reasons, actions)
	}
	m := meshtest.Start(t, objects, meshtest.Told(address))
	gateway := m.Gateway(t)
	want(t, "unproven", m.Get(t, gateway.URL+"/front/x", ""), 401, "unauthenticated_tenant")
	m.StopControl()
	want(t, "of a tenant that is not there", m.Get(t, gateway.URL+"/front/x", "hooli"), 403, "tenant_unknown")
	m.StartControl(t)
	mu.Lock()
	down = false
	mu.Unlock()
	told("after outages", func() bool {
		return slices.Contains(reasons, "unauthenticated_tenant") && slices.Contains(reasons, "tenant_unknown") && slices.Contains(actions, "Tenant/acme")
	})
}
