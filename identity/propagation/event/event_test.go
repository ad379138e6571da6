package event_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event/eventtest"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func request(t *testing.T, s *eventtest.Sidecar, tenant, txn string) context.Context {
	t.Helper()
	ctx, err := propagation.NewVerifier(&propagation.Sidecar{URL: s.URL}).Verify(t.Context(), []string{s.Context(tenant, txn)})
	check(t, err)
	return ctx
}

// TestExchange: an event is for the tenant of the request that it was produced for, in its transaction, by a context of now; there is none for no tenant.
func TestExchange(t *testing.T) {
	s := eventtest.Start(t)
	tokens := event.NewSidecar(s.URL)
	token, err := tokens.Seal(request(t, s, "acme", "txn-1"), "orders")
	check(t, err)
	ctx, err := tokens.Open(t.Context(), "orders", token)
	check(t, err)
	if tenant, ok := propagation.From(ctx); !ok || tenant.ID.String() != "acme" || tenant.Txn != "txn-1" {
		t.Errorf("%v, %v", tenant, ok)
	}
	signed, err := propagation.Outbound(ctx, "x")
	check(t, err)
	if signed == token {
		t.Error("the event's token goes on as a context")
	}
	if _, err := tokens.Seal(t.Context(), "orders"); !errors.Is(err, propagation.ErrTenantless) || !strings.Contains(err.Error(), "event of topic orders") {
		t.Errorf("for no tenant: %v", err)
	}
}

// TestOneTokenATransaction: the events of one transaction and topic have one token, those of others have not.
func TestOneTokenATransaction(t *testing.T) {
	s := eventtest.Start(t)
	tokens := event.NewSidecar(s.URL)
	seen := map[string]bool{}
	for _, txn := range []string{"txn-1", "txn-2"} {
		ctx := request(t, s, "acme", txn)
		for range 10 {
			for _, topic := range []string{"orders", "invoices"} {
				token, err := tokens.Seal(ctx, topic)
				check(t, err)
				seen[token] = true
			}
		}
	}
	if n := s.Asked(event.PathSeal); n != 4 || len(seen) != 4 {
		t.Errorf("the sidecar was asked %d times, for %d tokens; want 4", n, len(seen))
	}
}

