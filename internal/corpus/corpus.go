// Package corpus reads policy/testdata/corpus: cases of access policies and requests, for every test that judges them, by
// whatever does.
//
// A case is a txtar file. "policies.yaml" holds AccessPolicies, AccessGrants and Tenants, and "requests" a line a request:
//
//	<principal> <tenant> <method> <path> [<seen>] : <evaluator> <envoy>
//
// The principal is a path in the trust domain mesh.example, and the tenant "-" for none. The path is what a client sends (with "\x00"
// and the like as Go spells them), seen what Envoy makes of it where that is another one, without query. What Envoy rejects before
// anybody is asked has the seen path 400, and "- -" for verdicts; octets beyond ASCII it rejects in HTTP/1.1 and escapes in HTTP/2. A verdict is allow or refuse. All requests are to the workload back.
package corpus

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Names that all cases share.
const (
	TrustDomain = "mesh.example"
	Workload    = "back"
)

// Noon is when the requests are judged.
var Noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// Case is one file.
type Case struct {
	Name     string
	Policies []authz.Policy
	Plain    bool // no policy is about some tenants only, has a condition, or ends
	Requests []Request
}

// Request is one line.
type Request struct {
	Line      string
	Principal identity.Principal
	Tenant    authz.Tenant
	Method    string
	Path      string // as it is sent
	Seen      string // as it is judged; "" when Envoy rejects it

	Evaluator, Envoy bool // allowed
}

// Judge is what policy/authz says of a request by its path as Envoy shows it.
func (r *Request) Judge(set *authz.Set) bool {
	path, _ := authz.SplitPath(r.Seen)
	canonical, ok := authz.Canonical(path)
	if !ok {
		return false
	}
	_, allowed := set.Allowed(&authz.Request{
		Principal: r.Principal, Tenant: r.Tenant, Workload: Workload, Method: r.Method, Path: canonical, Now: Noon, Purpose: "asked",
	})
	return allowed
}

// Read reads the cases of a folder. One that is not well formed, or that says that Envoy refuses what the evaluator allows,
// fails the test.
func Read(t testing.TB, dir string) (cases []Case) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal(dir, files, err)
	}
	for _, file := range files {
		c, err := read(file)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		cases = append(cases, c)
	}
	return cases
}

func read(file string) (Case, error) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return Case{}, err
	}
	if len(archive.Files) != 2 {
		return Case{}, fmt.Errorf("it must hold policies.yaml and requests (got %d files)", len(archive.Files))
	}
	documents, err := tenantstore.DecodeYAML(file, bytes.NewReader(archive.Files[0].Data))
	if err != nil {
		return Case{}, err
	}
	objects, tenants := map[tenantstore.Key]*tenantstore.Object{}, map[string]authz.Tenant{"-": {}}
	for _, d := range documents {
		objects[d.Object.Key()] = d.Object
		if o := d.Object; o.Kind == tenantstore.KindTenant {
			id, err := identity.ParseTenantID(o.Metadata.Name)
			if err != nil {
				return Case{}, err
			}
			tenants[o.Metadata.Name] = authz.Tenant{ID: id, UID: "uid-of-" + o.Metadata.Name, Tier: o.Tenant.Tier, Residency: o.Tenant.Residency, Labels: o.Metadata.Labels}
		}
	}
	c := Case{Name: strings.TrimSuffix(filepath.Base(file), ".txtar"), Plain: true}
	for _, d := range documents {
		if p, ok := tenantstore.PolicyOf(objects, d.Object); ok {
			c.Policies = append(c.Policies, p)
			c.Plain = c.Plain && reflect.ValueOf(p.Spec.Tenants).IsZero() && p.Spec.When == "" && p.NotAfter.IsZero() && p.Canary == nil
		}
	}
	for line := range strings.Lines(string(archive.Files[1].Data)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		r, err := readRequest(line, tenants)
		if err != nil {
			return Case{}, fmt.Errorf("%s: %w", line, err)
		}
		if r.Evaluator != r.Envoy && (r.Evaluator || c.Plain) {
			return Case{}, fmt.Errorf("%s: Envoy may allow what the evaluator refuses, for some tenant's sake, and nothing else", line)
		}
		c.Requests = append(c.Requests, r)
	}
	return c, nil
}

func readRequest(line string, tenants map[string]authz.Tenant) (Request, error) {
	asked, verdicts, _ := strings.Cut(line, " : ")
	fields, judged := strings.Fields(asked), strings.Fields(verdicts)
	if len(fields) < 4 || len(fields) > 5 || len(judged) != 2 {
		return Request{}, fmt.Errorf("it must be <principal> <tenant> <method> <path> [<seen>] : <evaluator> <envoy>")
	}
	r := Request{Line: line, Method: fields[2]}
	var err error
	if r.Principal, err = identity.ParsePrincipal("spiffe://" + TrustDomain + "/" + fields[0]); err != nil {
		return r, err
	}
	tenant, ok := tenants[fields[1]]
	if !ok {
		return r, fmt.Errorf("there is no Tenant %s", fields[1])
	}
	r.Tenant = tenant
	if r.Path, err = strconv.Unquote(`"` + fields[3] + `"`); err != nil {
		return r, err
	}
	r.Seen, _ = authz.SplitPath(r.Path)
	if len(fields) == 5 {
		r.Seen = fields[4]
	}
	if r.Seen == "400" {
		r.Seen = ""
		if verdicts != "- -" {
			return r, fmt.Errorf("nobody judges what Envoy rejects")
		}
		return r, nil
	}
	verdict := map[string]bool{"allow": true, "refuse": false}
	for i, allowed := range []*bool{&r.Evaluator, &r.Envoy} {
		if *allowed, ok = verdict[judged[i]]; !ok {
			return r, fmt.Errorf("a verdict must be allow or refuse (got %q)", judged[i])
		}
	}
	return r, nil
}
