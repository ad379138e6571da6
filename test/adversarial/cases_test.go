package adversarial

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// class is one file of attacks.
type class struct {
	Class string
	Why   string // what the attacker is after
	Want  want   // of cases that say nothing else
	Cases []*attack
}

// attack is one case: a request as somebody sends it, and what the service behind may see of it.
//
// In texts {case} is the case's ID, {token} and {token:NAME} good tokens, {context} the tenant context that Context
// describes, {ctx:NAME}, {trace:NAME} and {rid:NAME} what came with the request of a tenant that front serves just now
// (NAME "ended": served before), and {byte:ff} a byte.
type attack struct {
	Name    string
	At      string   // gateway (the default), inbound: of go's sidecar, outbound: of front's
	As      []string // URIs of the certificate shown inbound; default the gateway's
	Cert    string   // foreign: of another CA; expired; ca: itself one
	Via     string   // h1 (the default), h2
	Raw     string   // the whole request, with lines' ends as HTTP has them
	Line    string   // request line; default a GET of /x
	Host    *string
	Pseudo  []string // pseudo-headers of HTTP/2, each "name: value"
	Headers []string
	Trailer []string
	Body    string
	Tenant  string // default acme
	Auth    string // none: no token, or context, or trace
	Token   *token
	Context *tenantContext
	Times   int // how often it is sent; default 1
	Want    *want
	Defence string // without which it fails: see defences

	id    string
	class *class
}

// want is the outcome. Zero fields are not looked at.
type want struct {
	Nothing     bool   // the service saw nothing; otherwise it saw the request once
	Most        int    // instead: it saw it at most so often
	Status      int    // -1: there was no answer
	Statuses    []int  // one of these
	Reason      string // of the refusal
	Tenant      string // default the case's
	Method      string
	Path        string // decoded
	Raw         string
	Authority   string
	Body        string
	Principal   string            // who asks, as the sidecar tells the service
	Header      map[string]string // "-": the service saw none; "!x": it saw another
	Answer      map[string]string // headers of the answer; "-": none
	AnswerLacks string            // a text that is nowhere in the answer
}

func load(t *testing.T) []*class {
	t.Helper()
	files, err := filepath.Glob("cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no cases", err)
	}
	var classes []*class
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := &class{}
		if err := yaml.UnmarshalStrict(text, c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for i, a := range c.Cases {
			a.id, a.class = fmt.Sprintf("%s-%d", strings.TrimSuffix(filepath.Base(file), ".yaml"), i+1), c
			if a.Want == nil {
				a.Want = &c.Want
			}
			if a.Tenant == "" {
				a.Tenant = "acme"
			}
		}
		classes = append(classes, c)
	}
	return classes
}

var placeholder = regexp.MustCompile(`\{(case|token|context|ctx|trace|rid|byte|long)(?::([a-z0-9]+))?\}`)

// fill puts the values for placeholders.
func (w *world) fill(t testing.TB, a *attack, text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(found string) string {
		match := placeholder.FindStringSubmatch(found)
		name := match[2]
		switch match[1] {
		case "case":
			return a.id
		case "token":
			if name == "" {
				name = a.Tenant
			}
			return w.Token(t, name)
		case "context":
			c := a.Context
			if c == nil {
				c = &tenantContext{Tenant: a.Tenant}
			}
			return c.build(t, w)
		case "byte":
			n, err := strconv.ParseUint(name, 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			return string([]byte{byte(n)})
		case "long":
			n, err := strconv.Atoi(name)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Repeat("a", n)
		}
		w.mu.Lock()
		h := w.held[name]
		w.mu.Unlock()
		if h == nil {
			t.Fatalf("%s: no request of %q is held", a.id, name)
		}
		return map[string]string{"ctx": h.context, "trace": h.trace, "rid": h.requestID}[match[1]]
	})
}

// proof is the header by which the attacker would be let in.
func (w *world) proof(t testing.TB, a *attack) (name, value string) {
	switch {
	case a.Auth == "none":
		return "", ""
	case a.At == "inbound":
		return "Txn-Token", "{context}"
	case a.At == "outbound":
		return "Traceparent", "{trace:acme}"
	case a.Token != nil:
		return "Authorization", a.Token.build(t, w, a.Tenant)
	default:
		return "Authorization", "Bearer {token}"
	}
}

