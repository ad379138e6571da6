package trail

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Batch is some events of a stream, one after the other, signed under the SVID of the member that decided.
type Batch struct {
	Stream
	Tenant   string      `json:"tenant,omitempty"` // its name
	Previous ledger.Head `json:"previous"`         // the event before the first; the zero value before the first of all
	Events   []Sealed    `json:"events"`           // at least one
	Signed   Signature   `json:"signed"`
}

// Signature is who says so, and when.
type Signature struct {
	Principal    string    `json:"principal"`    // SPIFFE ID
	Time         time.Time `json:"time"`         // UTC
	Certificates [][]byte  `json:"certificates"` // DER, the signer's first
	Value        []byte    `json:"value"`        // over what is signed, with SHA-256; of Ed25519, over the text itself
}

// Signer signs under an SVID.
type Signer interface {
	// SVID is the SPIFFE ID, its certificates, the own one first, and the private key, as they are now.
	SVID() (principal string, chain []*x509.Certificate, key crypto.Signer, err error)
}

// Seal makes a batch of events, the ones after head, and signs it. It returns the new head.
func Seal(s Stream, tenant string, head ledger.Head, events []Event, now time.Time, signer Signer) (Batch, ledger.Head, error) {
	b := Batch{Stream: s, Tenant: tenant, Previous: head}
	for _, e := range events {
		var sealed Sealed
		e.Member, e.TenantUID = s.Member, s.TenantUID
		e.Clean()
		sealed, head = seal(s, head, e)
		b.Events = append(b.Events, sealed)
	}
	var err error
	b.Signed, err = sign(signer, now, b.signed)
	return b, head, err
}

// Head is the batch's end.
func (b *Batch) Head() ledger.Head {
	return ledger.Head{Sequence: b.Previous.Sequence + int64(len(b.Events)), Hash: b.Events[len(b.Events)-1].Hash}
}

// signed is the text that a batch's signature is over.
func (b *Batch) signed(principal string, at time.Time) []byte {
	return text("tenantmesh audit batch 1", b.Stream, b.Tenant, b.Previous, b.Head(), principal, at.UTC())
}

// text is a list of values as one text, as no other list is.
func text(values ...any) []byte {
	encoded, err := json.Marshal(values)
	if err != nil {
		panic(err) // they are all plain
	}
	return encoded
}

// Verify returns the events of a batch that the member of its stream has signed, under a certificate of one of the roots
// that was valid at that time.
func (b *Batch) Verify(roots *x509.CertPool) ([]Event, error) {
	if len(b.Events) == 0 {
		return nil, broken("a batch of the %v has no events", b.Stream)
	}
	_, events, err := follow(b.Stream, b.Previous, b.Events)
	if err != nil {
		return events, err
	}
	if err := b.Signed.verify(roots, b.signed); err != nil {
		return events, broken("events %d to %d of the %v: %v", b.Previous.Sequence+1, b.Head().Sequence, b.Stream, err)
	}
	return events, nil
}

func sign(signer Signer, now time.Time, what func(principal string, at time.Time) []byte) (Signature, error) {
	principal, chain, key, err := signer.SVID()
	if err != nil {
		return Signature{}, err
	}
	s := Signature{Principal: principal, Time: now.UTC().Round(0)}
	for _, c := range chain {
		s.Certificates = append(s.Certificates, c.Raw)
	}
	message, hash := what(principal, s.Time), crypto.SHA256
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		hash = 0
	} else {
		sum := sha256.Sum256(message)
		message = sum[:]
	}
	s.Value, err = key.Sign(rand.Reader, message, hash)
	return s, err
}

// verify checks the signature, the certificates' chain as it was at the time, and that the key is the principal's.
func (s *Signature) verify(roots *x509.CertPool, what func(principal string, at time.Time) []byte) error {
	if len(s.Certificates) == 0 {
		return errors.New("the signature has no certificate")
	}
	var chain []*x509.Certificate
	others := x509.NewCertPool()
	for i, der := range s.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate %d of the signature: %w", i, err)
		}
		if chain = append(chain, c); i > 0 {
			others.AddCert(c)
		}
	}
	if len(chain[0].URIs) != 1 || chain[0].URIs[0].String() != s.Principal {
		return fmt.Errorf("the certificate is not that of %s", s.Principal)
	}
	if err := checkSignature(chain[0], what(s.Principal, s.Time), s.Value); err != nil {
		return fmt.Errorf("they are not as %s signed them: %w", s.Principal, err)
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: s.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := chain[0].Verify(options); err != nil {
		return fmt.Errorf("the trust bundle did not vouch for %s at %s: %w", s.Principal, s.Time.Format(time.RFC3339), err)
	}
	return nil
}

func checkSignature(c *x509.Certificate, message, value []byte) error {
	switch c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return c.CheckSignature(x509.ECDSAWithSHA256, message, value)
	case *rsa.PublicKey:
		return c.CheckSignature(x509.SHA256WithRSA, message, value)
	case ed25519.PublicKey:
		return c.CheckSignature(x509.PureEd25519, message, value)
	default:
		return fmt.Errorf("the certificate's key is of a sort that is not known here (%T)", c.PublicKey)
	}
}
