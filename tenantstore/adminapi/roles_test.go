package adminapi_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// people are those who call, by what they are.
var people = map[string]string{
	"operator": "person/olga", "auditor": "person/ada", "sidecar": "cell/us-1/workload/front",
	"team": "team/front/tom", "admin": "tenant/acme/amy", "both": "both/bea", "nobody": "person/noel",
}

// desk is the API over mTLS, with a client for each of the people.
type desk struct {
	*server
	address string
	clients map[string]*http.Client
}

func patternOf(t *testing.T, path string) identity.Pattern {
	t.Helper()
	p, err := identity.ParsePattern("spiffe://mesh.example/" + path)
	check(t, err)
	return p
}

const objects = `[{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Cell","metadata":{"name":"us-1"},"spec":{"region":"us"}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Tenant","metadata":{"name":"acme"},"spec":{"tier":"gold","region":"us"}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Tenant","metadata":{"name":"globex"},"spec":{"tier":"gold","region":"us"}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Workload","metadata":{"name":"front"},"spec":{}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"Workload","metadata":{"name":"back"},"spec":{}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"of-front"},"spec":{"effect":"Permit","principals":["spiffe://mesh.example/x"],"targets":[{"workload":"front"}]}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"of-acme"},"spec":{"effect":"Permit","principals":["spiffe://mesh.example/x"],"tenants":{"names":["acme"]},"targets":[{"workload":"back"}]}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"of-globex"},"spec":{"effect":"Permit","principals":["spiffe://mesh.example/x"],"tenants":{"names":["globex"]},"targets":[{"workload":"back"}]}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"RoleBinding","metadata":{"name":"team"},"spec":{"role":"AppTeam","principals":["spiffe://mesh.example/team/front/*","spiffe://mesh.example/both/*"],"workloads":["front"]}},
{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"RoleBinding","metadata":{"name":"admin"},"spec":{"role":"TenantAdmin","principals":["spiffe://mesh.example/tenant/acme/*","spiffe://mesh.example/both/*"],"tenants":["acme"]}}]`

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{server: newServer(t), clients: map[string]*http.Client{}}
	d.do(200, "POST", base+"/apply", objects)
	dir, authority := t.TempDir(), []byte(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, len(people))
	t.Cleanup(func() {
		cancel()
		for range people {
			check(t, <-done)
		}
	})
	var serving *svid.Source
	for who, path := range people {
		socket, data, id := filepath.Join(dir, who), filepath.Join(dir, who+"-data"), "spiffe://mesh.example/"+path
		if authority != nil { // all of one authority, each at a socket of its own
			check(t, os.Mkdir(data, 0o700))
			check(t, os.WriteFile(filepath.Join(data, "ca.pem"), authority, 0o600))
		}
		ready := make(chan struct{})
		go func() {
			done <- devca.Run(ctx, devca.Config{Socket: socket, DataDir: data, TrustDomain: "mesh.example", Log: zap.NewNop()}, func() { close(ready) })
		}()
		<-ready
		var err error
		authority, err = os.ReadFile(filepath.Join(data, "ca.pem"))
		check(t, err)
		self, err := identity.ParsePrincipal(id)
		check(t, err)
		check(t, devca.NewClient(socket).Register(t.Context(), devca.Registration{ID: self, PID: os.Getpid(), UID: os.Getuid()}))
		source, err := svid.Open(t.Context(), "unix://"+socket)
		check(t, err)
		t.Cleanup(func() { source.Close() })
		serving = source
		d.clients[who] = &http.Client{Transport: &http.Transport{TLSClientConfig: svid.ClientTLS(source, svid.AuthorizeTrustDomain("mesh.example"))}}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	roles := adminapi.Roles{
		adminapi.Operator: {patternOf(t, people["operator"])}, adminapi.Auditor: {patternOf(t, people["auditor"])}, adminapi.Sidecar: {patternOf(t, "cell/*/workload/*")},
	}
	web := &http.Server{Handler: adminapi.Authenticated(roles, d.handler), TLSConfig: svid.ServerTLS(serving, svid.AuthorizeTrustDomain("mesh.example")), ReadHeaderTimeout: time.Second}
	go func() { _ = web.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = web.Close() })
	d.address = "https://" + listener.Addr().String()
	return d
}

// as sends a request as one of the people, and returns the status with the body.
func (d *desk) as(who, method, path, body string) (int, string) {
	d.t.Helper()
	request, err := http.NewRequestWithContext(d.t.Context(), method, d.address+path, strings.NewReader(body))
	check(d.t, err)
	response, err := d.clients[who].Do(request)
	check(d.t, err)
	defer response.Body.Close()
	text := make([]byte, 64<<10)
	n, _ := response.Body.Read(text) // of a watch, what comes first
	return response.StatusCode, string(text[:n])
}

