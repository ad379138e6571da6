package devca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/tenantmesh/tenantmesh/identity"
)

// Federation is another trust domain whose bundle every SVID's holder gets, to verify that domain's SVIDs by and no others
// (SPIFFE Federation, sections 5 and 6).
type Federation struct {
	TrustDomain string
	URL         string // of its bundle endpoint
	EndpointID  string // SPIFFE ID of the endpoint (profile https_spiffe); "": it shows a certificate of the web (https_web)
	Bundle      string // file with its bundle to begin with, of https_spiffe; later ones are kept in memory
}

// ParseFederation reads "domain,url" (https_web) or "domain,url,SPIFFE ID of the endpoint,bundle file" (https_spiffe).
func ParseFederation(text string) (Federation, error) {
	parts := strings.Split(text, ",")
	if len(parts) != 2 && len(parts) != 4 {
		return Federation{}, fmt.Errorf("must be DOMAIN,URL or DOMAIN,URL,ENDPOINT-ID,BUNDLE-FILE (got %q)", text)
	}
	f := Federation{TrustDomain: parts[0], URL: parts[1]}
	if len(parts) == 4 {
		f.EndpointID, f.Bundle = parts[2], parts[3]
	}
	return f, nil
}

// EndpointPath is the path of the SPIFFE ID that the CA's own bundle endpoint shows.
const EndpointPath = "/bundle-endpoint"

// BundleFile is where, in the data folder, the CA keeps its own bundle for others to begin with.
const BundleFile = "bundle.json"

// federate serves the own bundle, and follows those of others.
func federate(ctx context.Context, group *errgroup.Group, config Config, a *authorities) error {
	own, err := spiffeid.TrustDomainFromString(config.TrustDomain)
	if err != nil {
		return err
	}
	bundle, err := a.GetBundleForTrustDomain(own)
	if err != nil {
		return err
	}
	text, err := bundle.Marshal()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(config.DataDir, BundleFile), text); err != nil {
		return err
	}
	for _, f := range config.Federate {
		if err := follow(ctx, group, config, a, f); err != nil {
			return fmt.Errorf("federation with %s: %w", f.TrustDomain, err)
		}
	}
	if config.BundleEndpoint == "" {
		return nil
	}
	handler, err := federation.NewHandler(own, a)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", config.BundleEndpoint)
	if err != nil {
		return err
	}
	endpoint, err := identity.ParsePrincipal("spiffe://" + config.TrustDomain + EndpointPath)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, // clients may be anybody's
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			trust, _ := a.trusted()
			cert, key, err := trust.signs.issue(endpoint, config.TTL, time.Now())
			if err != nil {
				return nil, err
			}
			private, err := x509.ParsePKCS8PrivateKey(key)
			return &tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: private}, err
		},
	}}
	group.Go(func() error {
		if err := web.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	context.AfterFunc(ctx, func() { _ = web.Close() })
	return nil
}

// GetBundleForTrustDomain implements [spiffebundle.Source], for the own trust domain.
func (a *authorities) GetBundleForTrustDomain(domain spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	if domain.Name() != a.trustDomain {
		return nil, fmt.Errorf("only the bundle of %s is here (asked for %s)", a.trustDomain, domain)
	}
	bundle := spiffebundle.New(domain)
	bundle.SetRefreshHint(refreshHint)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.list {
		bundle.AddX509Authority(one.cert)
		if err := bundle.AddJWTAuthority(one.kid, &one.key.PublicKey); err != nil {
			return nil, err
		}
	}
	return bundle, nil
}

// refreshHint is how often others should come for the bundle: each step of replacing the authority waits as long.
const refreshHint = 10 * time.Second

// follow keeps the bundle of another trust domain as its endpoint has it.
func follow(ctx context.Context, group *errgroup.Group, config Config, a *authorities, f Federation) error {
	domain, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	if err != nil {
		return err
	}
	if domain.Name() == config.TrustDomain {
		return errors.New("it must be another trust domain")
	}
	w := &watcher{authorities: a, domain: domain, log: config.Log}
	var options []federation.FetchOption
	if f.EndpointID != "" {
		id, err := spiffeid.FromString(f.EndpointID)
		if err != nil {
			return err
		}
		if id.TrustDomain() != domain {
			return fmt.Errorf("the endpoint must be of its trust domain (is %s)", id)
		}
		text, err := os.ReadFile(f.Bundle)
		if err != nil {
			return err
		}
		if w.latest, err = spiffebundle.Parse(domain, text); err != nil {
			return err
		}
		w.OnUpdate(w.latest)
		options = append(options, federation.WithSPIFFEAuth(w, id))
	}
	group.Go(func() error {
		if err := federation.WatchBundle(ctx, domain, f.URL, w, options...); ctx.Err() == nil {
			return err
		}
		return nil
	})
	return nil
}

// watcher takes what an endpoint answers, and verifies the endpoint by what it answered before.
type watcher struct {
	authorities *authorities
	domain      spiffeid.TrustDomain
	log         *zap.Logger

	mu     sync.Mutex
	latest *spiffebundle.Bundle
}

// NextRefresh implements [federation.BundleWatcher].
func (w *watcher) NextRefresh(hint time.Duration) time.Duration {
	return min(max(hint, time.Second), time.Minute)
}

// OnUpdate implements [federation.BundleWatcher].
func (w *watcher) OnUpdate(bundle *spiffebundle.Bundle) {
	w.mu.Lock()
	w.latest = bundle
	w.mu.Unlock()
	var certificates []byte
	for _, c := range bundle.X509Authorities() {
		certificates = append(certificates, c.Raw...)
	}
	w.authorities.federated(w.domain.IDString(), certificates)
}

// OnError implements [federation.BundleWatcher]. What was fetched last stays.
func (w *watcher) OnError(err error) {
	w.log.Warn("the bundle of another trust domain could not be fetched", zap.String("trustDomain", w.domain.Name()), zap.Error(err))
}

// GetX509BundleForTrustDomain implements x509bundle.Source, for the endpoint's own certificate.
func (w *watcher) GetX509BundleForTrustDomain(domain spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest.GetX509BundleForTrustDomain(domain)
}