func (w *world) send(t testing.TB, a *attack) answer {
	address, path, host := strings.TrimPrefix(w.gateway.URL, "http://"), "/go/x", "docs.example"
	var as *tls.Certificate
	switch a.At {
	case "inbound":
		address, path, host = strings.TrimPrefix(w.sidecars["go"].URL, "http://"), "/x", "go"
		as = w.certificate(t, a)
	case "outbound":
		address, path, host = strings.TrimPrefix(w.sidecars["front"].Outbound, "http://"), "http://go/x", "go"
	}
	if a.Raw != "" {
		return sendRaw(address, as, w.fill(t, a, strings.ReplaceAll(a.Raw, "\n", "\r\n")))
	}
	if a.Host != nil {
		host = *a.Host
	}
	proof, value := w.proof(t, a)
	if a.Via == "h2" {
		pseudo := a.Pseudo
		if pseudo == nil {
			pseudo = []string{":method: GET", ":scheme: http", ":path: " + path, ":authority: " + host}
		}
		fields := w.fields(t, a, pseudo)
		if proof != "" {
			fields = append(fields, [2]string{strings.ToLower(proof), w.fill(t, a, value)})
		}
		fields = append(append(fields, w.fields(t, a, a.Headers)...), [2]string{"x-case", a.id})
		return sendH2(address, as, fields, w.fill(t, a, a.Body), w.fields(t, a, a.Trailer))
	}
	line := a.Line
	if line == "" {
		line = "GET " + path + " HTTP/1.1"
	}
	lines := []string{line}
	if host != "" {
		lines = append(lines, "Host: "+host)
	}
	if proof != "" {
		lines = append(lines, proof+": "+value)
	}
	lines = append(lines, a.Headers...)
	framed := slices.ContainsFunc(lines, func(line string) bool {
		name, _, _ := strings.Cut(strings.ToLower(line), ":")
		return name == "content-length" || name == "transfer-encoding"
	})
	if a.Body != "" && !framed {
		lines = append(lines, fmt.Sprint("Content-Length: ", len(w.fill(t, a, a.Body))))
	}
	lines = append(lines, "X-Case: {case}")
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(strings.ToLower(line), "connection:") }) {
		lines = append(lines, "Connection: close")
	}
	return sendRaw(address, as, w.fill(t, a, strings.Join(lines, "\r\n")+"\r\n\r\n"+a.Body))
}

// fields are header fields, from "name: value".
func (w *world) fields(t testing.TB, a *attack, lines []string) (fields [][2]string) {
	for _, line := range lines {
		name, value, ok := strings.Cut(line[1:], ": ")
		if !ok {
			t.Fatalf("%s: %q must be \"name: value\"", a.id, line)
		}
		fields = append(fields, [2]string{w.fill(t, a, line[:1]+name), w.fill(t, a, value)})
	}
	return fields
}

// certificate is what the attacker shows.
func (w *world) certificate(t testing.TB, a *attack) *tls.Certificate {
	uris := a.As
	if uris == nil {
		uris = []string{"spiffe://" + meshtest.TrustDomain + "/gateway/edge"}
	}
	certificate := w.Forged(t, uris, a.Cert == "foreign", func(c *x509.Certificate) {
		switch a.Cert {
		case "expired":
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		case "early":
			c.NotBefore = time.Now().Add(time.Hour)
		case "server":
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		case "name":
			c.URIs, c.Subject.CommonName, c.DNSNames = nil, uris[0], []string{"gateway.mesh.example"}
		}
	})
	if a.Cert == "none" {
		certificate = tls.Certificate{}
	}
	return &certificate
}

// saw begins what is said of a request that reached a service as it should not.
const saw = "the service saw "

// try sends an attack and says what is not as it should be.
func (w *world) try(t testing.TB, a *attack) (problems []string) {
	before := len(w.seenOf(t, a.id))
	var got answer
	for range max(1, a.Times) {
		got = w.send(t, a)
	}
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	seen := func() []record { return w.seenOf(t, a.id)[before:] }
	switch wanted := a.Want; {
	case wanted.Nothing:
		if n := len(seen()); n > 0 {
			r := seen()[0]
			complain(saw+"%s %s of tenant %q", r.Method, r.Raw, r.one("x-tenant-id"))
		}
	case wanted.Most > 0:
		if n := len(seen()); n > wanted.Most {
			complain(saw+"it %d times", n)
		}
	default:
		if !eventually(func() bool { return len(seen()) > 0 }) {
			complain("no service saw it")
		} else if list := seen(); len(list) > 1 {
			complain(saw+"it %d times", len(list))
		} else {
			problems = append(problems, a.judge(&list[0])...)
		}
	}
	return append(problems, a.judgeAnswer(got)...)
}