// TestEveryOperation: each operation that the API has, by each role. One that is new is for operators, and for auditors if it reads, until it
// has its row here.
func TestEveryOperation(t *testing.T) {
	d := newDesk(t)
	of := adminapi.Base
	open := map[string]string{ // beside operators and auditors
		"GET " + adminapi.SidecarResources: "sidecar", "GET /tenants/{name}/config": "admin both", "GET /usage": "admin both",
		"GET /decisions/{id}": "team admin both", "GET /roles": "team admin both", "GET /status": "team admin both", "POST " + of + "/apply": "team admin both",
		"GET " + of + "/workloads": "team both", "GET " + of + "/workloads/{name}": "team both", "GET " + of + "/tenants": "admin both", "GET " + of + "/tenants/{name}": "admin both",
	}
	for _, kind := range []string{"accesspolicies", "accessgrants"} {
		open["GET "+of+"/"+kind] = "team admin both"
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			open[method+" "+of+"/"+kind+"/{name}"] = "team admin both"
		}
	}
	var document struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	_, text := d.do(200, "GET", "http://control/openapi.json", "")
	check(t, json.Unmarshal([]byte(text), &document))
	operations := []string{"GET " + of + "/watch", "GET /openapi.json", "GET /openapi.yaml", "GET /openapi-3.0.json", "GET /openapi-3.0.yaml", "GET /schemas/{name}", "GET /nothing", "POST /nothing", "PATCH " + of + "/tenants/{name}"}
	for path, methods := range document.Paths {
		for method := range methods {
			operations = append(operations, strings.ToUpper(method)+" "+path)
		}
	}
	for operation := range open {
		if !slices.Contains(operations, operation) {
			t.Errorf("there is no %s", operation)
		}
	}
	for _, operation := range operations {
		method, path, _ := strings.Cut(operation, " ")
		path = strings.NewReplacer("{name}", "ghost", "{id}", "ghost", "{schema}", "Ghost").Replace(path)
		for who := range people {
			may := who == "operator" || who == "auditor" && method == "GET" || slices.Contains(strings.Fields(open[operation]), who)
			status, text := d.as(who, method, path, "[")
			if refused := status == 403 && strings.Contains(text, "this caller's role may not do this"); refused == may {
				t.Errorf("%s: %s: %d %s, may it: %v", operation, who, status, text, may)
			}
		}
	}
	if len(operations) < 60 {
		t.Errorf("there are only %d operations: %q", len(operations), operations)
	}
	// The same by other spellings of a path: none is a way around.
	for _, path := range []string{of + "//tenants", of + "/./tenants", of + "/tenants/", "/tenants/acme%2Fconfig", of + "/watch/../accesspolicies", of + "/accesspolicies/../tenants"} {
		for _, who := range []string{"team", "nobody"} {
			if status, text := d.as(who, "GET", path, ""); status == 200 && strings.Contains(text, "globex") {
				t.Errorf("GET %s as %s: %d %s", path, who, status, text)
			}
		}
	}
}

