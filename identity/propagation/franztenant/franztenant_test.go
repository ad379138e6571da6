package franztenant_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/dedupe"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event/eventtest"
	"github.com/tenantmesh/tenantmesh/identity/propagation/franztenant"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a broker, a sidecar, and who produces and consumes by them.
type world struct {
	t        *testing.T
	broker   *kfake.Cluster
	sidecar  *eventtest.Sidecar
	tokens   *event.Sidecar
	plain    *kgo.Client // of anybody who reaches the broker
	producer *franztenant.Producer
	consumer *franztenant.Consumer
	ctx      context.Context
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, sidecar: eventtest.Start(t)}
	var err error
	w.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders", "orders.retry", "orders.dead", "invoices"))
	check(t, err)
	t.Cleanup(w.broker.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w.ctx = ctx
	w.tokens = event.NewSidecar(w.sidecar.URL)
	w.plain = w.client()
	w.producer = &franztenant.Producer{Client: w.plain, Tokens: w.tokens}
	w.consumer = w.consume()
	return w
}

func (w *world) client(options ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(w.broker.ListenAddrs()...), kgo.FetchMaxWait(50*time.Millisecond))...)
	check(w.t, err)
	w.t.Cleanup(client.CloseAllowingRebalance)
	return client
}

func (w *world) consume() *franztenant.Consumer {
	w.t.Helper()
	return &franztenant.Consumer{
		Client: w.client(kgo.ConsumerGroup("orders"), kgo.ConsumeTopics("orders", "orders.retry"), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())),
		Tokens: w.tokens,
		Routes: []franztenant.Route{{Topic: "orders", Retry: "orders.retry", DeadLetter: "orders.dead", Attempts: 3, Delay: 10 * time.Millisecond}},
	}
}

func (w *world) request(tenant, txn string) context.Context {
	w.t.Helper()
	ctx, err := propagation.NewVerifier(&propagation.Sidecar{URL: w.sidecar.URL}).Verify(w.ctx, []string{w.sidecar.Context(tenant, txn)})
	check(w.t, err)
	return ctx
}

func (w *world) produce(ctx context.Context, values ...string) {
	w.t.Helper()
	for _, value := range values {
		check(w.t, w.producer.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte(value)}).FirstErr())
	}
}

// put is a record of somebody who needs no wrapper.
func (w *world) put(value string, headers ...string) {
	w.t.Helper()
	r := &kgo.Record{Topic: "orders", Value: []byte(value)}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	check(w.t, w.plain.ProduceSync(w.ctx, r).FirstErr())
}

// until polls until so many values were handled; said are the batches: "tenant:value value".
func (w *world) until(n int, handle func(ctx context.Context, b franztenant.Batch) error) (said []string) {
	w.t.Helper()
	for handled := 0; handled < n; {
		check(w.t, w.consumer.Each(w.ctx, func(ctx context.Context, b franztenant.Batch) error {
			var values []string
			for _, r := range b.Events {
				values = append(values, string(r.Value))
			}
			said = append(said, b.Tenant.ID.String()+":"+strings.Join(values, " "))
			handled += len(values)
			if handle != nil {
				return handle(ctx, b)
			}
			return nil
		}))
	}
	return said
}

// all reads a topic until it has n records.
func (w *world) all(topic string, n int) (records []*kgo.Record) {
	w.t.Helper()
	client := w.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for len(records) < n {
		fetches := client.PollFetches(w.ctx)
		check(w.t, fetches.Err())
		records = append(records, fetches.Records()...)
	}
	return records
}

func header(r *kgo.Record, name string) string {
	i := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == name })
	if i < 0 {
		return ""
	}
	return string(r.Headers[i].Value)
}

