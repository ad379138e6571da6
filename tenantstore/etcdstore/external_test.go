package etcdstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/tenantstore/storetest"
)

// certificates writes a CA, and a certificate under it for 127.0.0.1 that servers and clients show alike.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &private.PublicKey, private)
	check(t, err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &private.PublicKey, private)
	check(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	check(t, err)
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// external runs an etcd of its own that answers over mutual TLS only.
func external(t *testing.T, ca, cert, key string) (endpoint string) {
	t.Helper()
	ports, err := freeport.Take(2)
	check(t, err)
	at := func(port int) url.URL { return url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port)} }
	client, peer := at(ports[0]), at(ports[1])
	tls := transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca, ClientCertAuth: true}
	etcd := embed.NewConfig()
	etcd.Name, etcd.Dir = "external", t.TempDir()
	etcd.ListenClientUrls, etcd.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	etcd.ListenPeerUrls, etcd.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	etcd.ClientTLSInfo, etcd.PeerTLSInfo = tls, tls
	etcd.InitialCluster = etcd.InitialClusterFromName(etcd.Name)
	etcd.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(etcd)
	check(t, err)
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return client.String()
}

// TestContractOverTLS: an etcd elsewhere, over mutual TLS, keeps the same contract.
func TestContractOverTLS(t *testing.T) {
	ca, cert, key := certificates(t)
	storetest.Run(t, func(t *testing.T) storetest.Compacter {
		store, err := Open(t.Context(), Config{Endpoints: []string{external(t, ca, cert, key)}, CA: ca, Cert: cert, Key: key})
		check(t, err)
		return store
	})
}