// TestOnlyOnesOwn: who is confined to a scope reads and writes what is in it, and is told of nothing else.
func TestOnlyOnesOwn(t *testing.T) {
	d := newDesk(t)
	of := adminapi.Base
	named := func(text string) (names []string) {
		var list adminapi.List
		check(t, json.Unmarshal([]byte(text), &list))
		for _, o := range list.Items {
			names = append(names, o.Metadata.Name)
		}
		return names
	}
	for _, test := range []struct {
		who, path string
		want      []string
	}{
		{"team", "/accesspolicies", []string{"of-front"}}, {"admin", "/accesspolicies", []string{"of-acme"}}, {"both", "/accesspolicies", []string{"of-acme", "of-front"}},
		{"auditor", "/accesspolicies", []string{"of-acme", "of-front", "of-globex"}}, {"team", "/workloads", []string{"front"}}, {"admin", "/tenants", []string{"acme"}},
		{"team", "/accessgrants", nil}, {"auditor", "/tenants", []string{"acme", "globex"}},
	} {
		if status, text := d.as(test.who, "GET", of+test.path, ""); status != 200 || !slices.Equal(named(text), test.want) {
			t.Errorf("%s: GET %s: %d %s, want %q", test.who, test.path, status, text, test.want)
		}
	}
	minute := time.Now().UTC().Truncate(time.Minute)
	snapshot, err := d.store.Snapshot(t.Context())
	check(t, err)
	uid := func(name string) string {
		return snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}].Metadata.UID
	}
	check(t, d.usage.Append("m", 1, []ledger.UsageRecord{
		{Minute: minute, Tenant: "acme", TenantUID: uid("acme"), Requests: 3}, {Minute: minute, Tenant: "acme", TenantUID: "of-the-one-before", Requests: 5}, {Minute: minute, Tenant: "globex", TenantUID: uid("globex"), Requests: 7},
	}))
	for _, query := range []string{"", "?tenant=acme", "?tenant=globex"} {
		_, text := d.as("admin", "GET", "/usage"+query, "")
		var records []ledger.UsageRecord
		check(t, json.Unmarshal([]byte(text), &records))
		if want := query != "?tenant=globex"; len(records) != map[bool]int{true: 1}[want] || want && records[0].Requests != 3 {
			t.Errorf("usage%s is %s", query, text)
		}
	}
	d.decisions = map[string]policy.Decision{
		"acme": {Tenant: "acme", TenantUID: uid("acme"), Workload: "back", Rules: []policy.RuleResult{{Rule: "of-globex"}, {Rule: "of-acme"}, {Rule: "else", Matched: true}}},
		"old":  {Tenant: "acme", TenantUID: "of-the-one-before", Workload: "back"}, "globex": {Tenant: "globex", TenantUID: uid("globex"), Workload: "front"}, "neither": {Workload: "back"},
	}
	for id, may := range map[string]string{"acme": "admin both", "old": "", "globex": "team both", "neither": ""} {
		for _, who := range []string{"team", "admin", "both"} {
			status, text := d.as(who, "GET", "/decisions/"+id, "")
			if (status == 200) != slices.Contains(strings.Fields(may), who) || strings.Contains(text, "of-globex") || status == 200 && id == "acme" && (!strings.Contains(text, "of-acme") || !strings.Contains(text, "else")) {
				t.Errorf("%s: decision %s: %d %s", who, id, status, text)
			}
		}
	}
	for _, test := range []struct {
		who, method, path, body string
		status                  int
		want                    string
	}{
		{"team", "GET", "/accesspolicies/of-acme", "", 404, ""},
		{"admin", "GET", "/tenants/globex", "", 404, ""},
		{"team", "DELETE", "/accesspolicies/of-acme", "", 403, "metadata.name"},
		{"team", "PUT", "/accesspolicies/of-acme", policyOf("of-acme", `"targets":[{"workload":"front"}]`), 403, "must be of an object of yours"},
		{"team", "PUT", "/accesspolicies/mine", policyOf("mine", `"targets":[{"workload":"*"}]`), 403, `"location":"spec.targets[0].workload"`},
		{"team", "PUT", "/accesspolicies/mine?dryRun=true", policyOf("mine", `"targets":[{"workload":"back"}]`), 403, "must be a workload of your team: front"},
		{"team", "PUT", "/accesspolicies/mine", policyOf("mine", `"targets":[{"workload":"front"}]`), 200, `"mine"`},
		{"admin", "PUT", "/accesspolicies/mine", policyOf("mine", `"tenants":{"names":["acme"]},"targets":[{"workload":"front"}]`), 403, "must be of an object of yours"},
		{"admin", "POST", "/apply", "[" + policyOf("a", `"tenants":{"names":["acme"]},"targets":[{"workload":"*"}]`) + "," + policyOf("b", `"tenants":{"own":true},"targets":[{"workload":"*"}]`) + "]", 403, `"value":"AccessPolicy/b"`},
		{"admin", "POST", "/apply", "[" + policyOf("a", `"tenants":{"names":["acme"]},"targets":[{"workload":"*"}]`) + "]", 200, "create"},
		{"both", "POST", "/apply", objects, 403, "must be AccessPolicy or AccessGrant"},
		{"team", "DELETE", "/accesspolicies/mine", "", 200, ""},
	} {
		if status, text := d.as(test.who, test.method, of+test.path, test.body); status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("%s: %s %s: %d %s, want %d with %q", test.who, test.method, test.path, status, text, test.status, test.want)
		}
	}
	_, text := d.as("auditor", "GET", "/audit", "")
	if !strings.Contains(text, `"actor":"spiffe://mesh.example/team/front/tom","action":"delete","object":"AccessPolicy/mine"`) {
		t.Errorf("the audit is %s", text)
	}
	for who, sees := range map[string]bool{"team": false, "admin": false, "auditor": true} {
		if status, text := d.as(who, "GET", "/status", ""); status != 200 || !strings.Contains(text, `"total":0`) || strings.Contains(text, "globex") != sees {
			t.Errorf("%s: the status is %d %s", who, status, text)
		}
	}
	var holders []adminapi.RoleHolder
	for who, want := range map[string][]string{"team": {"RoleBinding/team"}, "both": {"RoleBinding/admin", "RoleBinding/team"}, "auditor": {"socket", "RoleBinding/admin", "RoleBinding/team"}} {
		_, text := d.as(who, "GET", "/roles", "")
		check(t, json.Unmarshal([]byte(text), &holders))
		var by []string
		for _, h := range holders {
			by = append(by, h.By)
		}
		if !slices.Equal(by, want) {
			t.Errorf("%s: the roles are %s", who, text)
		}
	}
	// Who is bound no more is nobody.
	d.do(200, "DELETE", base+"/rolebindings/team", "")
	if status, _ := d.as("team", "GET", of+"/accesspolicies", ""); status != 403 {
		t.Errorf("without its binding the team is answered %d", status)
	}
}

func policyOf(name, spec string) string {
	return `{"apiVersion":"tenantmesh.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"` + name + `"},"spec":{"effect":"Permit","principals":["spiffe://mesh.example/x"],` + spec + `}}`
}