// TestProduce: a record is sent for the tenant of its request, whatever token it had, and none is for no tenant.
func TestProduce(t *testing.T) {
	w := newWorld(t)
	r := &kgo.Record{Topic: "orders", Value: []byte("1"), Headers: []kgo.RecordHeader{{Key: "Txn-Event-Token", Value: []byte("somebody's")}, {Key: "k", Value: []byte("v")}}}
	check(t, w.producer.ProduceSync(w.request("acme", "t1"), r).FirstErr())
	err := w.producer.ProduceSync(w.ctx, &kgo.Record{Topic: "orders"}, &kgo.Record{Topic: "orders"}).FirstErr()
	if !errors.Is(err, propagation.ErrTenantless) || !strings.Contains(err.Error(), "tenantless outbound call: event of topic orders,") {
		t.Errorf("for no tenant: %v", err)
	}
	promised := make(chan error, 1)
	promise := func(_ *kgo.Record, err error) { promised <- err }
	w.producer.Produce(w.ctx, &kgo.Record{Topic: "orders"}, promise)
	if err := <-promised; !errors.Is(err, propagation.ErrTenantless) {
		t.Errorf("for no tenant: %v", err)
	}
	w.producer.Produce(w.request("globex", "t2"), &kgo.Record{Topic: "orders", Value: []byte("2")}, promise)
	check(t, <-promised)
	// One call may send for several, and sends for none when one is nobody's.
	mixed := []*kgo.Record{{Topic: "orders", Value: []byte("3")}, {Topic: "orders", Value: []byte("4"), Context: t.Context()}}
	if err := w.producer.ProduceSync(w.request("acme", "t3"), mixed...).FirstErr(); !errors.Is(err, propagation.ErrTenantless) {
		t.Errorf("one of two for no tenant: %v", err)
	}
	records := w.all("orders", 2)
	if len(records) != 2 || len(records[0].Headers) != 2 || header(records[0], "k") != "v" {
		t.Fatalf("%d records, %v", len(records), records[0].Headers)
	}
	if said := w.until(2, nil); !slices.Equal(said, []string{"acme:1", "globex:2"}) && !slices.Equal(said, []string{"acme:1 2"}) {
		t.Errorf("%v", said)
	}
}

// TestBatches: what comes at once is handed on tenant by tenant, each record in its own transaction, in order, once.
func TestBatches(t *testing.T) {
	w := newWorld(t)
	for i := range 4 {
		w.produce(w.request("acme", fmt.Sprint("a", i)), fmt.Sprint("a", i))
		w.produce(w.request("globex", fmt.Sprint("g", i)), fmt.Sprint("g", i))
	}
	order := map[string]string{}
	w.until(8, func(ctx context.Context, b franztenant.Batch) error {
		if tenant, _ := propagation.From(ctx); tenant.UID != b.Tenant.UID {
			t.Errorf("the batch of %s has the context of %s", b.Tenant.ID, tenant.ID)
		}
		for _, r := range b.Events {
			tenant, _ := propagation.From(r.Context)
			if tenant.UID != b.Tenant.UID || tenant.Txn != string(r.Value) {
				t.Errorf("record %s in the batch of %s has the context of %s of %s", r.Value, b.Tenant.ID, tenant.Txn, tenant.ID)
			}
			order[tenant.ID.String()] += string(r.Value)
		}
		return nil
	})
	if order["acme"] != "a0a1a2a3" || order["globex"] != "g0g1g2g3" {
		t.Errorf("%v", order)
	}
	// What was handled is committed: who comes next does not get it.
	w.consumer.Client.CloseAllowingRebalance()
	w.consumer = w.consume()
	w.produce(w.request("acme", "a4"), "a4")
	if said := w.until(1, nil); !slices.Equal(said, []string{"acme:a4"}) {
		t.Errorf("%v", said)
	}
}

