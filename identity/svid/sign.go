package svid

import (
	"crypto"
	"crypto/x509"
)

// Signer signs under the SVID that Source has at the time.
type Signer struct{ Source *Source }

// SVID is the SPIFFE ID, its certificates, the own one first, and the private key.
func (s Signer) SVID() (principal string, chain []*x509.Certificate, key crypto.Signer, err error) {
	own, err := s.Source.X509SVID()
	if err != nil {
		return "", nil, nil, err
	}
	return own.ID.String(), own.Certificates, own.PrivateKey, nil
}
