// Package trailtest makes the keys by which tests sign audit trails.
package trailtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// Begin is the time that the certificates are for.
var Begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Authority is a certificate authority of a test.
type Authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority whose root is valid from an hour before [Begin].
func New(t testing.TB) Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: Begin.Add(-time.Hour), NotAfter: Begin.Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Authority{root, key}
}

// PEM is its bundle.
func (a Authority) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}))
}

// Pool is its bundle.
func (a Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// Holder holds an SVID.
type Holder struct {
	id    string
	chain []*x509.Certificate
	key   crypto.Signer
}

// SVID implements trail.Signer.
func (h Holder) SVID() (string, []*x509.Certificate, crypto.Signer, error) {
	return h.id, h.chain, h.key, nil
}

// SVID makes an SVID that is valid for an hour after [Begin].
func (a Authority) SVID(t testing.TB, id string) Holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: Begin.Add(-time.Minute), NotAfter: Begin.Add(time.Hour), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Holder{id, []*x509.Certificate{c}, key}
}
