package feature

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const otherDomain = "other.example"

const federatedObjects = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: open}
spec: {tenancy: untenanted, callers: ["spiffe://other.example/app", "spiffe://third.example/app"]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: others}
spec: {effect: Permit, principals: ["spiffe://other.example/*", "spiffe://mesh.example/**"], targets: [{workload: open, paths: ["/allowed"]}]}
`

// authority signs whatever it is asked to.
type authority struct {
	key  any
	cert *x509.Certificate
}

func authorityOf(t *testing.T, folder string) authority {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, rest := pem.Decode(text)
	cert, _ := pem.Decode(rest)
	a := authority{}
	if a.key, err = x509.ParsePKCS8PrivateKey(key.Bytes); err == nil {
		a.cert, err = x509.ParseCertificate(cert.Bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue signs an SVID, of whatever trust domain.
func (a authority) issue(t *testing.T, id string) tls.Certificate {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, URIs: []*url.URL{uri},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestFederation: a caller of another trust domain comes in by an SVID that its own domain's authority signed, where a Workload
// names it and a policy permits it; nobody's authority signs for another's domain, at an Envoy or at a Go peer.
func TestFederation(t *testing.T) {
	ports, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := fmt.Sprint("127.0.0.1:", ports[0])
	folder := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- devca.Run(ctx, devca.Config{Socket: filepath.Join(folder, "s"), DataDir: folder, TrustDomain: otherDomain, BundleEndpoint: endpoint, Log: zap.NewNop()}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	m := meshtest.Start(t, objects+federatedObjects, meshtest.Federate(devca.Federation{
		TrustDomain: otherDomain, URL: "https://" + endpoint, EndpointID: "spiffe://" + otherDomain + devca.EndpointPath, Bundle: filepath.Join(folder, devca.BundleFile),
	}))
	open := m.Workload(t, "us-1", "open", http.HandlerFunc(tell))
	ours, theirs := authorityOf(t, m.CAFolder()), authorityOf(t, folder)
	call := func(by tls.Certificate, path string, header http.Header) (meshtest.Response, error) {
		client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{by}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, // who serves is not the question
		}}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(open.URL, "http://", "https://", 1)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header = header
		response, err := client.Do(request)
		if err != nil {
			return meshtest.Response{}, err
		}
		return meshtest.Response{Status: response.StatusCode, Header: response.Header}, response.Body.Close()
	}
	app := "spiffe://" + otherDomain + "/app"
	for _, test := range []struct {
		name   string
		by     tls.Certificate
		path   string
		header http.Header
		status int // 0: no connection
		reason string
	}{
		{"the caller that is named", theirs.issue(t, app), "/allowed", nil, 200, ""},
		{"it, where no policy permits it", theirs.issue(t, app), "/other", nil, 403, "denied_by_policy"},
		{"it, with a context", theirs.issue(t, app), "/allowed", http.Header{"Txn-Token": {"x"}}, 403, "context_foreign"},
		{"another of its domain", theirs.issue(t, app+"2"), "/allowed", nil, 0, ""},
		{"its ID, signed by our authority", ours.issue(t, app), "/allowed", nil, 0, ""},
		{"a gateway of ours, signed by their authority", theirs.issue(t, "spiffe://mesh.example/gateway/edge"), "/allowed", nil, 0, ""},
		{"a longer domain of that beginning", theirs.issue(t, "spiffe://other.example.evil/app"), "/allowed", nil, 0, ""},
		{"a caller whose domain's bundle is not there", theirs.issue(t, "spiffe://third.example/app"), "/allowed", nil, 0, ""},
	} {
		got, err := call(test.by, test.path, test.header)
		if got.Status != test.status || got.Reason() != test.reason || (err != nil) != (test.status == 0) {
			t.Errorf("%s: %d %q, %v; want %d %q", test.name, got.Status, got.Reason(), err, test.status, test.reason)
		}
	}
	bundles := x509bundle.NewSet()
	for name, a := range map[string]authority{meshtest.TrustDomain: ours, otherDomain: theirs} {
		bundles.Add(x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(name), []*x509.Certificate{a.cert}))
	}
	for name, test := range map[string]struct {
		by   tls.Certificate
		good bool
	}{"theirs": {theirs.issue(t, app), true}, "theirs by ours": {ours.issue(t, app), false}, "ours by theirs": {theirs.issue(t, "spiffe://mesh.example/control"), false}} {
		if _, _, err := x509svid.ParseAndVerify(test.by.Certificate, bundles); (err == nil) != test.good {
			t.Errorf("a Go peer, %s: %v", name, err)
		}
	}
	// Their authority is replaced: what the next one signs is taken once the bundle was fetched.
	if err := devca.NewClient(filepath.Join(folder, "s")).Replace(t.Context(), devca.Prepare); err != nil {
		t.Fatal(err)
	}
	source, err := svid.Open(t.Context(), m.WorkloadAPI())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	until(t, func() bool { // the endpoint itself shows what the next one signs
		bundle, err := source.BundleOf(otherDomain)
		return err == nil && len(bundle.X509Authorities()) == 2
	})
	if err := devca.NewClient(filepath.Join(folder, "s")).Replace(t.Context(), devca.Activate); err != nil {
		t.Fatal(err)
	}
	next := authorityOf(t, folder) // the first in the file signs
	if next.cert.Equal(theirs.cert) {
		t.Fatal("the authority is the one that was")
	}
	until(t, func() bool {
		got, err := call(next.issue(t, app), "/allowed", nil)
		return err == nil && got.Status == http.StatusOK
	})
}
