package feature

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestPropagation(t *testing.T) {
	w := newWorld(t)
	for _, forward := range []string{"traceparent", "x-request-id", "txn-token"} {
		for _, tenant := range []string{"acme", "globex"} {
			s := want(t, tenant+" by "+forward, w.call(t, tenant, "http://back/x", forward), 200, "")
			if s.Header.Get("x-tenant-id") != tenant {
				t.Errorf("by %s the tenant is %q, want %q", forward, s.Header.Get("x-tenant-id"), tenant)
			}
			if s.Header.Get("txn-token") != "" {
				t.Errorf("back, without deliverContext, saw a context")
			}
		}
	}
	served := w.served.Load()
	for name, test := range map[string]struct {
		to      string
		forward []string
		status  int
		reason  string
	}{
		"nothing forwarded":    {"http://back/x", nil, 403, "context_missing"},
		"an invented trace ID": {"http://back/x", []string{"traceparent=00-cccccccccccccccccccccccccccccccc-dddddddddddddddd-01"}, 403, "context_missing"},
		"an invented context":  {"http://back/x", []string{"txn-token=invented"}, 403, "context_unattributed"},
		"a forged tenant":      {"http://back/x", []string{"x-tenant-id=globex"}, 403, "context_missing"},
		"not listed":           {"http://elsewhere/x", []string{"traceparent"}, 403, "denied_by_policy"},
		"no permit":            {"http://back/secret/x", []string{"traceparent"}, 403, "denied_by_policy"},
	} {
		want(t, name, w.call(t, "acme", test.to, test.forward...), test.status, test.reason)
	}
	if w.served.Load() != served {
		t.Errorf("%d refused calls reached the service", w.served.Load()-served)
	}
}

// TestPeers: nobody without an SVID that is named gets as far as a decision.
func TestPeers(t *testing.T) {
	w := newWorld(t)
	address := strings.TrimPrefix(w.back.URL, "http://")
	if response, err := http.Get(w.back.URL + "/x"); err == nil {
		t.Errorf("plain HTTP to an inbound listener is answered: %s", response.Status)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		_ = conn.Close()
	}
	if err == nil {
		t.Error("TLS without a certificate is answered")
	}
	if ip := net.ParseIP(strings.Split(address, ":")[0]); !ip.IsLoopback() {
		t.Errorf("the test listens on %s", ip)
	}
	if w.served.Load() != 0 {
		t.Error("the service was reached")
	}
	// The same service through front, whose SVID is named.
	want(t, "front", w.call(t, "acme", "http://back/x", "traceparent"), 200, "")
}

// TestExplain: a refusal's ID leads to who, for whom, and each rule that is about the workload.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	r := w.call(t, "acme", "http://back/secret/x", "traceparent")
	want(t, "secret", r, 403, "denied_by_policy")
	d, err := w.Admin.Explain(t.Context(), r.Header.Get("x-tenantmesh-decision"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Rule != "no-secrets" || d.Tenant != "acme" || d.Principal != "spiffe://mesh.example/cell/us-1/workload/front" || d.Path != "/secret/x" || len(d.Rules) != 2 || d.Revision == 0 {
		t.Errorf("explain says %+v", d)
	}
	if strings.Contains(r.Body, "no-secrets") {
		t.Error("the refusal tells the caller which rule it met")
	}
	if _, err := w.Admin.Explain(t.Context(), "000000000000-0000000000000000"); err == nil {
		t.Error("a decision that nobody made is explained")
	}
}
