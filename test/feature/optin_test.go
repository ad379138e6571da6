package feature

import (
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestOptIn: a service that opts in verifies the context that its sidecar delivers, by the keys that the sidecar tells it, and its call for the
// request's tenant is known as that; a call for none fails in the service itself.
func TestOptIn(t *testing.T) {
	m := meshtest.Start(t, objects)
	gateway := m.Gateway(t)
	m.Workload(t, "us-1", "back", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Tenant-Id"))
	}))
	var handler atomic.Pointer[http.Handler]
	front := m.Workload(t, "us-1", "front", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load()).ServeHTTP(w, r) }))
	proxy, err := url.Parse(front.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: propagation.Transport{Base: &http.Transport{Proxy: http.ProxyURL(proxy)}}}
	service := propagation.Middleware(propagation.NewVerifier(&propagation.Sidecar{URL: front.Health}), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, _ := propagation.From(r.Context())
		call, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://back/x", nil)
		if r.URL.Path == "/lost" {
			call, err = http.NewRequest(http.MethodGet, "http://back/x", nil) //nolint:noctx // on purpose
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		response, err := client.Do(call)
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		defer func() { _ = response.Body.Close() }()
		seen, _ := io.ReadAll(response.Body)
		_, _ = io.WriteString(w, tenant.ID.String()+" "+string(seen))
	}))
	handler.Store(&service)
	for _, tenant := range []string{"acme", "globex"} {
		if r := m.Get(t, gateway.URL+"/front/x", tenant); r.Status != http.StatusOK || r.Body != tenant+" "+tenant {
			t.Errorf("%s: %d %q", tenant, r.Status, r.Body)
		}
	}
	if r := m.Get(t, gateway.URL+"/front/lost", "acme"); r.Status != http.StatusTeapot {
		t.Errorf("a call for none: %d %q", r.Status, r.Body)
	}
}
