package tenanttoken

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

func (w world) event(t testing.TB, change func(*Event)) string {
	t.Helper()
	event := Event{w.claims, "orders"}
	event.Expiry = now.Add(30 * time.Minute)
	if change != nil {
		change(&event)
	}
	token, err := w.signer.SignEvent(event)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestEvent: an event's token is good for its own topic alone, as long as it says and as its key, and is no context.
func TestEvent(t *testing.T) {
	w := newWorld(t)
	v := NewVerifier(Options{Audience: "mesh.example"})
	good := w.event(t, nil)
	event, err := v.VerifyEvent(good, "orders", w.keys, now.Add(29*time.Minute))
	if err != nil || event.Topic != "orders" || event.Context.UID != "uid-1" || event.Txn != "txn-1" || event.Token != good || !strings.Contains(event.Proof, "gateway/edge") {
		t.Fatalf("%+v, %v", event, err)
	}
	if event, err := v.VerifyEvent(w.event(t, func(e *Event) { e.Expiry = now.Add(7 * 24 * time.Hour) }), "orders", w.keys, now); err != nil || !event.Expiry.Equal(w.key.NotAfter) {
		t.Errorf("it ends with its key: %v, %v", event, err)
	}
	payload := func() string {
		text, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}()
	header := `{"alg":"EdDSA","typ":"` + EventType + `","kid":"` + w.key.KID + `"}`
	other := newWorld(t)
	for name, test := range map[string]struct {
		token, topic string
		want         error
	}{
		"another topic":   {good, "invoices", ErrForeign},
		"a context":       {w.sign(t), "orders", ErrMalformed},
		"over":            {w.event(t, func(e *Event) { e.IssuedAt, e.Expiry = now.Add(-time.Hour), now }), "orders", ErrExpired},
		"too long a life": {w.event(t, func(e *Event) { e.IssuedAt = now.Add(-8 * 24 * time.Hour) }), "orders", ErrMalformed},
		"of elsewhere":    {w.event(t, func(e *Event) { e.Audience = "other.example" }), "orders", ErrForeign},
		"another key's":   {other.event(t, nil), "orders", ErrForeign},
		"altered":         {good[:len(good)-4] + "AAAA", "orders", ErrForeign},
		"long":            {good + strings.Repeat("A", MaxSize), "orders", ErrMalformed},
		"no topic":        {w.raw(header, strings.Replace(payload, `"orders"`, `""`, 1)), "", ErrMalformed},
		"no tenant":       {w.raw(header, strings.Replace(payload, `"acme"`, `""`, 1)), "orders", ErrMalformed},
		"more":            {w.raw(header, strings.Replace(payload, `"iss"`, `"x":1,"iss"`, 1)), "orders", ErrMalformed},
	} {
		if event, err := v.VerifyEvent(test.token, test.topic, w.keys, now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v, want %v", name, event, err, test.want)
		}
	}
	if claims, err := v.Verify(good, w.keys, now); !errors.Is(err, ErrMalformed) {
		t.Errorf("it is taken for a context: %v, %v", claims, err)
	}
	key, _ := w.keys.Lookup(w.key.KID)
	key.Scope = Scope{Cell: "eu-1", Tenant: w.claims.Context.Tenant}
	if _, err := v.VerifyEvent(good, "orders", NewKeySet(key), now); !errors.Is(err, ErrForeign) {
		t.Errorf("outside its key's scope: %v", err)
	}
	for _, topic := range []string{"", strings.Repeat("x", MaxTopic+1)} {
		if _, err := w.signer.SignEvent(Event{w.claims, topic}); err == nil {
			t.Errorf("a topic of %d bytes is signed", len(topic))
		}
	}
}
