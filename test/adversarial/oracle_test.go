package adversarial

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// decided is a decision as a sidecar wrote it down.
type decided struct {
	Point, Tenant, Principal, Method, Path, Authority, RequestID string
	Allowed                                                      bool
}

func decisions(t *testing.T, s *meshtest.Sidecar) (list []decided) {
	t.Helper()
	text, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var entry struct {
			Msg string
			decided
		}
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		if err := json.Unmarshal(line, &entry); err == nil && entry.Msg == "decision" {
			list = append(list, entry.decided)
		}
	}
	return list
}

// compare is the oracle: what each sidecar decided is what the service behind it saw, request by request: for which
// tenant, who asked, by which method, for which path of which host. A service may see less (it refuses by itself what it
// does not like), and nothing that was not decided.
func (w *world) compare(t *testing.T) {
	compared, skipped := 0, 0
	for _, workload := range []string{"go", "front", "gunicorn", "node", "nginx"} {
		t.Run(workload, func(t *testing.T) {
			sidecar := w.sidecars[workload]
			if sidecar == nil {
				skipped++
				t.Skipf("SKIPPED: %s is not installed, and nothing is compared with it", workload)
			}
			var records []record
			var undecided []string
			eventually(func() bool { // decisions are written in batches
				records = w.records(t, workload)
				undecided = unlike(decisions(t, sidecar), records)
				return len(undecided) == 0
			})
			for _, problem := range undecided {
				t.Errorf("%s saw what was not decided: %s", workload, problem)
			}
			compared += len(records)
			t.Logf("%s: %d requests were seen as they were decided", workload, len(records))
		})
	}
	t.Logf("%d requests were compared, and %d servers skipped", compared, skipped)
	if compared < 200 {
		t.Errorf("only %d requests were compared", compared)
	}
}

// unlike says what of some records was not decided. Each decision is for one record.
func unlike(made []decided, records []record) (problems []string) {
	allowed := map[string][]decided{}
	for _, d := range made {
		if d.Point == "inbound" && d.Allowed {
			allowed[d.RequestID] = append(allowed[d.RequestID], d)
		}
	}
	for i := range records {
		r := &records[i]
		id := r.one("x-request-id")
		var differences []string
		at := slices.IndexFunc(allowed[id], func(d decided) bool {
			differences = differ(&d, r)
			return len(differences) == 0
		})
		if at < 0 {
			problems = append(problems, fmt.Sprintf("%d decisions of request %q: %s", len(allowed[id]), id, strings.Join(differences, "; ")))
			continue
		}
		allowed[id] = slices.Delete(allowed[id], at, at+1)
	}
	return problems
}

func differ(d *decided, r *record) (differences []string) {
	path, ok := authz.Canonical(d.Path)
	for _, c := range []struct{ what, decided, seen string }{
		{"tenant", d.Tenant, r.one("x-tenant-id")}, {"method", d.Method, r.Method}, {"target", d.Path, r.Raw}, {"path", path, r.Path}, {"authority", d.Authority, r.Authority},
		{"principal", d.Principal, uriOf(r.one("x-forwarded-client-cert"))}, {"spelling", "true", strconv.FormatBool(ok)},
	} {
		if c.decided != c.seen {
			differences = append(differences, fmt.Sprintf("%s %q was decided, %q was seen", c.what, c.decided, c.seen))
		}
	}
	return differences
}

// uriOf is the URI in a sidecar's XFCC, of which there must be one.
func uriOf(xfcc string) string {
	var uris []string
	for part := range strings.SplitSeq(xfcc, ";") {
		if uri, ok := strings.CutPrefix(part, "URI="); ok {
			uris = append(uris, uri)
		}
	}
	if len(uris) != 1 || strings.Contains(xfcc, ",") {
		return "not one in " + xfcc
	}
	return uris[0]
}

