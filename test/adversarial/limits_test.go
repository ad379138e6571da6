package adversarial

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// evasions are ways to look like somebody else, or like another request, to whoever counts. {n} is another each time.
var evasions = []struct {
	name    string
	path    string
	headers []string
	host    string
}{
	{name: "spelled paths", path: "/go/%61{n}/../x"},
	{name: "hosts", host: "docs{n}.example"},
	{name: "capitals", host: "DOCS.example"},
	{name: "forwarded addresses", headers: []string{"X-Forwarded-For: 10.0.0.{n}", "X-Envoy-External-Address: 10.0.0.{n}", "X-Real-Ip: 10.0.0.{n}"}},
	{name: "request IDs", headers: []string{"X-Request-Id: {n}", "Traceparent: 00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{n}{n}-bbbbbbbbbbbbbbbb-01"}},
	{name: "leases", headers: []string{"X-Tenantmesh-Lease: {n}"}},
	{name: "names of tenants", headers: []string{"X-Tenant-Id: tenant-{n}", "Txn-Token: {n}"}},
	{name: "retries", headers: []string{"X-Envoy-Attempt-Count: {n}", "Grpc-Previous-Rpc-Attempts: {n}", "Idempotency-Key: one"}},
	{name: "queries", path: "/go/x?{n}"},
	{name: "subjects of tokens"},
}

// evadeLimits: however a tenant spells its requests, it stays within its limits.
func (w *world) evadeLimits(t *testing.T) {
	for _, over := range w.overLimits(t) {
		t.Error(over)
	}
	t.Run("names that are many", func(t *testing.T) {
		for i := range 50 {
			a := &attack{id: "limits-names", Want: &want{Nothing: true, Reason: "tenant_unknown"}, Tenant: fmt.Sprint("nobody-", i)}
			for _, problem := range w.try(t, a) {
				t.Error(problem)
			}
		}
	})
}

// burst is that of tenant tiny, and of the class exports of tenant small.
const burst, exports = 3, 2

// overLimits says how limits were exceeded: a request of each evasion, twice, for a tenant that may send three, and by as many
// spellings of one path for one that may export twice.
func (w *world) overLimits(t *testing.T) (over []string) {
	round := 0
	count := func(id, tenant, line string, headers []string, host string) {
		round++
		fill := func(text string) string { return strings.ReplaceAll(text, "{n}", fmt.Sprint(round%10)) }
		if host == "" {
			host = "docs.example"
		}
		host = fill(host)
		a := &attack{id: id, Tenant: tenant, Line: fill(line), Host: &host, Auth: "none", Want: &want{}}
		a.Headers = []string{"Authorization: Bearer " + w.Token(t, tenant, func(claims map[string]any) { claims["sub"] = fmt.Sprint("user-", round) })}
		for _, h := range headers {
			a.Headers = append(a.Headers, fill(h))
		}
		w.send(t, a)
	}
	const rate, class = "limits-rate", "limits-class"
	before, beforeClass := len(w.seenOf(t, rate)), len(w.seenOf(t, class))
	for range 2 {
		for _, e := range evasions {
			path := e.path
			if path == "" {
				path = "/go/x"
			}
			count(rate, "tiny", "GET "+path+" HTTP/1.1", e.headers, e.host)
		}
	}
	for _, path := range []string{"/a/export", "/b/export", "/a/%65xport", "/a/e%78port", "/a//export", "/./a/export", "/a/b/../export", "/a/export?x", "/c/expor%74"} {
		count(class, "small", "POST /go"+path+" HTTP/1.1", []string{"Content-Length: 0"}, "")
	}
	if n := len(w.seenOf(t, rate)) - before; n > burst || n == 0 && before == 0 {
		over = append(over, fmt.Sprintf(saw+"%d requests of a tenant that may send %d", n, burst))
	}
	if n := len(w.seenOf(t, class)) - beforeClass; n > exports || n == 0 && beforeClass == 0 {
		over = append(over, fmt.Sprintf(saw+"%d exports of a tenant that may do %d", n, exports))
	}
	return over
}

// turnOffOthers turns off the defences of what is no table of requests.
func (w *world) turnOffOthers(t *testing.T, row func(class, name, defence, without string)) {
	w.switchOff(t, "limits")
	if over := w.overLimits(t); len(over) == 0 {
		t.Error("limits hold without limits")
	} else {
		row("limiter evasion", "spellings of one tenant's requests", defences["limits"].what, over[0])
	}
	w.switchOff(t, "audiences")
	problem := ""
	for _, typeURL := range typeURLs {
		got, bodies, err := w.ask(t, frontID, false, typeURL, nil, "gateway")
		if problems := foreignTo(got, bodies); err == nil && len(problems) > 0 {
			problem = problems[0]
			break
		}
	}
	if problem == "" {
		t.Error("nobody gets what is not its own, though all is pushed to everyone")
	}
	row("xDS clients", "front asks for everything", "each gets what is pushed to its own audiences", problem)
	evil, plain := w.escapes(t)
	if !strings.Contains(plain, evil) || strings.Contains(w.shown(t), "\x1b") {
		t.Errorf("the decision holds %q, and shows it", plain)
	}
	row("log injection", "escape codes in a token's subject", "the command line shows what a terminal would obey as text", fmt.Sprintf("it would print %q", plain))
}

// sidecars are all that run.
func (w *world) all() []*meshtest.Sidecar {
	list := []*meshtest.Sidecar{w.gateway}
	for _, s := range w.sidecars {
		list = append(list, s)
	}
	return list
}
