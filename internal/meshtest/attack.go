package meshtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// Pushing changes what the control plane pushes: to see what a part of it is for.
func Pushing(change func(translator.Resource) translator.Resource) Option {
	return func(m *Mesh) { m.change = change }
}

// Control is the xDS address of the first control plane.
func (m *Mesh) Control() string { return m.xds[0] }

// API is the address of its admin API, with [Polled].
func (m *Mesh) API() string { return m.api }

// IssuerKey is the private key of the TokenIssuer "test".
func (m *Mesh) IssuerKey() *ecdsa.PrivateKey { return m.key }

// Bundle holds the mesh's CA.
func (m *Mesh) Bundle(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	ca, _ := m.authority(t)
	pool.AddCert(ca)
	return pool
}

func (m *Mesh) authority(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, "ca", "ca.pem"))
	check(t, err)
	var ca *x509.Certificate
	var key *ecdsa.PrivateKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			ca, err = x509.ParseCertificate(block.Bytes)
			check(t, err)
			continue
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		check(t, err)
		key = parsed.(*ecdsa.PrivateKey)
	}
	return ca, key
}

// Forged is a certificate that the mesh's CA never issued as it is: of those URIs, with what change does to it. foreign:
// signed by another CA, of the same name.
func (m *Mesh) Forged(t testing.TB, uris []string, foreign bool, change ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	ca, caKey := m.authority(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	now := time.Now()
	if foreign {
		caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(t, err)
		template := *ca
		template.PublicKey = nil
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, &caKey.PublicKey, caKey)
		check(t, err)
		ca, err = x509.ParseCertificate(der)
		check(t, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{Organization: []string{"forged"}}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, text := range uris {
		uri, err := url.Parse(text)
		check(t, err)
		template.URIs = append(template.URIs, uri)
	}
	for _, f := range change {
		f(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	check(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// SigningKeyOf is a gateway's key for contexts, stolen from its disk.
func (m *Mesh) SigningKeyOf(t testing.TB, gateway *Sidecar) tenanttoken.SigningKey {
	t.Helper()
	var found tenanttoken.SigningKey
	check(t, filepath.WalkDir(gateway.Dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && found.KID == "" {
			if key, err := tenanttoken.LoadKey(path); err == nil {
				found = key
			}
		}
		return nil
	}))
	if found.KID == "" {
		t.Fatal("the gateway keeps no key")
	}
	return found
}

// ProgramOn starts a program that serves on the port it is told, and its sidecar.
func (m *Mesh) ProgramOn(t testing.TB, cell, name string, program func(port string) *exec.Cmd) *Sidecar {
	t.Helper()
	_, port, err := net.SplitHostPort(loopback(freePorts(t, 1)[0]))
	check(t, err)
	cmd := program(port)
	log, err := os.OpenFile(filepath.Join(m.dir, cell+"-"+name+"-service.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	ended := spawn(t, cmd)
	deadline := time.After(patience)
	for {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = conn.Close()
			return m.workload(t, cell, name, cell+"-"+name, port)
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s ended: %s", name, tail(text))
		case <-deadline:
			t.Fatalf("%s was not ready after %v", name, patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// VenvBin is a program of the Python environment of AcmeDocs' services.
func VenvBin(t testing.TB, name string) string { return filepath.Join(venv(t), "bin", name) }
