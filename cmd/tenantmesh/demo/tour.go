package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// call is one request to the gateway.
type call struct {
	method string // default GET
	path   string
	tenant string // "" sends no token
	token  Token  // over tenant, when its Tenant is set
	header map[string]string
	body   string // JSON
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) reason() string { return r.header.Get("x-tenantmesh-reason") }

func (d *demo) request(ctx context.Context, c call) (response, error) {
	if c.method == "" {
		c.method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(ctx, c.method, d.gateway()+c.path, strings.NewReader(c.body))
	if err != nil {
		return response{}, err
	}
	if c.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range c.header {
		request.Header.Set(name, value)
	}
	token := c.token
	if c.tenant != "" {
		token = Token{Tenant: c.tenant, Subject: "alice", TTL: time.Hour}
	}
	if token.Tenant != "" {
		text, err := SignToken(d.Data, token)
		if err != nil {
			return response{}, err
		}
		request.Header.Set("Authorization", "Bearer "+text)
	}
	answer, err := d.http.Do(request)
	if err != nil {
		return response{}, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return response{answer.StatusCode, answer.Header, string(body)}, err
}

// step is one thing that the tour shows; show returns what a person should read.
type step struct {
	name string
	show func(ctx context.Context) (string, error)
}

// stepTime bounds one step.
const stepTime = 60 * time.Second

func (d *demo) steps() []step {
	steps := []step{
		{"a proven request, and what the service saw", d.showProven},
		{"no token", d.refused(call{path: "/documents"})},
		{"an expired token", d.refused(call{path: "/documents", token: Token{Tenant: "acme", TTL: -time.Hour}})},
		{"a token of a foreign issuer", d.refused(call{path: "/documents", token: Token{Tenant: "acme", TTL: time.Hour, Issuer: "https://evil.example"}})},
		{"a token for a tenant that its issuer may not speak for", d.refused(call{path: "/documents", tenant: "umbrella"})},
		{"forged headers are powerless", d.showForged},
		{"initech is served in eu-1 only", d.showResidency},
		{"hooli, platinum, is placed in a cell of its own", d.showDedicated},
		{"documents -> search carries the tenant", d.showPropagation},
		{"every call so far had a proven tenant", d.showCoverage},
		{"globex bursts, acme does not feel it", d.showLimit},
		{"a workload without a permit is refused, and explain says why", d.showExplain},
		{"who may act for acme at search, and by which rule", d.showWhoCan},
		{"a change of policy, as its reviewer sees it", d.showDiff},
		{"a grant is asked for by one, approved by another, and used with a reason", d.showGrant},
		{"a changed limit is in force", d.showChange},
		{"a suspended tenant is refused within a second", d.showSuspension},
		{"acme moves from us-1 to us-2 under a load of writes", d.showMove},
		{"the control plane is killed, everyone is still served", d.showOutage},
		{"a whole cell restarts without it", d.showCellRestart},
		{"it comes back, and changes flow again", d.showReturn},
	}
	if d.network != nil {
		steps = slices.Insert(steps, 0, step{"services that know of nothing, and nobody gets past their sidecars", d.showHosts})
	}
	return steps
}

// tour walks through the steps and prints a line each.
func (d *demo) tour(ctx context.Context) error {
	failed := 0
	steps := d.steps()
	for i, s := range steps {
		one, cancel := context.WithTimeout(ctx, stepTime)
		text, err := s.show(one)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		mark := "ok  "
		if err != nil {
			failed++
			mark, text = "FAIL", err.Error()
		}
		d.progress("%s %2d/%d %s: %s", mark, i+1, len(steps), s.name, text)
	}
	if failed > 0 {
		return command.Fail(command.Findings, "the logs are in "+d.path("log"), "%d of %d steps failed", failed, len(steps))
	}
	d.progress("all %d steps passed", len(steps))
	return nil
}

// refused sends a request that proves no tenant.
func (d *demo) refused(c call) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		r, err := d.request(ctx, c)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d %s", r.status, r.reason()), expect(r, 401, "unauthenticated_tenant")
	}
}

func expect(r response, status int, reason string) error {
	if r.status != status || r.reason() != reason {
		return fmt.Errorf("got %d %q, want %d %q: %.200s", r.status, r.reason(), status, reason, r.body)
	}
	if reason != "" && r.header.Get("x-tenantmesh-decision") == "" {
		return errors.New("the refusal has no decision ID")
	}
	return nil
}

