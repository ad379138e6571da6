package feature

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const encryptedOutside = objects + `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: reports}
spec: {dependsOn: [trusted, stranger, misnamed], boundTenant: acme}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: trusted}
spec: {hosts: [127.0.0.1], port: %d, tls: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: stranger}
spec: {hosts: [127.0.0.2], port: %d, tls: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: misnamed}
spec: {hosts: [127.0.0.3], port: %d, tls: true}
`

// encrypted serves over TLS on an address, under a certificate of its own making for the address named.
func encrypted(t *testing.T, address, named string) (port int, certificate []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(named)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", address+":0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, address) })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().(*net.TCPAddr).Port, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestDependencyWithTLS: a Dependency is called over TLS when it shows a certificate of its own name, of an issuer whom
// the machine trusts, and else not at all.
func TestDependencyWithTLS(t *testing.T) {
	trusted, root := encrypted(t, "127.0.0.1", "127.0.0.1")
	stranger, _ := encrypted(t, "127.0.0.2", "127.0.0.2")
	misnamed, another := encrypted(t, "127.0.0.3", "127.0.0.1")
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, append(root, another...), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	mesh := meshtest.Start(t, fmt.Sprintf(encryptedOutside, trusted, stranger, misnamed))
	reports := mesh.Workload(t, "us-1", "reports", http.NotFoundHandler())
	proxy, err := url.Parse(reports.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}
	for host, want := range map[string]int{"127.0.0.1": 200, "127.0.0.2": 503, "127.0.0.3": 503} {
		response := meshtest.Do(t, client, http.MethodGet, "http://"+host+"/", nil, nil)
		if response.Status != want || want == 200 && response.Body != host {
			t.Errorf("a call to %s: %d %q, want %d", host, response.Status, response.Body, want)
		}
	}
}
