package tenanttoken

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tenantmesh/tenantmesh/identity"
)

// EventType is the "typ" header of an event's token. Nobody takes one for a context, nor a context for one (RFC 8725, section 3.11).
const EventType = "txnevent+jwt"

// How long an event's token is good.
const (
	EventLifetime    = 24 * time.Hour     // where nothing is said
	MaxEventLifetime = 7 * 24 * time.Hour // at most; and never longer than the key that signs it
)

// MaxTopic is the longest name of a topic, in bytes. Kafka's have 249 at most.
const MaxTopic = 255

// Event are the claims of an event's token: for which tenant an event of one topic is. It is no context: it is exchanged for one where the event is
// consumed, which says where the tenant is then.
type Event struct {
	Claims
	Topic string
}

type wireEvent struct {
	Issuer   identity.Principal `json:"iss"`
	Audience string             `json:"aud"`
	IssuedAt int64              `json:"iat"`
	Expiry   int64              `json:"exp"`
	Txn      string             `json:"txn"`
	Subject  string             `json:"sub"`
	Topic    string             `json:"topic"`
	Context  *Context           `json:"tctx"`
}

// SignEvent returns the token for an event, as [Signer.Sign] does for a context. It ends with the key, if that ends first.
func (s *Signer) SignEvent(event Event) (string, error) {
	if err := checkTopic(event.Topic); err != nil {
		return "", err
	}
	if event.Expiry.After(s.key.NotAfter) {
		event.Expiry = s.key.NotAfter
	}
	header, err := json.Marshal(wireHeader{algorithm, EventType, s.key.KID})
	if err != nil {
		return "", err
	}
	return s.sign(base64.RawURLEncoding.EncodeToString(header), wireEvent{
		s.principal, event.Audience, event.IssuedAt.Unix(), event.Expiry.Unix(), event.Txn, event.Subject, event.Topic, &event.Context,
	})
}

// VerifyEvent returns the claims of an event's token if a key of keys signed it inside its scope, for this topic, and it holds at now.
func (v *Verifier) VerifyEvent(token, topic string, keys KeySet, now time.Time) (*Event, error) {
	if len(token) > MaxSize {
		return nil, fmt.Errorf("%w: must be at most %d bytes (got %d)", ErrMalformed, MaxSize, len(token))
	}
	var wire wireEvent
	kid, err := open(token, EventType, keys, &wire)
	if err != nil {
		return nil, err
	}
	found, err := (&wireClaims{wire.Issuer, wire.Audience, wire.IssuedAt, wire.Expiry, wire.Txn, wire.Subject, wire.Context}).claims(kid)
	if err != nil {
		return nil, err
	}
	key, _ := keys.Lookup(kid) // it is there: the signature is by it
	if err := v.check(&found.claims, key, MaxEventLifetime, now); err != nil {
		return nil, err
	}
	if err := checkTopic(wire.Topic); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if wire.Topic != topic {
		return nil, fmt.Errorf("%w: it is for topic %q, and the event is of topic %q", ErrForeign, wire.Topic, topic)
	}
	found.claims.Token, found.claims.Digest = token, DigestOf(token)
	found.claims.Proof = "event's token signed by " + found.claims.Issuer.String()
	return &Event{found.claims, wire.Topic}, nil
}

func checkTopic(topic string) error {
	if topic == "" || len(topic) > MaxTopic {
		return fmt.Errorf("topic must have 1 to %d bytes (got %d)", MaxTopic, len(topic))
	}
	return nil
}
