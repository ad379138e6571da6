package franztenant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
)

// Route says where the records of a topic go that are not handled.
type Route struct {
	Topic      string
	DeadLetter string        // required
	Retry      string        // of records whose handling failed, or whose tenant moves; "": those of a failure are dead letters, those of a move wait
	Attempts   int           // how often a record is handled, at most; 0: 5
	Delay      time.Duration // how long a record of the retry topic waits there; 0: 1 s
}

// Batch are records of one tenant; each has the context of its own transaction in its field Context.
type Batch = event.Batch[*kgo.Record]

// Consumer hands on records for their tenants. One goroutine uses it. Its client commits nothing by itself (kgo.DisableAutoCommit), and had better
// hold rebalances while records are handled (kgo.BlockRebalanceOnPoll).
type Consumer struct {
	Client *kgo.Client
	Tokens event.Tokens
	Routes []Route     // of each topic that the client consumes, as a Topic or a Retry
	Most   int         // records a poll; 0: 500
	Sender *kgo.Client // of dead letters and repetitions; nil: Client
}

// unavailablePause is between two attempts to have a record judged while nobody can.
const unavailablePause = 200 * time.Millisecond

// Each polls once, has every record judged, hands each tenant's to handle, one batch after another, sends on what was not taken and what handle failed
// for, and then commits. handle's ctx is that of the batch's first record. On an error nothing is committed, and the same records come again: a
// record is handled at least once (package dedupe).
//
// While the sidecar does not answer, Each waits: until ctx ends.
func (c *Consumer) Each(ctx context.Context, handle func(ctx context.Context, batch Batch) error) (err error) {
	most := c.Most
	if most == 0 {
		most = 500
	}
	fetches := c.Client.PollRecords(ctx, most)
	defer c.Client.AllowRebalance()
	records := fetches.Records()
	defer func() {
		if err != nil {
			c.rewind(records)
		}
	}()
	if err := fetches.Err0(); err != nil {
		return err
	}
	var failed []error
	fetches.EachError(func(topic string, partition int32, err error) {
		failed = append(failed, fmt.Errorf("topic %s, partition %d: %w", topic, partition, err))
	})
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	good, letters, err := c.judge(ctx, records)
	if err != nil {
		return err
	}
	batches, err := event.Split(good, func(r *kgo.Record) context.Context { return r.Context })
	if err != nil {
		return err
	}
	for _, batch := range batches {
		if err := handle(batch.Events[0].Context, batch); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for _, r := range batch.Events {
				letter, err := c.again(r, err)
				if err != nil {
					return err
				}
				letters = append(letters, letter)
			}
		}
	}
	if len(letters) > 0 {
		sender := c.Sender
		if sender == nil {
			sender = c.Client
		}
		if err := sender.ProduceSync(ctx, letters...).FirstErr(); err != nil {
			return fmt.Errorf("dead letters and repetitions could not be sent, and their records are not committed: %w", err)
		}
	}
	return c.Client.CommitRecords(ctx, records...)
}

// rewind has records come again.
func (c *Consumer) rewind(records []*kgo.Record) {
	first := map[string]map[int32]kgo.EpochOffset{}
	for _, r := range records {
		if first[r.Topic] == nil {
			first[r.Topic] = map[int32]kgo.EpochOffset{}
		}
		if at, ok := first[r.Topic][r.Partition]; !ok || r.Offset < at.Offset {
			first[r.Topic][r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset}
		}
	}
	c.Client.SetOffsets(first)
}

// judge opens records, and makes letters of those that are not taken. Their order stays.
func (c *Consumer) judge(ctx context.Context, records []*kgo.Record) (good, letters []*kgo.Record, err error) {
	opened := map[[2]string]context.Context{} // by topic and token: a transaction's records have one
	for _, r := range records {
		route, err := c.route(r.Topic)
		if err != nil {
			return nil, nil, err
		}
		if r.Topic == route.Retry {
			if err := wait(ctx, time.Until(r.Timestamp.Add(route.delay()))); err != nil {
				return nil, nil, err
			}
		}
		var refusal *event.Refusal
		token, err := event.Token(fromFranz(r.Headers))
		key := [2]string{route.Topic, token}
		if err == nil && opened[key] == nil {
			opened[key], err = c.open(ctx, route, token)
		}
		switch {
		case err == nil:
			r.Context = opened[key]
			good = append(good, r)
		case errors.As(err, &refusal) && refusal.Reason == event.Fenced:
			letters = append(letters, letter(r, route.Retry, event.Again(fromFranz(r.Headers), event.Attempts(fromFranz(r.Headers)))))
		case errors.As(err, &refusal):
			letters = append(letters, dead(r, route, refusal))
		default:
			return nil, nil, err
		}
	}
	return good, letters, nil
}

// open has a token judged, as soon as somebody can.
func (c *Consumer) open(ctx context.Context, route *Route, token string) (context.Context, error) {
	for {
		opened, err := c.Tokens.Open(ctx, route.Topic, token)
		var refusal *event.Refusal
		if held := errors.As(err, &refusal) && refusal.Reason == event.Fenced && route.Retry == ""; !held && !errors.Is(err, event.ErrUnavailable) {
			return opened, err
		}
		if err := wait(ctx, unavailablePause); err != nil {
			return nil, err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// route is that of a topic that is consumed. A token is bound to the topic that the record was produced to, which no header says: anybody can write those.
func (c *Consumer) route(topic string) (*Route, error) {
	i := slices.IndexFunc(c.Routes, func(r Route) bool { return topic == r.Topic || topic == r.Retry })
	if i < 0 {
		return nil, fmt.Errorf("topic %q is consumed, and is in no Route: add one", topic)
	}
	if c.Routes[i].DeadLetter == "" {
		return nil, fmt.Errorf("the Route of topic %q must have a DeadLetter (got %q)", c.Routes[i].Topic, "")
	}
	return &c.Routes[i], nil
}

func (r *Route) delay() time.Duration {
	if r.Delay == 0 {
		return time.Second
	}
	return r.Delay
}

func (r *Route) attempts() int {
	if r.Attempts == 0 {
		return 5
	}
	return r.Attempts
}

// again is what a record becomes whose handling failed.
func (c *Consumer) again(r *kgo.Record, failure error) (*kgo.Record, error) {
	route, err := c.route(r.Topic)
	if err != nil {
		return nil, err
	}
	headers := fromFranz(r.Headers)
	attempts := event.Attempts(headers) + 1
	if route.Retry == "" || attempts >= route.attempts() {
		return dead(r, route, &event.Refusal{Reason: event.Failed, Detail: failure.Error()}), nil
	}
	return letter(r, route.Retry, event.Again(headers, attempts)), nil
}

func dead(r *kgo.Record, route *Route, refusal *event.Refusal) *kgo.Record {
	return letter(r, route.DeadLetter, event.Dead(fromFranz(r.Headers), refusal, event.Place{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}))
}

func letter(r *kgo.Record, topic string, headers []event.Header) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: toFranz(headers)}
}