// seen asks a service which headers it got, in lower case.
func (d *demo) seen(ctx context.Context, c call) (map[string]string, error) {
	r, err := d.request(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := expect(r, 200, ""); err != nil {
		return nil, err
	}
	var body struct {
		Headers map[string]any `json:"headers"`
	}
	flat := map[string]any{}
	if err := json.Unmarshal([]byte(r.body), &body); err == nil && body.Headers != nil {
		flat = body.Headers
	} else if err := json.Unmarshal([]byte(r.body), &flat); err != nil {
		return nil, err
	}
	headers := map[string]string{}
	for name, value := range flat {
		headers[strings.ToLower(name)] = fmt.Sprint(value)
	}
	return headers, nil
}

func (d *demo) showProven(ctx context.Context) (string, error) {
	with, err := d.seen(ctx, call{path: "/httpbin/headers", tenant: "acme"})
	if err != nil {
		return "", err
	}
	without, err := d.seen(ctx, call{path: "/search/debug", tenant: "acme"})
	if err != nil {
		return "", err
	}
	switch {
	case with["x-tenant-id"] != "acme" || with["x-tenant-tier"] != "gold":
		return "", fmt.Errorf("httpbin saw tenant %q of tier %q", with["x-tenant-id"], with["x-tenant-tier"])
	case with["txn-token"] == "":
		return "", errors.New("httpbin, with deliverContext, saw no Txn-Token")
	case without["txn-token"] != "":
		return "", errors.New("search, without deliverContext, saw a Txn-Token")
	case with["authorization"] != "" || with["x-tenantmesh-cell"] != "":
		return "", errors.New("httpbin saw Authorization or x-tenantmesh-cell")
	}
	return fmt.Sprintf("x-tenant-id: %s, x-tenant-tier: %s, a Txn-Token of %d bytes; search got none", with["x-tenant-id"], with["x-tenant-tier"], len(with["txn-token"])), nil
}

func (d *demo) showForged(ctx context.Context) (string, error) {
	forged := map[string]string{"x-tenant-id": "globex", "Txn-Token": "forged", "x-tenantmesh-cell": "eu-1", "x-tenant-tier": "platinum", "x-tenantmesh-lease": "forged"}
	headers, err := d.seen(ctx, call{path: "/httpbin/headers", tenant: "acme", header: forged})
	if err != nil {
		return "", err
	}
	if headers["x-tenant-id"] != "acme" || headers["x-tenant-tier"] != "gold" || headers["txn-token"] == "forged" || headers["x-tenantmesh-lease"] == "forged" {
		return "", fmt.Errorf("the service saw %v", headers)
	}
	r, err := d.request(ctx, call{path: "/documents", header: forged})
	if err != nil {
		return "", err
	}
	return "with a token the service saw acme; without one 401", expect(r, 401, "unauthenticated_tenant")
}

// served is how many requests of a tenant the services of a cell let in, from the metrics of their sidecars.
func (d *demo) served(cell, tier string) (int, error) {
	sum := 0
	for _, p := range d.processes.running() {
		if p.Role != "sidecar" || p.Cell != cell {
			continue
		}
		answer, err := d.http.Get(p.Metrics)
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			return 0, err
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if value, ok := strings.CutPrefix(line, `tenantmesh_decisions_total{point="inbound",reason="",tier="`+tier+`"} `); ok {
				n, _ := strconv.ParseFloat(value, 64)
				sum += int(n)
			}
		}
	}
	return sum, nil
}

func (d *demo) showResidency(ctx context.Context) (string, error) {
	const n = 5
	before, err := d.served("eu-1", "silver")
	if err != nil {
		return "", err
	}
	for range n {
		r, err := d.request(ctx, call{path: "/httpbin/get", tenant: "initech"})
		if err != nil {
			return "", err
		}
		if err := expect(r, 200, ""); err != nil {
			return "", err
		}
	}
	after, err := d.served("eu-1", "silver")
	if err != nil {
		return "", err
	}
	elsewhere, err := d.served("us-1", "silver")
	if err != nil {
		return "", err
	}
	if after-before != n || elsewhere != 0 {
		return "", fmt.Errorf("%d of %d requests reached eu-1, and %d us-1", after-before, n, elsewhere)
	}
	return fmt.Sprintf("%d of %d requests reached eu-1, none us-1", after-before, n), nil
}

