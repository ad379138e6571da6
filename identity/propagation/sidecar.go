package propagation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

// PathContextKeys is where a sidecar tells its service the mesh's keys, on its health port.
const PathContextKeys = "/contextkeys"

// ContextKeys is what it tells.
type ContextKeys struct {
	TrustDomain string             `json:"trustDomain"`
	Keys        tenanttoken.KeySet `json:"keys"`
}

// How long keys are used before they are asked for again, and how often that may be.
const (
	keysTime = 10 * time.Second
	keysRest = time.Second
	maxKeys  = 16 << 20 // bytes
)

// Sidecar has the mesh's keys from the sidecar beside a service, whose health port it asks, such as "http://127.0.0.1:15021". What it has stays
// good while the sidecar does not answer: each key says itself until when.
type Sidecar struct {
	URL    string
	Client *http.Client // nil: one with a timeout of 2 s, which asks no proxy

	mu    sync.Mutex
	known ContextKeys
	asked time.Time
	err   error
}

var direct = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{Proxy: nil}}

// Keys implements [Keys].
func (s *Sidecar) Keys(ctx context.Context, fresh bool) (string, tenanttoken.KeySet, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := time.Since(s.asked); s.known.TrustDomain == "" && age > keysRest || age > keysTime || fresh && age > keysRest {
		var said ContextKeys
		s.asked = time.Now()
		if said, s.err = s.ask(ctx); s.err == nil {
			s.known = said
		}
	}
	if s.known.TrustDomain == "" {
		return "", tenanttoken.KeySet{}, s.err
	}
	return s.known.TrustDomain, s.known.Keys, nil
}

func (s *Sidecar) ask(ctx context.Context) (said ContextKeys, err error) {
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, s.URL+PathContextKeys, nil) // it is for those who come after, too
	if err != nil {
		return said, err
	}
	client := s.Client
	if client == nil {
		client = direct
	}
	response, err := client.Do(request)
	if err != nil {
		return said, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return said, fmt.Errorf("the sidecar at %s answers %s", s.URL, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxKeys)).Decode(&said); err != nil {
		return said, fmt.Errorf("the sidecar at %s: %w", s.URL, err)
	}
	if said.TrustDomain == "" {
		return said, fmt.Errorf("the sidecar at %s has no configuration yet", s.URL)
	}
	return said, nil
}
