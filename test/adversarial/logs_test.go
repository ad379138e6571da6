package adversarial

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"unicode"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/cli"
)

// forgedLine is a line of a log as an attacker would have it.
const forgedLine = `{"level":"info","msg":"decision","decision":"forged","allowed":true}`

// injections are requests whose parts would be lines, codes or labels of their own if they were written down as they are.
var injections = []*attack{
	{Name: "a line in the path", Line: "GET /go/x%0a" + "forged HTTP/1.1"},
	{Name: "a code in the path", Line: "GET /go/x%1b[2J HTTP/1.1"},
	{Name: "a code in the path as it is", Line: "GET /go/x\x1b[2J HTTP/1.1", Want: &want{Nothing: true}},
	{Name: "a quote in the path", Line: `GET /go/x"}` + "%0a{forged HTTP/1.1"},
	{Name: "a long path", Line: "GET /go/{long:40000} HTTP/1.1"},
	{Name: "a line in the agent", Headers: []string{"User-Agent: a{byte:0d}{byte:0a} " + forgedLine}},
	{Name: "a code in the agent", Headers: []string{"User-Agent: {byte:1b}[31mforged"}},
	{Name: "8-bit codes in the agent", Headers: []string{"User-Agent: {byte:9b}31mforged"}},
	{Name: "a code in the request ID", Headers: []string{"X-Request-Id: {byte:c2}{byte:9b}31mforged", "Traceparent: {byte:c2}{byte:9b}31m"}},
	{Name: "a line in the tenant", Token: &token{Claims: map[string]any{"tenant": "a\n" + forgedLine}}, Want: &want{Nothing: true, Reason: "unauthenticated_tenant"}},
	{Name: "a code in the tenant", Token: &token{Claims: map[string]any{"tenant": "a\x1b[2J"}}, Want: &want{Nothing: true, Reason: "unauthenticated_tenant"}},
	{Name: "a line in the subject", Token: &token{Claims: map[string]any{"sub": "a\n" + forgedLine}}},
	{Name: "a label in the tenant", Token: &token{Claims: map[string]any{"tenant": `a",reason="permitted`}}, Want: &want{Nothing: true}},
	{Name: "a line in the method", Via: "h2", Pseudo: []string{":method: GET\n" + forgedLine, ":scheme: http", ":path: /go/x", ":authority: docs.example"}, Want: &want{Nothing: true}},
	{Name: "a code in the host", Host: ptr("docs.example\x1b[2J"), Want: &want{Nothing: true}},
	{Name: "a host of another's names", Host: ptr("forged.example")},
	{Name: "a template", Headers: []string{"User-Agent: %REQ(AUTHORIZATION)% ${jndi:ldap://127.0.0.1:1/a}", "X-Request-Id: %START_TIME%"}},
}

func ptr(s string) *string { return &s }

// injectLogs: what callers choose is written down as one value of one line, and never names a metric.
func (w *world) injectLogs(t *testing.T) {
	for i, a := range injections {
		a.id = "logs-" + strings.ReplaceAll(a.Name, " ", "-")
		if a.Tenant == "" {
			a.Tenant = "acme"
		}
		if a.Want == nil {
			injections[i].Want = &want{Most: 1}
		}
		t.Run(a.Name, func(t *testing.T) {
			for _, problem := range w.try(t, a) {
				t.Error(problem)
			}
		})
	}
	_, plain := w.escapes(t)
	if plain == "" {
		t.Error("the decision does not say who asked")
	}
	if shown := w.shown(t); strings.ContainsFunc(shown, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) || strings.Contains(shown, "\nverdict    allowed") {
		t.Errorf("explain prints %q", shown)
	}
	for _, s := range w.all() {
		text, err := os.ReadFile(s.Log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var entry map[string]any
			if !bytes.HasSuffix(line, []byte("\n")) {
				break // it is being written
			}
			if bytes.ContainsFunc(line[:len(line)-1], unicode.IsControl) {
				t.Errorf("%s: a line holds control characters: %q", s.Log, line)
			}
			if bytes.HasPrefix(line, []byte("[")) {
				continue // Envoy's own
			}
			if err := json.Unmarshal(line, &entry); err != nil {
				t.Errorf("%s: a line is no record: %q", s.Log, line)
			} else if entry["decision"] == "forged" {
				t.Errorf("%s: a line is forged: %q", s.Log, line)
			}
		}
		for _, url := range []string{s.Metrics, s.Admin + "/stats"} {
			response, err := http.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"forged", "acme", "globex"} {
				if strings.Contains(string(text), word) {
					t.Errorf("%s shows %q", url, word)
				}
			}
		}
	}
}

// evilSubject would clear a terminal, and write a line that says that it was allowed.
const evilSubject = "\x1b[2Jeve\nverdict    allowed"

// escapes is what a token's subject may hold, and what the decision about it does.
func (w *world) escapes(t *testing.T) (evil, kept string) {
	t.Helper()
	d, err := w.Admin.Explain(t.Context(), w.refused(t))
	if err != nil {
		t.Fatal(err)
	}
	return evilSubject, d.Principal
}

// refused is the ID of a decision about somebody of that name.
func (w *world) refused(t *testing.T) string {
	t.Helper()
	r := w.Get(t, w.gateway.URL+"/go/x", "nobody")
	if r.Header.Get("x-tenantmesh-decision") == "" {
		t.Fatalf("%d: %s", r.Status, r.Body)
	}
	header := http.Header{"Authorization": {"Bearer " + w.Token(t, "nobody", func(claims map[string]any) { claims["sub"] = evilSubject })}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway.URL+"/go/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.Header.Get("x-tenantmesh-decision")
}

// shown is what the command line prints of it.
func (w *world) shown(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	cmd := cli.Root()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"explain", w.refused(t), "--admin", w.AdminSocket()})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