func (d *demo) showPropagation(ctx context.Context) (string, error) {
	headers, err := d.seen(ctx, call{path: "/documents/debug/search", tenant: "acme"})
	if err != nil {
		return "", err
	}
	if headers["x-tenant-id"] != "acme" {
		return "", fmt.Errorf("search saw tenant %q", headers["x-tenant-id"])
	}
	return "search, called by documents, saw x-tenant-id: acme", nil
}

// showCoverage waits until sidecars have told of the calls before, and of all of them.
func (d *demo) showCoverage(ctx context.Context) (string, error) {
	for {
		report, err := d.admin.Coverage(ctx)
		if err != nil {
			return "", err
		}
		var parts []string
		for _, w := range report.Workloads {
			if w.Proven < 1 {
				return "", fmt.Errorf("of the calls of or to %s the share %v is proven: %+v", w.Workload, w.Proven, report.Calls)
			}
			if !w.Inbound {
				parts = append(parts, fmt.Sprintf("%s: %d by %s", w.Workload, w.Requests, strings.Join(slices.Sorted(maps.Keys(w.Proofs)), ", ")))
			}
		}
		if len(parts) > 0 {
			return "100% of the calls of " + strings.Join(parts, "; ") + " (tenantmesh coverage)", nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (d *demo) showLimit(ctx context.Context) (string, error) {
	const n = 60
	var limited, acme atomic.Int64
	var headers atomic.Pointer[http.Header]
	var failure atomic.Pointer[error]
	var wg sync.WaitGroup
	for _, tenant := range []string{"globex", "acme"} {
		for range 4 {
			wg.Go(func() {
				for range n / 4 {
					r, err := d.request(ctx, call{path: "/httpbin/get", tenant: tenant})
					switch {
					case err != nil:
						failure.Store(&err)
						return
					case r.status == 200:
					case tenant == "acme":
						acme.Add(1)
					case r.status == 429:
						limited.Add(1)
						headers.Store(&r.header)
					default:
						err := fmt.Errorf("globex got %d %s", r.status, r.reason())
						failure.Store(&err)
					}
				}
			})
		}
	}
	wg.Wait()
	if err := failure.Load(); err != nil {
		return "", *err
	}
	h := headers.Load()
	switch {
	case h == nil:
		return "", fmt.Errorf("globex sent %d requests at once, and none was limited", n)
	case acme.Load() > 0:
		return "", fmt.Errorf("%d of acme's requests were refused", acme.Load())
	case h.Get("Retry-After") == "" || h.Get("RateLimit") == "" || h.Get("RateLimit-Policy") == "":
		return "", fmt.Errorf("the 429 has Retry-After %q, RateLimit %q, RateLimit-Policy %q", h.Get("Retry-After"), h.Get("RateLimit"), h.Get("RateLimit-Policy"))
	}
	return fmt.Sprintf("globex got %d x 429 of %d (Retry-After: %s, RateLimit: %s), acme none", limited.Load(), n, h.Get("Retry-After"), h.Get("RateLimit")), nil
}

func (d *demo) showExplain(ctx context.Context) (string, error) {
	r, err := d.request(ctx, call{path: "/documents/debug/httpbin", tenant: "acme"})
	if err != nil {
		return "", err
	}
	if err := expect(r, 403, "denied_by_policy"); err != nil {
		return "", err
	}
	decision, err := d.admin.Explain(ctx, r.header.Get("x-tenantmesh-decision"))
	if err != nil {
		return "", err
	}
	if decision.Tenant != "acme" || !strings.HasSuffix(decision.Principal, "/workload/documents") || len(decision.Rules) == 0 {
		return "", fmt.Errorf("explain says %+v", decision)
	}
	return fmt.Sprintf("%s asked %s for %s: %s", decision.Principal, decision.Workload, decision.Tenant, decision.Detail), nil
}

// tenant writes a tenant changed, and waits until every sidecar enforces it.
func (d *demo) tenant(ctx context.Context, name string, change func(*tenantstore.TenantSpec)) (string, error) {
	kind, err := tenantstore.ParseKind("tenants")
	if err != nil {
		return "", err
	}
	object, err := d.admin.Get(ctx, kind, name)
	if err != nil {
		return "", err
	}
	object.Status = tenantstore.Status{}
	change(object.Tenant)
	applied, err := d.admin.Apply(ctx, []*tenantstore.Object{object}, false)
	if err != nil {
		return "", err
	}
	status, err := d.admin.Status(ctx, applied.Revision, true, 20)
	if err != nil {
		return "", err
	}
	if !status.Done() {
		return "", fmt.Errorf("revision %d is enforced by %d of %d sidecars", status.Revision, status.Enforced, status.Total)
	}
	return fmt.Sprintf("revision %d: enforced by %d of %d sidecars", status.Revision, status.Enforced, status.Total), nil
}

func (d *demo) showChange(ctx context.Context) (string, error) {
	text, err := d.tenant(ctx, "acme", func(t *tenantstore.TenantSpec) { t.Limits.RequestsPerSecond, t.Limits.Burst = 1, 1 })
	if err != nil {
		return "", err
	}
	limited := false
	for range 5 {
		r, err := d.request(ctx, call{path: "/httpbin/get", tenant: "acme"})
		if err != nil {
			return "", err
		}
		limited = limited || r.status == 429
	}
	if !limited {
		return "", errors.New("five requests at once passed a burst of 1")
	}
	_, err = d.tenant(ctx, "acme", func(t *tenantstore.TenantSpec) { t.Limits.RequestsPerSecond, t.Limits.Burst = 0, 0 })
	return text + "; acme got 429 at once", err
}

func (d *demo) showSuspension(ctx context.Context) (string, error) {
	began := time.Now()
	if _, err := d.tenant(ctx, "globex", func(t *tenantstore.TenantSpec) { t.Suspended = true }); err != nil {
		return "", err
	}
	r, err := d.request(ctx, call{path: "/httpbin/get", tenant: "globex"})
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	if err := expect(r, 403, "tenant_suspended"); err != nil {
		return "", err
	}
	if took > time.Second {
		return "", fmt.Errorf("it took %v", took)
	}
	return fmt.Sprintf("403 tenant_suspended %v after the command", took.Round(time.Millisecond)), nil
}

// servedAll sends one request for each tenant that is not suspended, to each service.
func (d *demo) servedAll(ctx context.Context) (int, error) {
	n := 0
	for _, tenant := range []string{"acme", "initech", "hooli"} {
		for _, path := range []string{"/documents/find?q=road", "/search?q=road", "/httpbin/get"} {
			r, err := d.request(ctx, call{path: path, tenant: tenant})
			if err != nil {
				return n, err
			}
			if err := expect(r, 200, ""); err != nil {
				return n, fmt.Errorf("%s %s: %w", tenant, path, err)
			}
			n++
		}
	}
	return n, nil
}

func (d *demo) showOutage(ctx context.Context) (string, error) {
	control, err := d.processes.Find("control")
	if err != nil {
		return "", err
	}
	d.processes.Kill(control)
	// Long enough for every stream to have broken.
	select {
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
	}
	n, err := d.servedAll(ctx)
	return fmt.Sprintf("%d of 9 requests were served without it", n), err
}

func (d *demo) showReturn(ctx context.Context) (string, error) {
	if err := d.startControl(ctx); err != nil {
		return "", err
	}
	sidecars := 1 // the gateway
	for _, cell := range cells {
		sidecars += len(servicesIn(cell))
	}
	if err := until(ctx, "every sidecar", func() error {
		status, err := d.admin.Status(ctx, 0, false, 1)
		if err == nil && status.Total != sidecars {
			err = fmt.Errorf("%d of %d are back", status.Total, sidecars)
		}
		return err
	}); err != nil {
		return "", err
	}
	text, err := d.tenant(ctx, "globex", func(t *tenantstore.TenantSpec) { t.Suspended = false })
	if err != nil {
		return "", err
	}
	// Its bucket refills at its own pace: one request is there by now.
	r, err := d.request(ctx, call{path: "/httpbin/get", tenant: "globex"})
	if err != nil {
		return "", err
	}
	if err := expect(r, 200, ""); err != nil {
		return "", err
	}
	if _, err := d.servedAll(ctx); err != nil {
		return "", err
	}
	return text + "; globex is served again", nil
}
