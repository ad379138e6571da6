package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

// Where a sidecar exchanges tokens, on its health port, for who is on its machine: POST of a [SealRequest] or an [OpenRequest] as JSON. It answers
// 200 with a [Sealed] or an [Opened], or with the status of a reason, and a [Refused].
const (
	PathSeal = "/events/token"
	PathOpen = "/events/context"
)

// MaxBody bounds what is sent there, and what is answered, in bytes.
const MaxBody = 32 << 10

// SealRequest asks for the token of an event of a topic, by the context of the request that it is produced for.
type SealRequest struct {
	Topic   string `json:"topic"`
	Context string `json:"context"`
}

// Sealed is the answer to it.
type Sealed struct {
	Token string `json:"token"`
}

// OpenRequest asks for a context by the token of an event of a topic.
type OpenRequest struct {
	Topic string `json:"topic"`
	Token string `json:"token"`
}

// Opened is the answer to it.
type Opened struct {
	Context string `json:"context"`
}

// Refused is the answer to either.
type Refused struct {
	Reason string `json:"reason"` // one of docs/reasons.md
	Detail string `json:"detail"`
}

// Sidecar has tokens exchanged by the sidecar beside a service. Use [NewSidecar].
type Sidecar struct {
	url      string
	keys     propagation.Keys
	verifier *propagation.Verifier
	client   *http.Client
	now      func() time.Time

	mu     sync.Mutex
	sealed map[sealKey]sealed
}

type sealKey struct{ context, topic string }

type sealed struct {
	token string
	until time.Time
}

// One transaction's events of one topic have one token, as long as that is young.
const (
	sealedTime = 30 * time.Second
	maxSealed  = 4096
)

// NewSidecar returns the exchange of the sidecar whose health port is at url, such as "http://127.0.0.1:15021".
func NewSidecar(url string) *Sidecar {
	keys := &propagation.Sidecar{URL: url}
	return &Sidecar{
		url: url, keys: keys, verifier: propagation.NewVerifier(keys), now: time.Now, sealed: map[sealKey]sealed{},
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 16}},
	}
}

// Seal implements [Tokens].
func (s *Sidecar) Seal(ctx context.Context, topic string) (string, error) {
	signed, err := propagation.Outbound(ctx, "event of topic "+topic)
	if err != nil {
		return "", err
	}
	key := sealKey{signed, topic}
	if token, ok := s.known(key); ok {
		return token, nil
	}
	var answer Sealed
	if err := s.post(ctx, PathSeal, SealRequest{topic, signed}, &answer); err != nil {
		return "", fmt.Errorf("event of topic %s: %w", topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sealed) >= maxSealed {
		clear(s.sealed)
	}
	s.sealed[key] = sealed{answer.Token, s.now().Add(sealedTime)}
	return answer.Token, nil
}

func (s *Sidecar) known(key sealKey) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.sealed[key]
	return known.token, ok && s.now().Before(known.until)
}

// Open implements [Tokens]. What no key signed for the topic, and what is over, is refused here; the sidecar judges the rest as it is now.
func (s *Sidecar) Open(ctx context.Context, topic, token string) (context.Context, error) {
	claims, err := s.verify(ctx, topic, token)
	if err != nil {
		return nil, err
	}
	var answer Opened
	if err := s.post(ctx, PathOpen, OpenRequest{topic, token}, &answer); err != nil {
		return nil, err
	}
	opened, err := s.verifier.Verify(ctx, []string{answer.Context})
	if err != nil {
		return nil, fmt.Errorf("%w: its context: %w", ErrUnavailable, err)
	}
	if tenant, _ := propagation.From(opened); tenant.UID != claims.Context.UID {
		return nil, fmt.Errorf("%w: it answers for tenant %s, and the event is of %s", ErrUnavailable, tenant.ID, claims.Context.Tenant)
	}
	return opened, nil
}

func (s *Sidecar) verify(ctx context.Context, topic, token string) (*tenanttoken.Event, error) {
	for _, fresh := range []bool{false, true} { // a key may be newer than those that are known
		trustDomain, keys, err := s.keys.Keys(ctx, fresh)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		claims, err := tenanttoken.NewVerifier(tenanttoken.Options{Audience: trustDomain}).VerifyEvent(token, topic, keys, s.now())
		switch {
		case err == nil:
			return claims, nil
		case errors.Is(err, tenanttoken.ErrExpired):
			return nil, refuse(Expired, "%v", err)
		case fresh || !errors.Is(err, tenanttoken.ErrForeign):
			return nil, refuse(Foreign, "%v", err)
		}
	}
	panic("event: unreachable")
}

func (s *Sidecar) post(ctx context.Context, path string, question, answer any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxBody))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, answer); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil
	}
	var refused Refused
	if err := json.Unmarshal(body, &refused); err == nil && reasons[Reason(refused.Reason)] {
		return refuse(Reason(refused.Reason), "%s", refused.Detail)
	}
	return fmt.Errorf("%w: it answers %s: %s", ErrUnavailable, response.Status, refused.Detail)
}