func (a *attack) judge(r *record) (problems []string) {
	compare := func(what, got, want string) {
		if want != "" && got != want {
			problems = append(problems, fmt.Sprintf(saw+"%s %q, want %q", what, got, want))
		}
	}
	tenant := a.Want.Tenant
	if tenant == "" {
		tenant = a.Tenant
	}
	compare("tenant", r.one("x-tenant-id"), tenant)
	compare("method", r.Method, a.Want.Method)
	compare("path", r.Path, a.Want.Path)
	compare("target", r.Raw, a.Want.Raw)
	compare("authority", r.Authority, a.Want.Authority)
	compare("body", r.Body, a.Want.Body)
	for name, value := range a.Want.Header {
		other, not := strings.CutPrefix(value, "!")
		switch got := r.Header[name]; {
		case value == "-" && got != nil, not && r.one(name) == other:
			problems = append(problems, fmt.Sprintf(saw+"%s: %q", name, got))
		case value != "-" && !not:
			compare(name, r.one(name), value)
		}
	}
	if a.Want.Principal != "" {
		compare("principal", uriOf(r.one("x-forwarded-client-cert")), a.Want.Principal)
	}
	return problems
}

func (a *attack) judgeAnswer(got answer) (problems []string) {
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	wanted := a.Want
	if wanted.Status != 0 && got.Status != max(0, wanted.Status) || wanted.Statuses != nil && !slices.Contains(wanted.Statuses, got.Status) {
		complain("the answer is %d %q (%v), want %d%v: %.200s", got.Status, got.reason(), got.Err, wanted.Status, wanted.Statuses, got.Body)
	}
	if wanted.Reason != "" && got.reason() != wanted.Reason {
		complain("the reason is %q, want %q (status %d, %v)", got.reason(), wanted.Reason, got.Status, got.Err)
	}
	for name, value := range wanted.Answer {
		if have := got.Header.Get(name); value == "-" && have != "" || value != "-" && have != value {
			complain("the answer has %s: %q, want %q", name, have, value)
		}
	}
	if wanted.AnswerLacks != "" && strings.Contains(fmt.Sprint(got.Header, got.Body), wanted.AnswerLacks) {
		complain("the answer shows %q: %v %s", wanted.AnswerLacks, got.Header, got.Body)
	}
	return problems
}

// seenOf is what services saw of a case.
func (w *world) seenOf(t testing.TB, id string) (list []record) {
	for _, workload := range []string{"go", "front"} {
		for _, r := range w.records(t, workload) {
			if r.one("x-case") == id {
				list = append(list, r)
			}
		}
	}
	return list
}

// held is what came with a request that front serves, or served.
type held struct{ context, trace, requestID string }

// serveFront writes down what it sees. /hold/NAME is kept open until the test's end.
func (w *world) serveFront(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.note("front", r, body)
	name, isHeld := strings.CutPrefix(r.URL.Path, "/hold/")
	if kept, ok := strings.CutPrefix(r.URL.Path, "/end/"); ok {
		name = kept
	}
	w.mu.Lock()
	w.held[name] = &held{r.Header.Get("Txn-Token"), r.Header.Get("Traceparent"), r.Header.Get("X-Request-Id")}
	w.mu.Unlock()
	if isHeld {
		<-r.Context().Done()
	}
}

// hold makes front serve a request of each tenant until the test ends.
func (w *world) hold(t *testing.T, tenants ...string) {
	t.Helper()
	for _, tenant := range tenants {
		w.mu.Lock()
		delete(w.held, tenant)
		w.mu.Unlock()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.gateway.URL+"/front/hold/"+tenant, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+w.Token(t, tenant))
		go func() {
			if response, err := http.DefaultClient.Do(request); err == nil {
				_ = response.Body.Close()
			}
		}()
		if !eventually(func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.held[tenant] != nil
		}) {
			t.Fatalf("front does not serve %s", tenant)
		}
	}
}

// end makes front serve a request that is over when it returns.
func (w *world) end(t *testing.T) {
	t.Helper()
	if r := w.Get(t, w.gateway.URL+"/front/end/ended", "acme"); r.Status != http.StatusOK {
		t.Fatalf("front answers %d %s", r.Status, r.Reason())
	}
}