// TestDeadLetters: what is for no tenant, foreign, over, or for a tenant that may not be served goes to the dead-letter topic with the reason, and holds
// up nothing; once the tenant may be served, it is taken as it was.
func TestDeadLetters(t *testing.T) {
	w := newWorld(t)
	stranger := eventtest.Start(t)
	good := w.sidecar.Token("acme", "orders", nil)
	over := func(e *tenanttoken.Event) {
		e.IssuedAt, e.Expiry = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	w.sidecar.Refuse("globex", event.TenantSuspended)
	cases := []struct {
		name    string
		headers []string
		want    event.Reason
	}{
		{"none", nil, event.Missing},
		{"a tenant's name", []string{"x-tenant-id", "acme"}, event.Missing},
		{"two", []string{event.HeaderToken, good, "TXN-EVENT-TOKEN", good}, event.Missing},
		{"forged", []string{event.HeaderToken, stranger.Token("acme", "orders", nil)}, event.Foreign},
		{"of another topic", []string{event.HeaderToken, w.sidecar.Token("acme", "invoices", nil), event.HeaderTopic, "invoices"}, event.Foreign},
		{"a context", []string{event.HeaderToken, w.sidecar.Context("acme", "t")}, event.Foreign},
		{"over", []string{event.HeaderToken, w.sidecar.Token("acme", "orders", over)}, event.Expired},
		{"suspended", []string{event.HeaderToken, w.sidecar.Token("globex", "orders", nil)}, event.TenantSuspended},
	}
	for _, c := range cases {
		w.put(c.name, c.headers...)
	}
	w.put("good", event.HeaderToken, good)
	if said := w.until(1, nil); !slices.Equal(said, []string{"acme:good"}) {
		t.Errorf("%v", said)
	}
	letters := w.all("orders.dead", len(cases))
	if len(letters) != len(cases) {
		t.Fatalf("%d dead letters, want %d", len(letters), len(cases))
	}
	for i, c := range cases {
		r := letters[i]
		if string(r.Value) != c.name || header(r, event.HeaderReason) != string(c.want) || header(r, event.HeaderDetail) == "" ||
			header(r, event.HeaderTopic) != "orders" || header(r, event.HeaderPartition) != "0" || header(r, event.HeaderOffset) != fmt.Sprint(i) {
			t.Errorf("%s: %s %v, want %s", c.name, r.Value, r.Headers, c.want)
		}
	}
	w.sidecar.Refuse("globex", "")
	last := letters[len(letters)-1]
	check(t, w.plain.ProduceSync(w.ctx, &kgo.Record{Topic: "orders", Value: last.Value, Headers: last.Headers}).FirstErr())
	if said := w.until(1, nil); !slices.Equal(said, []string{"globex:suspended"}) {
		t.Errorf("sent again: %v", said)
	}
}

// TestRetry: what fails comes again with its tenant, so often as the route says, and is a dead letter then; the others of the poll are not held up.
func TestRetry(t *testing.T) {
	w := newWorld(t)
	w.produce(w.request("acme", "t1"), "bad")
	w.produce(w.request("globex", "t2"), "good")
	token := header(w.all("orders", 1)[0], event.HeaderToken)
	broken := errors.New("broken")
	said := w.until(4, func(_ context.Context, b franztenant.Batch) error {
		if string(b.Events[0].Value) == "bad" {
			return broken
		}
		return nil
	})
	slices.Sort(said)
	if !slices.Equal(said, []string{"acme:bad", "acme:bad", "acme:bad", "globex:good"}) {
		t.Errorf("%v", said)
	}
	letter := w.all("orders.dead", 1)[0]
	if header(letter, event.HeaderReason) != "handling_failed" || header(letter, event.HeaderDetail) != "broken" || header(letter, event.HeaderToken) != token || header(letter, event.HeaderTopic) != "orders.retry" {
		t.Errorf("%v", letter.Headers)
	}
	for i, r := range w.all("orders.retry", 2) {
		if header(r, event.HeaderToken) != token || header(r, event.HeaderAttempts) != fmt.Sprint(i+1) {
			t.Errorf("repetition %d: %v", i, r.Headers)
		}
	}
}

// TestMoves: the records of a tenant that moves wait in the retry topic, without counting as failures, and the others go on.
func TestMoves(t *testing.T) {
	w := newWorld(t)
	w.sidecar.Refuse("acme", event.Fenced)
	w.produce(w.request("acme", "t1"), "a")
	w.produce(w.request("globex", "t2"), "g")
	if said := w.until(1, nil); !slices.Equal(said, []string{"globex:g"}) {
		t.Errorf("%v", said)
	}
	for len(w.all("orders.retry", 1)) < 5 { // more often than a failure would come again
		check(t, w.consumer.Each(w.ctx, func(context.Context, franztenant.Batch) error { return errors.New("nothing is to be handled") }))
	}
	w.sidecar.Refuse("acme", "")
	if said := w.until(1, nil); !slices.Equal(said, []string{"acme:a"}) {
		t.Errorf("%v", said)
	}
}

// TestOutage: while the sidecar does not answer, records wait; none is lost, and none is a dead letter.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	w.produce(w.request("acme", "t1"), "a")
	w.sidecar.Down(true)
	done := make(chan []string, 1)
	go func() { done <- w.until(1, nil) }()
	select {
	case said := <-done:
		t.Errorf("without a sidecar: %v", said)
	case <-time.After(time.Second):
	}
	w.sidecar.Down(false)
	if said := <-done; !slices.Equal(said, []string{"acme:a"}) {
		t.Errorf("%v", said)
	}
	// Who gives up has committed nothing.
	w.produce(w.request("acme", "t2"), "b")
	w.sidecar.Down(true)
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	if err := w.consumer.Each(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who gives up: %v", err)
	}
	w.sidecar.Down(false)
	if said := w.until(1, nil); !slices.Equal(said, []string{"acme:b"}) {
		t.Errorf("%v", said)
	}
}

