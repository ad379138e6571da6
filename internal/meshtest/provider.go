package meshtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
)

// Provider is an identity provider that is not ours: it issues by an intermediate, to workloads whose SPIFFE IDs are of
// another scheme, tells processes apart by the socket that they come to, and may be away. Each SVID lives for TTL, and is
// followed by the next at half of that.
type Provider struct {
	TTL time.Duration

	dir       string
	rootDER   []byte
	middle    *x509.Certificate
	middleKey *ecdsa.PrivateKey
	middleDER []byte
	mu        sync.Mutex
	sockets   map[string]string // by SPIFFE ID
	servers   []*grpc.Server    // none: it is away
}

// ProvidedBy makes a provider issue the mesh's identities.
func ProvidedBy(p *Provider) Option { return func(m *Mesh) { m.provider = p } }

// ID is the SPIFFE ID of a workload in a cell.
func (p *Provider) ID(cell, workload string) string {
	return "spiffe://" + TrustDomain + "/ns/" + cell + "/sa/" + workload
}

// workloadAPI is where a process of that SPIFFE ID gets its SVID.
func (m *Mesh) workloadAPI(t testing.TB, id string) string {
	t.Helper()
	if m.provider == nil {
		return m.WorkloadAPI()
	}
	return "unix://" + m.provider.socket(t, id)
}

func (p *Provider) start(t testing.TB, dir string) {
	t.Helper()
	p.dir, p.sockets = dir, map[string]string{}
	root, rootKey, rootDER := authority(t, nil, nil, "root")
	p.rootDER = rootDER
	p.middle, p.middleKey, p.middleDER = authority(t, root, rootKey, "intermediate")
	t.Cleanup(p.Stop)
}

func authority(t testing.TB, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, name string) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: TrustDomain}},
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	check(t, err)
	certificate, err := x509.ParseCertificate(der)
	check(t, err)
	return certificate, key, der
}

func (p *Provider) socket(t testing.TB, id string) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sockets[id] == "" {
		p.sockets[id] = filepath.Join(p.dir, fmt.Sprint("agent-", len(p.sockets), ".sock"))
		p.serve(t, id)
	}
	return p.sockets[id]
}

func (p *Provider) serve(t testing.TB, id string) {
	t.Helper()
	_ = os.Remove(p.sockets[id])
	listener, err := net.Listen("unix", p.sockets[id])
	check(t, err)
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, &agent{provider: p, id: id})
	p.servers = append(p.servers, server)
	go func() { _ = server.Serve(listener) }()
}

// Stop makes it be away.
func (p *Provider) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, server := range p.servers {
		server.Stop()
	}
	p.servers = nil
}

// Start makes it come back.
func (p *Provider) Start(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.sockets {
		p.serve(t, id)
	}
}

// agent is the Workload API for one identity.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	provider *Provider
	id       string
}

// FetchX509SVID implements the Workload API: an SVID now, and the next ones in time.
func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	for {
		chain, key, err := a.provider.issue(a.id)
		if err == nil {
			err = stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: a.id, X509Svid: chain, X509SvidKey: key, Bundle: a.provider.rootDER}}})
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(a.provider.TTL / 2):
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// issue returns a certificate with its intermediate (DER), and its key (PKCS #8).
func (p *Provider) issue(id string) (chain, key []byte, err error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}, NotBefore: now.Add(-10 * time.Second), NotAfter: now.Add(p.TTL),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{uri},
	}, p.middle, &private.PublicKey, p.middleKey)
	if err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(private)
	return append(leaf, p.middleDER...), key, err
}
