package feature

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const outside = objects + `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: reports}
spec: {dependsOn: [partner], boundTenant: acme}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: partner}
spec: {hosts: [127.0.0.1, 127.0.0.2], port: %[1]d}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: another}
spec: {hosts: [127.0.0.3], port: %[1]d}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: reports}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/reports"], targets: [{workload: back}]}
`

// sayWhere serves on one port of three addresses, and says which of them was called, as a Dependency's hosts would.
func sayWhere(t *testing.T) (port int) {
	t.Helper()
	for _, address := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", address, port))
		if err != nil {
			t.Fatal(err)
		}
		port = listener.Addr().(*net.TCPAddr).Port
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Txn-Token") != "" {
				t.Errorf("a tenant's context left the mesh, to %s", address)
			}
			_, _ = io.WriteString(w, address)
		})}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
	}
	return port
}

// TestDependency: each host of a Dependency is called as itself, and no other host is.
func TestDependency(t *testing.T) {
	port := sayWhere(t)
	mesh := meshtest.Start(t, fmt.Sprintf(outside, port))
	reports := mesh.Workload(t, "us-1", "reports", http.NotFoundHandler())
	proxy, err := url.Parse(reports.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}
	for range 5 {
		for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
			response := meshtest.Do(t, client, http.MethodGet, fmt.Sprintf("http://%s:%d/", host, port), nil, nil)
			if response.Status != 200 || response.Body != host {
				t.Errorf("a call to %s: %d %s %q", host, response.Status, response.Reason(), response.Body)
			}
		}
	}
	for _, host := range []string{"127.0.0.3", "127.0.0.4"} {
		response := meshtest.Do(t, client, http.MethodGet, fmt.Sprintf("http://%s:%d/", host, port), nil, nil)
		if response.Status != 403 || response.Reason() == "" {
			t.Errorf("a call to %s, which it does not depend on: %d %q", host, response.Status, response.Body)
		}
	}
}

// TestRefusedByEnvoy: of a push that Envoy refuses for one cluster, the others are served, and status names that one
// until it is mended.
func TestRefusedByEnvoy(t *testing.T) {
	port := sayWhere(t)
	mesh := meshtest.Start(t, fmt.Sprintf(outside, port))
	reports := mesh.Workload(t, "us-1", "reports", http.NotFoundHandler())
	proxy, err := url.Parse(reports.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}
	// What the admin API would refuse goes to the store around it: new is good, and bad has a port that there is not.
	write := func(badPort int) tenantstore.Revision {
		snapshot, err := mesh.Store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		workload := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindWorkload, Name: "reports"}].Clone()
		workload.Workload.DependsOn = []string{"partner", "bad", "new"}
		dependency := func(name, host string, port int) *tenantstore.Object {
			return &tenantstore.Object{
				APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindDependency, Metadata: tenantstore.Metadata{Name: name, UID: name},
				Dependency: &tenantstore.DependencySpec{Hosts: []string{host}, Port: port},
			}
		}
		revision, err := mesh.Store.Apply(t.Context(), tenantstore.Transaction{Expect: snapshot.Revision, Put: []*tenantstore.Object{
			workload, dependency("bad", "127.0.0.4", badPort), dependency("new", "127.0.0.3", port),
		}})
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	status, err := mesh.Admin.Status(t.Context(), write(70000), true, 30)
	if err != nil {
		t.Fatal(err)
	}
	if status.Refused != 1 || len(status.Members) != 1 || len(status.Members[0].Refused) != 1 || status.Members[0].Refused[0].Name != "dependency/bad/127.0.0.4" {
		t.Errorf("the status is %+v", status)
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.3"} {
		response := meshtest.Do(t, client, http.MethodGet, fmt.Sprintf("http://%s:%d/", host, port), nil, nil)
		if response.Status != 200 || response.Body != host {
			t.Errorf("a call to %s: %d %s %q", host, response.Status, response.Reason(), response.Body)
		}
	}
	mesh.Enforced(t, write(port))
}