// odd is what requests are made of.
var odd = struct{ pieces, methods, hosts, headers []string }{
	pieces: []string{
		"a", "b.c", "..", ".", "", "%2e", "%2E%2e", "%41", "%61", "%7e", "~", "%25", "%252e%252e", "%2525", "%", "%2", "%zz", "%00", "%01", "%0a", "%0d%0a", "%20", "+", "%2b", "%3f", "%23", "%3b", ";", "a;b", "..;", "%26", "&", "=", ":", "%3a", "@",
		"!", "*", "'", "(", ")", ",", "$", "\\", "%5c", "%2f", "|", "^", "`", "{", "}", "[", "]", "<", ">", "\"", "%22", "%c3%a9", "%C3%A9", "%ff", "%c0%af", "%e2%80%ae", "%ef%bc%8f", "\u00e9", "secret", "%73ecret", "SECRET", "index.html", ".git", "a%2eb", "%7f", "%80", "?", "#",
	},
	methods: []string{"GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "POST", "POST", "POST", "PUT", "HEAD", "OPTIONS", "PATCH", "DELETE", "TRACE", "get", "Get", "FOO", "M-SEARCH", "PROPFIND", "G_T", "CONNECT"},
	hosts:   []string{"docs.example", "docs.example", "docs.example", "docs.example", "docs.example", "docs.example", "docs.example", "docs.example", "DOCS.example", "docs.example:80", "docs.example.", "a@docs.example", "[::1]", "[::1]:80", "127.0.0.1", "docs.example,evil", "do%63s.example", "docs_example", "*", "", "a b", "döcs"},
	headers: []string{
		"X-Tenant-Id: globex", "x-tenant-id: globex", "X-Request-Id: mine", "X-Forwarded-Client-Cert: URI=spiffe://mesh.example/evil", "Content-Length: 0", "Transfer-Encoding: chunked", "Connection: x-tenant-id", "Expect: 100-continue",
		"X-Original-Url: /secret", "X-Http-Method-Override: DELETE", "Te: trailers", "X-Forwarded-Host: evil", "Host: evil", "Upgrade: h2c", "Content-Type: application/grpc", "Cookie: a=b", "A: \u00e9", "A: ",
	},
}

const (
	oddRequestsPerServer = 250
	defaultSeed          = 20261125
)

// oddRequests sends requests that nobody would, made from a seed (that of ADVERSARIAL_SEED, or always the same), to each
// server. What comes of them is the oracle's to judge.
func (w *world) oddRequests(t *testing.T) {
	seed := uint64(defaultSeed)
	if text := os.Getenv("ADVERSARIAL_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	tokens := map[string]string{"acme": w.Token(t, "acme"), "globex": w.Token(t, "globex")}
	u, err := url.Parse(w.gateway.URL)
	if err != nil {
		t.Fatal(err)
	}
	var requests []func() answer
	var texts []string
	for _, workload := range []string{"go", "gunicorn", "node", "nginx"} {
		if w.sidecars[workload] == nil {
			continue
		}
		random := rand.New(rand.NewPCG(seed, uint64(len(workload))))
		any := func(list []string) string { return list[random.IntN(len(list))] }
		for i := range oddRequestsPerServer {
			path := "/" + workload
			for range 1 + random.IntN(4) {
				path += "/" + any(odd.pieces)
				if random.IntN(4) == 0 {
					path += any(odd.pieces)
				}
			}
			id, method, host := fmt.Sprintf("random-%s-%d", workload, i), any(odd.methods), any(odd.hosts)
			var extra []string
			for range random.IntN(3) {
				extra = append(extra, any(odd.headers))
			}
			token := "Bearer " + tokens[any([]string{"acme", "globex"})]
			if i%3 == 0 {
				fields := [][2]string{{":method", method}, {":scheme", "http"}, {":path", path}, {":authority", host}, {"authorization", token}}
				for _, line := range extra {
					name, value, _ := strings.Cut(line, ": ")
					fields = append(fields, [2]string{strings.ToLower(name), value})
				}
				texts = append(texts, fmt.Sprint(fields))
				requests = append(requests, func() answer { return sendH2(u.Host, nil, append(fields, [2]string{"x-case", id}), "", nil) })
				continue
			}
			lines := append([]string{method + " " + path + " HTTP/1.1", "Host: " + host, "Authorization: " + token}, extra...)
			text := strings.Join(append(lines, "X-Case: "+id, "Connection: close"), "\r\n") + "\r\n\r\n"
			texts = append(texts, text)
			requests = append(requests, func() answer { return sendRaw(u.Host, nil, text) })
		}
	}
	answers, outcomes := make([]answer, len(requests)), map[string]int{}
	together(len(requests), func(i int) { answers[i] = requests[i]() })
	for i, a := range answers {
		if a.Status == http.StatusServiceUnavailable {
			t.Errorf("a request failed, by itself or because of another: %q", texts[i])
		}
		outcomes[strings.TrimSpace(fmt.Sprint(a.Status, " ", a.reason()))]++
	}
	t.Logf("answers: %v", outcomes)
}