// TestRefused: what is not taken has its reason; where nobody can judge it has none.
func TestRefused(t *testing.T) {
	s := eventtest.Start(t)
	tokens := event.NewSidecar(s.URL)
	good := s.Token("acme", "orders", nil)
	over := func(e *tenanttoken.Event) {
		e.IssuedAt, e.Expiry = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	for name, test := range map[string]struct {
		topic, token string
		want         event.Reason
	}{
		"another topic":  {"invoices", good, event.Foreign},
		"forged":         {"orders", eventtest.Start(t).Token("acme", "orders", nil), event.Foreign},
		"altered":        {"orders", good + "A", event.Foreign},
		"a context":      {"orders", s.Context("acme", "txn"), event.Foreign},
		"over":           {"orders", s.Token("acme", "orders", over), event.Expired},
		"a tenant alone": {"orders", "acme", event.Foreign},
	} {
		var refusal *event.Refusal
		if _, err := tokens.Open(t.Context(), test.topic, test.token); !errors.As(err, &refusal) || refusal.Reason != test.want || refusal.Detail == "" {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	if n := s.Asked(event.PathOpen); n != 0 {
		t.Errorf("the sidecar was asked %d times about what anybody can see", n)
	}
	for _, reason := range []event.Reason{event.TenantSuspended, event.TenantDeleted, event.Misdirected, event.Fenced, event.Revoked} {
		s.Refuse("acme", reason)
		var refusal *event.Refusal
		if _, err := tokens.Open(t.Context(), "orders", good); !errors.As(err, &refusal) || refusal.Reason != reason {
			t.Errorf("%v, want %s", err, reason)
		}
	}
	s.Refuse("acme", "enforcement_unavailable")
	if _, err := tokens.Open(t.Context(), "orders", good); !errors.Is(err, event.ErrUnavailable) {
		t.Errorf("where nobody can decide: %v", err)
	}
	s.Refuse("acme", "")
	s.Down(true)
	var refusal *event.Refusal
	if _, err := tokens.Open(t.Context(), "orders", good); !errors.Is(err, event.ErrUnavailable) || errors.As(err, &refusal) {
		t.Errorf("without a sidecar: %v", err)
	}
	if _, err := event.NewSidecar(s.URL).Open(t.Context(), "orders", good); !errors.Is(err, event.ErrUnavailable) {
		t.Errorf("without its keys: %v", err)
	}
	s.Down(false)
	_, err := tokens.Open(t.Context(), "orders", good)
	check(t, err)
}

// TestHeaders: one token is one whatever the case of its name; a repetition and a dead letter keep it, and say what they are.
func TestHeaders(t *testing.T) {
	sent := []event.Header{{Key: "k", Value: []byte("v")}, {Key: "Txn-Event-Token", Value: []byte("somebody's")}}
	headers := event.Attach(sent, "mine")
	if token, err := event.Token(headers); err != nil || token != "mine" || len(headers) != 2 || string(sent[1].Value) != "somebody's" {
		t.Errorf("%q %v of %v", token, err, headers)
	}
	for name, list := range map[string][]event.Header{"none": nil, "two": append(slices.Clone(headers), sent[1])} {
		var refusal *event.Refusal
		if _, err := event.Token(list); !errors.As(err, &refusal) || refusal.Reason != event.Missing {
			t.Errorf("%s: %v", name, err)
		}
	}
	again := event.Again(event.Again(headers, 1), 2)
	if token, _ := event.Token(again); event.Attempts(headers) != 0 || event.Attempts(again) != 2 || token != "mine" || len(again) != 3 {
		t.Errorf("%v", again)
	}
	for _, text := range []string{"-1", "x", "99999999999999999999", ""} {
		if n := event.Attempts([]event.Header{{Key: event.HeaderAttempts, Value: []byte(text)}}); n != 0 {
			t.Errorf("%q are %d attempts", text, n)
		}
	}
	refusal := &event.Refusal{Reason: event.Expired, Detail: strings.Repeat("é", event.MaxDetail)}
	dead := event.Dead(event.Dead(again, refusal, event.Place{Topic: "a"}), refusal, event.Place{Topic: "orders", Partition: 3, Offset: 17})
	said := map[string]string{}
	for _, h := range dead {
		said[h.Key] = string(h.Value)
	}
	if len(dead) != 8 || len(said) != 8 || said[event.HeaderToken] != "mine" || said[event.HeaderReason] != "context_expired" || said[event.HeaderTopic] != "orders" || said[event.HeaderPartition] != "3" || said[event.HeaderOffset] != "17" || len(said[event.HeaderDetail]) != event.MaxDetail {
		t.Errorf("%v", said)
	}
}

// TestSplit: batches are one tenant's each, in order; an event that was not opened is nobody's.
func TestSplit(t *testing.T) {
	s := eventtest.Start(t)
	acme, globex := request(t, s, "acme", "1"), request(t, s, "globex", "2")
	type record struct {
		n   int
		ctx context.Context
	}
	of := func(r record) context.Context { return r.ctx }
	batches, err := event.Split([]record{{1, globex}, {2, acme}, {3, globex}, {4, acme}, {5, acme}}, of)
	check(t, err)
	var text []string
	for _, b := range batches {
		line := b.Tenant.ID.String()
		for _, r := range b.Events {
			line += string(rune('0' + r.n))
		}
		text = append(text, line)
	}
	if got := strings.Join(text, " "); got != "globex13 acme245" {
		t.Errorf("%s", got)
	}
	if _, err := event.Split([]record{{1, acme}, {2, t.Context()}}, of); !errors.Is(err, propagation.ErrMissing) {
		t.Errorf("one that was not opened: %v", err)
	}
}