// TestNothingIsLost: when dead letters cannot be sent, what was polled is not committed, and comes again.
func TestNothingIsLost(t *testing.T) {
	w := newWorld(t)
	w.put("nobody's")
	w.produce(w.request("acme", "t1"), "a")
	var full atomic.Bool
	full.Store(true)
	w.broker.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.KeepControl()
		if !full.Load() {
			return nil, nil, false
		}
		response := request.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range request.(*kmsg.ProduceRequest).Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.TopicAuthorizationFailed.Code
				answer.Partitions = append(answer.Partitions, partition)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
	handled := 0
	count := func(context.Context, franztenant.Batch) error { handled++; return nil }
	for handled == 0 {
		if err := w.consumer.Each(w.ctx, count); !errors.Is(err, kerr.TopicAuthorizationFailed) {
			t.Fatalf("it cannot be sent: %v", err)
		}
	}
	full.Store(false)
	if said := w.until(1, nil); !slices.Equal(said, []string{"acme:a"}) {
		t.Errorf("%v", said)
	}
	if letters := w.all("orders.dead", 1); string(letters[0].Value) != "nobody's" {
		t.Errorf("%s", letters[0].Value)
	}
}

// TestRoutes: a topic in no route is an error that says so, and its records stay.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	w.produce(w.request("acme", "t1"), "a")
	routes := w.consumer.Routes
	w.consumer.Routes = nil
	if err := w.consumer.Each(w.ctx, nil); err == nil || !strings.Contains(err.Error(), `topic "orders"`) {
		t.Errorf("%v", err)
	}
	w.consumer.Routes = []franztenant.Route{{Topic: "orders"}}
	if err := w.consumer.Each(w.ctx, nil); err == nil || !strings.Contains(err.Error(), "must have a DeadLetter") {
		t.Errorf("%v", err)
	}
	w.consumer.Routes = routes
	if said := w.until(1, nil); !slices.Equal(said, []string{"acme:a"}) {
		t.Errorf("%v", said)
	}
}

// TestOnce: with a Deduper, an event that comes twice is handled once for each tenant.
func TestOnce(t *testing.T) {
	w := newWorld(t)
	for _, tenant := range []string{"acme", "globex", "acme", "globex"} {
		w.produce(w.request(tenant, "t"), "order-1")
	}
	d, done := &dedupe.Deduper{Store: dedupe.NewMemory(0)}, map[string]int{}
	w.until(4, func(_ context.Context, b franztenant.Batch) error {
		for _, r := range b.Events {
			_, err := d.Do(r.Context, string(r.Value), func(context.Context) error { done[b.Tenant.ID.String()]++; return nil })
			check(t, err)
		}
		return nil
	})
	if done["acme"] != 1 || done["globex"] != 1 {
		t.Errorf("%v", done)
	}
}
