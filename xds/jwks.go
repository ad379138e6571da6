package xds

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const (
	jwksInterval = time.Minute     // between two fetches of a key set
	jwksRetry    = 2 * time.Second // after a failed one, for the first time; then twice as long each time
	jwksTimeout  = 5 * time.Second
	maxJWKS      = 1 << 20 // bytes
)

// keyFetcher keeps the key sets of the issuers that name a URI. Redirects are not followed: the URI is an operator's
// word, and where it leads is not. What was fetched is kept with the issuer, for control planes that begin.
type keyFetcher struct {
	changed chan struct{} // receives after a set changed
	http    *http.Client
	sources KeySources
	writer  *tenantstore.Writer
	log     *zap.Logger

	mu      sync.Mutex
	fetched map[string]string // by issuer
	running map[string]fetching
}

type fetching struct {
	uri  string
	stop context.CancelFunc
}

func newKeyFetcher(sources KeySources, writer *tenantstore.Writer, log *zap.Logger) *keyFetcher {
	return &keyFetcher{
		changed: make(chan struct{}, 1), http: sources.client(), sources: sources, writer: writer, log: log, fetched: map[string]string{}, running: map[string]fetching{},
	}
}

// follow begins to fetch what objects name, and ends what they do not name any more.
func (f *keyFetcher) follow(objects map[tenantstore.Key]*tenantstore.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := map[string]string{}
	for key, object := range objects {
		if key.Kind == tenantstore.KindTokenIssuer && object.TokenIssuer.JWKS.URI != "" {
			want[key.Name] = object.TokenIssuer.JWKS.URI
		}
	}
	for name, f1 := range f.running {
		if want[name] != f1.uri {
			f1.stop()
			delete(f.running, name)
			delete(f.fetched, name)
		}
	}
	for name, uri := range want {
		if _, ok := f.running[name]; ok {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		f.running[name] = fetching{uri, stop}
		go f.run(ctx, name, uri)
	}
}

func (f *keyFetcher) sets() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.fetched)
}

func (f *keyFetcher) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, f1 := range f.running {
		f1.stop()
	}
	clear(f.running)
}

func (f *keyFetcher) run(ctx context.Context, name, uri string) {
	retry := jwksRetry
	for {
		pause := jwksInterval
		text, err := f.fetch(ctx, uri)
		if err != nil {
			pause, retry = retry, min(2*retry, jwksInterval)
			f.log.Warn("an issuer's keys could not be fetched", zap.String("issuer", name), zap.Error(err))
		} else {
			retry = jwksRetry
			f.keep(ctx, name, text)
			if err := f.writer.KeepKeys(ctx, "control", name, tenantstore.IssuerKeys{URI: uri, JWKS: text}); err != nil && ctx.Err() == nil {
				f.log.Warn("an issuer's keys could not be kept", zap.String("issuer", name), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (f *keyFetcher) keep(ctx context.Context, name, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.fetched[name] == text {
		return
	}
	f.fetched[name] = text
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *keyFetcher) fetch(ctx context.Context, uri string) (string, error) {
	if err := f.sources.Check(uri); err != nil {
		return "", fmt.Errorf("jwks.uri %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return "", err
	}
	response, err := f.http.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s", uri, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxJWKS))
	if err != nil {
		return "", err
	}
	return string(text), tenantstore.CheckJWKS(string(text))
}
