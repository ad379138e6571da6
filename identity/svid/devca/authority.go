package devca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tenantmesh/tenantmesh/identity"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	jwtLifetime       = 5 * time.Minute
	backdate          = 30 * time.Second
)

// authority is a key and the self-signed certificate for it. It never changes.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	kid  string
	text []byte // as it is in the file
}

// parseAuthorities reads what newAuthority wrote, once or more, in its order.
func parseAuthorities(path string, text []byte, trustDomain string) (list []*authority, err error) {
	next := &authority{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		next.text = append(next.text, pem.EncodeToMemory(block)...)
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			next.key, _ = key.(*ecdsa.PrivateKey)
		case "CERTIFICATE":
			if next.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			if next.key == nil || !next.key.PublicKey.Equal(next.cert.PublicKey) {
				return nil, fmt.Errorf("%s must hold an ECDSA key before each certificate, that of the certificate", path)
			}
			if want := "spiffe://" + trustDomain; len(next.cert.URIs) != 1 || next.cert.URIs[0].String() != want {
				return nil, fmt.Errorf("%s must be the authority of %s (is of %v)", path, want, next.cert.URIs)
			}
			next.kid = fmt.Sprintf("%x", next.cert.SubjectKeyId[:8])
			list = append(list, next)
			next = &authority{}
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s must hold an ECDSA key and a certificate", path)
	}
	return list, nil
}

func newAuthority(trustDomain string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"tenantmesh development CA"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLifetime), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	_ = pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
	_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	return out.Bytes(), nil
}

// issue returns a new certificate (DER) and its key (PKCS #8) for id.
func (a *authority) issue(id identity.Principal, ttl time.Duration, now time.Time) (cert, key []byte, err error) {
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"tenantmesh development"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ttl), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{uri},
	}
	cert, err = x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(crypto.PrivateKey(private))
	return cert, key, err
}

func (a *authority) issueJWT(id identity.Principal, audience []string, now time.Time) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: a.key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", a.kid))
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(jwtLifetime)),
	}).Serialize()
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail (its package documentation)
	}
	return n
}

// writeFile writes a secret atomically.
func writeFile(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
