// Package matrix shows that calls of real services are never taken for another tenant's, whatever they are written in.
package matrix

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

var wanted = flag.Int("calls", 2500, "calls of each kind of service that are to be made")

const (
	tenants = 20
	flight  = 200 // requests at once
)

// objects are a mesh in which first calls second, and second calls last.
func objects() string {
	var b strings.Builder
	b.WriteString(`
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
`)
	for i := range tenants {
		fmt.Fprintf(&b, `---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: t%02d}
spec: {tier: gold, region: us, limits: {requestsPerSecond: -1, concurrency: -1}}
`, i)
	}
	for name, spec := range map[string]string{"first": "expose: [{pathPrefix: /}], dependsOn: [second],", "second": "dependsOn: [last],", "last": ""} {
		fmt.Fprintf(&b, `---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: %s}
spec: {%s admission: {mode: "off"}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: %[1]s}
spec: {effect: Permit, principals: ["spiffe://mesh.example/**"], targets: [{workload: %[1]s}]}
`, name, spec)
	}
	return b.String()
}

// total is what a service answers.
type total struct{ Proven, Refused, Wrong int64 }

// TestMatrix: through two services of each kind, with pooled connections, fan-out and work on the side, no call is taken for another tenant's, as
// the services that were called saw it; what cannot be proven is refused.
func TestMatrix(t *testing.T) {
	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "SERVICE\tREQUESTS\tCALLS\tPROVEN\tREFUSED\tWRONG\tHOW")
	for _, k := range kinds(t) {
		t.Run(k.name, func(t *testing.T) {
			if k.needs != nil {
				k.needs(t)
			}
			requests, sum, last, how := run(t, k)
			fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", k.name, requests, sum.Proven+sum.Refused, sum.Proven, sum.Refused, sum.Wrong+last, how)
			if k.mixes {
				if sum.Wrong+last == 0 {
					t.Error("a service that mixes requests up goes unnoticed: the table above says nothing")
				}
				return
			}
			if sum.Wrong+last > 0 {
				t.Errorf("%d calls were taken for another tenant's", sum.Wrong+last)
			}
			proven, refused := int64(0), int64(5*requests)
			if k.instrumented {
				proven, refused = int64(requests*(perRequest-1)), int64(requests)
			}
			if sum.Proven != proven || sum.Refused != refused {
				t.Errorf("%d calls went through and %d were refused, want %d and %d", sum.Proven, sum.Refused, proven, refused)
			}
		})
	}
	_ = tw.Flush()
	t.Logf("%d tenants, %d requests at once:\n%s", tenants, flight, table.String())
}

// run sends requests through two services of a kind. wrong is what the last service saw of another tenant; how is how calls were proven.
func run(t *testing.T, k kind) (requests int, sum total, wrong int64, how string) {
	m := meshtest.Start(t, objects())
	gateway := m.Gateway(t)
	var strange atomic.Int64
	m.Workload(t, "us-1", "last", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Tenant-Id") != r.URL.Query().Get("mark") {
			strange.Add(1)
		}
		fmt.Fprint(w, `{"proven": 0, "refused": 0, "wrong": 0}`)
	}))
	for name, environment := range map[string][]string{"second": {"NEXT=http://last", "TURNS=1"}, "first": append([]string{"NEXT=http://second"}, plan...)} {
		at := ""
		m.Executed(t, "us-1", name, func(port string) []string {
			at = "127.0.0.1:" + port
			return append(append([]string{"env"}, environment...), k.start(port)...)
		})
		listening(t, at)
	}
	tokens := make([]string, tenants)
	for i := range tokens {
		tokens[i] = m.Token(t, fmt.Sprintf("t%02d", i))
	}
	requests = max(flight, *wanted/perRequest)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: flight}, Timeout: time.Minute}
	var next atomic.Int64
	var mu sync.Mutex
	var failure error
	var group sync.WaitGroup
	for range flight {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(requests); i = next.Add(1) - 1 {
				answer, err := ask(client, gateway.URL, fmt.Sprintf("t%02d", i%tenants), tokens[i%tenants])
				mu.Lock()
				sum.Proven, sum.Refused, sum.Wrong = sum.Proven+answer.Proven, sum.Refused+answer.Refused, sum.Wrong+answer.Wrong
				if err != nil {
					failure = err
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if failure != nil {
		t.Fatal(failure)
	}
	return requests, sum, strange.Load(), proofs(t, m, sum.Proven+sum.Refused)
}

func ask(client *http.Client, gateway, tenant, token string) (answer total, err error) {
	request, err := http.NewRequest(http.MethodGet, gateway+"/work?mark="+tenant, nil)
	if err != nil {
		return answer, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return answer, fmt.Errorf("%s %s: %s", response.Status, response.Header.Get("X-Tenantmesh-Reason"), body)
	}
	return answer, json.NewDecoder(response.Body).Decode(&answer)
}

// proofs is how calls were proven, once sidecars have told of all of them.
func proofs(t *testing.T, m *meshtest.Mesh, calls int64) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(100 * time.Millisecond) {
		report, err := m.Admin.Coverage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		of, counted := map[string]int64{}, int64(0)
		for _, w := range report.Workloads {
			for proof, n := range w.Proofs {
				if !w.Inbound {
					of[proof] += n
					counted += n
				}
			}
		}
		if counted != calls && time.Now().Before(deadline) {
			continue
		}
		if counted != calls {
			t.Errorf("sidecars have counted %d calls of %d: %v", counted, calls, of)
		}
		delete(of, tenantstore.NoProof)
		return strings.Trim(strings.TrimPrefix(fmt.Sprint(of), "map"), "[]")
	}
}

func listening(t *testing.T, at string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", at); err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens on %s", at)
		}
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(m.Run())
}
