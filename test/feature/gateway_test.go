package feature

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

func TestGateway(t *testing.T) {
	w := newWorld(t)
	front := w.gateway.URL + "/front/x"

	t.Run("a proven request", func(t *testing.T) {
		s := want(t, "acme", w.Get(t, front, "acme", "traceparent", "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01", "x-request-id", "mine", "baggage", "a=b", "tracestate", "c=d"), 200, "")
		if s.Path != "/x" || s.Header.Get("x-tenant-id") != "acme" || s.Header.Get("x-tenant-tier") != "gold" || s.Header.Get("txn-token") == "" {
			t.Errorf("the service saw %+v", s)
		}
		for _, name := range []string{"authorization", "x-tenantmesh-cell", "baggage", "tracestate"} {
			if s.Header.Get(name) != "" {
				t.Errorf("the service saw %s: %s", name, s.Header.Get(name))
			}
		}
		if parent := s.Header.Get("traceparent"); strings.Contains(parent, "aaaa") || !strings.HasSuffix(parent, "-01") {
			t.Errorf("traceparent is %q: it must be made anew, sampled as the client's was", parent)
		}
		if s.Header.Get("x-request-id") == "mine" || s.Header.Get("x-request-id") == "" {
			t.Errorf("x-request-id is %q, must be made anew", s.Header.Get("x-request-id"))
		}
	})

	t.Run("the client's own IDs", func(t *testing.T) {
		const trace = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"
		for name, test := range map[string]struct {
			sent []string
			id   string
		}{
			"sent":    {[]string{"x-request-id", "mine", "traceparent", trace}, "mine"},
			"long":    {[]string{"x-request-id", strings.Repeat("m", 10_000), "traceparent", trace}, strings.Repeat("m", 256)},
			"foreign": {[]string{"x-request-id", "\xff\u009b", "traceparent", trace}, "\ufffd\u009b"},
			"forged":  {[]string{"x-tenantmesh-client-request-id", "forged", "traceparent", trace}, ""},
		} {
			refused := w.Get(t, front, "", test.sent...)
			want(t, name, refused, 401, "unauthenticated_tenant")
			d, err := w.Admin.Explain(t.Context(), refused.Header.Get("x-tenantmesh-decision"))
			if err != nil || d.ClientRequestID != test.id || d.ClientTraceparent != trace {
				t.Errorf("%s: the decision keeps %q and %q, %v", name, d.ClientRequestID, d.ClientTraceparent, err)
			}
			if s := want(t, name, w.Get(t, front, "acme", test.sent...), 200, ""); s.Header.Get("x-tenantmesh-client-request-id") != "" {
				t.Errorf("%s: the service saw %v", name, s.Header)
			}
		}
	})

	t.Run("refusals", func(t *testing.T) {
		token := func(change ...func(map[string]any)) http.Header {
			return http.Header{"Authorization": {"Bearer " + w.Token(t, "acme", change...)}}
		}
		good := token()
		for name, header := range map[string]http.Header{
			"no token":       {},
			"expired":        token(func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() }),
			"no exp":         token(func(c map[string]any) { delete(c, "exp") }),
			"foreign issuer": token(func(c map[string]any) { c["iss"] = "https://evil.test" }),
			"other audience": token(func(c map[string]any) { c["aud"] = "other" }),
			"no tenant":      token(func(c map[string]any) { delete(c, "tenant") }),
			"bad tenant":     token(func(c map[string]any) { c["tenant"] = "../acme" }),
			"altered":        {"Authorization": {strings.Replace(good.Get("Authorization"), ".", ".A", 1)}},
			"two tokens":     {"Authorization": {good.Get("Authorization"), good.Get("Authorization")}},
		} {
			r := meshtest.Do(t, nil, http.MethodGet, front, header, nil)
			want(t, name, r, 401, "unauthenticated_tenant")
			var problem map[string]any
			if err := json.Unmarshal([]byte(r.Body), &problem); err != nil || problem["reason"] != "unauthenticated_tenant" || r.Header.Get("content-type") != "application/problem+json" || r.Header.Get("www-authenticate") != "Bearer" {
				t.Errorf("%s: the body is no problem: %v %s", name, err, r.Body)
			}
		}
		query := meshtest.Do(t, nil, http.MethodGet, front+"?access_token="+w.Token(t, "acme"), http.Header{}, nil)
		want(t, "a token in the query", query, 401, "unauthenticated_tenant")
		want(t, "unknown tenant", w.Get(t, front, "hooli"), 403, "tenant_unknown")
	})

	t.Run("forged headers", func(t *testing.T) {
		forged := []string{
			"x-tenant-id", "globex", "X-Tenant-Id", "globex", "x-tenant-tier", "platinum", "txn-token", "forged", "txn-token", "forged2",
			"x-tenantmesh-cell", "eu-1", "x-tenantmesh-lease", "forged", "x-tenantmesh-reason", "forged",
		}
		s := want(t, "acme", w.Get(t, front, "acme", forged...), 200, "")
		if got := s.Header.Values("x-tenant-id"); len(got) != 1 || got[0] != "acme" {
			t.Errorf("the service saw tenants %q", got)
		}
		if got := s.Header.Values("txn-token"); len(got) != 1 || strings.Contains(got[0], "forged") {
			t.Errorf("the service saw contexts %q", got)
		}
		if got := s.Header.Get("x-tenantmesh-lease"); got == "forged" || got == "" {
			t.Errorf("the service saw lease %q", got)
		}
		want(t, "without a token", w.Get(t, front, "", forged...), 401, "unauthenticated_tenant")
	})

	t.Run("hygiene", func(t *testing.T) {
		for _, test := range []struct {
			target, header string
			status         int
		}{
			{"/front/a%2fb", "x: y", 400},
			{"/front/x", "x_tenant_id: globex", 400},
			{"/front/../front/x", "x: y", 200},
			{"//front/x", "x: y", 200},
			{"/frontier", "x: y", 404},
			{"/front/x", "x: " + strings.Repeat("y", 70<<10), 431},
			{"/front/%73ecret/a", "x: y", 403}, // the service would read /secret/a
			{"/front/secre%74/a", "x: y", 403},
			{"/front/secret%zz", "x: y", 403}, // and nobody knows what it would read here
		} {
			got := raw(t, w.gateway.URL, test.target, "Authorization: Bearer "+w.Token(t, "acme"), test.header)
			if got.Status != test.status {
				t.Errorf("%s with %s: %d, want %d", test.target, test.header, got.Status, test.status)
			}
			var problem struct{ Status int }
			if err := json.Unmarshal([]byte(got.Body), &problem); got.Status >= 400 && (err != nil || problem.Status != got.Status || got.Header.Get("content-type") != "application/problem+json") {
				t.Errorf("%s with %s: the body is no problem: %v %q", test.target, test.header, err, got.Body)
			}
		}
	})

	t.Run("suspended, deleted, and made again", func(t *testing.T) {
		w.Apply(t, globex("suspended: true"))
		want(t, "suspended", w.Get(t, front, "globex"), 403, "tenant_suspended")
		w.Apply(t, globex("suspended: false"))
		want(t, "served again", w.Get(t, front, "globex"), 200, "")
	})
}

func globex(more string) string {
	return fmt.Sprintf("apiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: globex}\nspec: {tier: bronze, region: us, %s}\n", more)
}

// raw sends a request target as it is, which net/http would change.
func raw(t *testing.T, base, target string, headers ...string) meshtest.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n\r\n", target, strings.Join(headers, "\r\n"))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return meshtest.Response{Status: response.StatusCode, Header: response.Header, Body: string(body)}
}
