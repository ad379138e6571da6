package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
	"github.com/tenantmesh/tenantmesh/identity/propagation/franztenant"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestEvents: a service produces for the tenant of its request, and consumes long after it: its calls then are known as that tenant's, by a context that
// its sidecar gave for the event's token. What may not be exchanged is refused with its reason, and a suspended tenant's events are dead letters until it
// may be served again.
func TestEvents(t *testing.T) {
	m := meshtest.Start(t, strings.Replace(objects, "deliverContext: true", "deliverContext: true\n  events: {produces: [orders, audit], consumes: [orders]}", 1))
	gateway := m.Gateway(t)
	back := m.Workload(t, "us-1", "back", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Tenant-Id"))
	}))
	var handler atomic.Pointer[http.Handler]
	front := m.Workload(t, "us-1", "front", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load()).ServeHTTP(w, r) }))
	check := func(t testing.TB, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders", "orders.dead"))
	check(t, err)
	t.Cleanup(broker.Close)
	client := func(options ...kgo.Opt) *kgo.Client {
		t.Helper()
		client, err := kgo.NewClient(append(options, kgo.SeedBrokers(broker.ListenAddrs()...), kgo.FetchMaxWait(50*time.Millisecond))...)
		check(t, err)
		t.Cleanup(client.CloseAllowingRebalance)
		return client
	}
	tokens := event.NewSidecar(front.Health)
	producer := &franztenant.Producer{Client: client(), Tokens: tokens}
	var last atomic.Pointer[string] // a context of a request that is over soon
	service := propagation.Middleware(propagation.NewVerifier(&propagation.Sidecar{URL: front.Health}), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := r.Header.Get("Txn-Token")
		last.Store(&sent)
		if err := producer.ProduceSync(r.Context(), &kgo.Record{Topic: r.URL.Query().Get("topic"), Value: []byte(r.URL.Query().Get("value"))}).FirstErr(); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
		}
	}))
	handler.Store(&service)
	produce := func(tenant, topic, value string) meshtest.Response {
		t.Helper()
		return m.Get(t, gateway.URL+"/front/x?topic="+topic+"&value="+value, tenant)
	}
	for _, tenant := range []string{"acme", "globex"} {
		if r := produce(tenant, "orders", tenant); r.Status != http.StatusOK {
			t.Fatalf("%s: %d %q", tenant, r.Status, r.Body)
		}
	}
	if r := produce("acme", "secrets", "x"); r.Status != http.StatusTeapot || !strings.Contains(r.Body, `denied_by_policy: topic "secrets" is not listed in events.produces`) {
		t.Errorf("a topic that is not listed: %d %q", r.Status, r.Body)
	}

	proxy, err := url.Parse(front.Outbound)
	check(t, err)
	calls := &http.Client{Transport: propagation.Transport{Base: &http.Transport{Proxy: http.ProxyURL(proxy)}}}
	consumer := &franztenant.Consumer{
		Client: client(kgo.ConsumerGroup("front"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())),
		Tokens: tokens, Routes: []franztenant.Route{{Topic: "orders", DeadLetter: "orders.dead"}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	consume := func(n int) (said []string) {
		t.Helper()
		for len(said) < n {
			check(t, consumer.Each(ctx, func(ctx context.Context, b franztenant.Batch) error {
				for _, r := range b.Events {
					call, err := http.NewRequestWithContext(r.Context, http.MethodGet, "http://back/x", nil)
					if err != nil {
						return err
					}
					response, err := calls.Do(call)
					if err != nil {
						return err
					}
					seen, err := io.ReadAll(response.Body)
					_ = response.Body.Close()
					if err != nil {
						return err
					}
					said = append(said, string(r.Value)+" is "+string(seen))
				}
				// What it produces in turn is for the same tenant.
				_, err := tokens.Seal(ctx, "audit")
				return err
			}))
		}
		return said
	}
	if said := strings.Join(consume(2), ", "); said != "acme is acme, globex is globex" {
		t.Errorf("%s", said)
	}

	// The sidecar itself refuses, whatever a service leaves out.
	ask := func(at, path, body string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, at+path, strings.NewReader(body))
		check(t, err)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		check(t, err)
		defer func() { _ = response.Body.Close() }()
		var refused event.Refused
		text, err := io.ReadAll(response.Body)
		check(t, err)
		if json.Unmarshal(text, &refused) != nil {
			return response.StatusCode, string(bytes.TrimSpace(text))
		}
		if refused.Reason != response.Header.Get("X-Tenantmesh-Reason") {
			t.Errorf("the body says %q, and the header %q", refused.Reason, response.Header.Get("X-Tenantmesh-Reason"))
		}
		return response.StatusCode, refused.Reason
	}
	question := func(q any) string {
		text, err := json.Marshal(q)
		check(t, err)
		return string(text)
	}
	reader := client(kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	records := reader.PollFetches(ctx).Records()
	token, err := event.Token([]event.Header{{Key: records[0].Headers[0].Key, Value: records[0].Headers[0].Value}})
	check(t, err)
	closed := func() bool { // the request is over, and its grace
		status, reason := ask(front.Health, event.PathSeal, question(event.SealRequest{Topic: "orders", Context: *last.Load()}))
		return status == http.StatusForbidden && reason == "context_unattributed"
	}
	for began := time.Now(); !closed(); <-time.After(100 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("a context is exchanged long after its request has ended")
		}
	}
	for name, c := range map[string]struct {
		at, path, body string
		status         int
		reason         string
	}{
		"a topic that is not consumed":  {front.Health, event.PathOpen, question(event.OpenRequest{Topic: "audit", Token: token}), 403, "denied_by_policy"},
		"a token for a context":         {front.Health, event.PathSeal, question(event.SealRequest{Topic: "orders", Context: token}), 403, "context_foreign"},
		"a context for a token":         {front.Health, event.PathOpen, question(event.OpenRequest{Topic: "orders", Token: *last.Load()}), 403, "context_foreign"},
		"altered":                       {front.Health, event.PathOpen, question(event.OpenRequest{Topic: "orders", Token: token[:len(token)-4] + "AAAA"}), 403, "context_foreign"},
		"a workload that has no events": {back.Health, event.PathOpen, question(event.OpenRequest{Topic: "orders", Token: token}), 403, "denied_by_policy"},
		"at a gateway's health port":    {gateway.Health, event.PathOpen, "{}", 404, "404 page not found"},
		"too long":                      {front.Health, event.PathOpen, question(event.OpenRequest{Topic: "orders", Token: strings.Repeat("x", event.MaxBody)}), 400, ""},
		"no JSON":                       {front.Health, event.PathOpen, "x", 400, ""},
		"more than is asked":            {front.Health, event.PathOpen, `{"topic":"orders","tenant":"globex"}`, 400, ""},
	} {
		if status, reason := ask(c.at, c.path, c.body); status != c.status || c.reason != "" && reason != c.reason {
			t.Errorf("%s: %d %s, want %d %s", name, status, reason, c.status, c.reason)
		}
	}

	// A suspended tenant's events are dead letters; the others go on.
	for _, value := range []string{"g2", "g3"} {
		if r := produce("globex", "orders", value); r.Status != http.StatusOK {
			t.Fatalf("%d %q", r.Status, r.Body)
		}
	}
	globex := func(more string) {
		t.Helper()
		m.Apply(t, "apiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: globex}\nspec: {tier: bronze, region: us"+more+"}\n")
	}
	globex(", suspended: true")
	if r := produce("acme", "orders", "a2"); r.Status != http.StatusOK {
		t.Fatalf("%d %q", r.Status, r.Body)
	}
	if said := strings.Join(consume(1), ", "); said != "a2 is acme" {
		t.Errorf("%s", said)
	}
	letters := client(kgo.ConsumeTopics("orders.dead"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())).PollFetches(ctx).Records()
	if len(letters) != 2 {
		t.Fatalf("%d dead letters, want 2", len(letters))
	}
	for _, h := range letters[0].Headers {
		if h.Key == event.HeaderReason && string(h.Value) != "tenant_suspended" {
			t.Errorf("%s", h.Value)
		}
	}
	globex("")
	check(t, producer.Client.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: letters[0].Value, Headers: letters[0].Headers}).FirstErr())
	if said := strings.Join(consume(1), ", "); said != "g2 is globex" {
		t.Errorf("sent again: %s", said)
	}
	if _, err := tokens.Seal(t.Context(), "orders"); !errors.Is(err, propagation.ErrTenantless) {
		t.Errorf("for no tenant: %v", err)
	}
}
