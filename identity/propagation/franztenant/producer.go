// Package franztenant gives producers and consumers by franz-go the tenants of their records, by the tokens of package event.
//
// A [Producer] sends no record that is for no tenant. A [Consumer] hands on batches of one tenant each, whose context is that of now; what is not
// taken goes to the dead-letter topic, and what could not be handled to the retry topic, with its token.
//
// It imports identity/propagation, identity/propagation/event and github.com/twmb/franz-go/pkg/kgo.
package franztenant

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
)

// Producer sends records for the tenants of requests.
type Producer struct {
	Client *kgo.Client
	Tokens event.Tokens
}

// ProduceSync sends records for the tenant of ctx, as [kgo.Client.ProduceSync] does; for none it sends nothing
// (propagation.ErrTenantless). Of the records one may be for another tenant, which its own Context then says. A record must name its topic, to which
// its token is bound.
func (p *Producer) ProduceSync(ctx context.Context, records ...*kgo.Record) kgo.ProduceResults {
	if err := p.seal(ctx, records); err != nil {
		results := make(kgo.ProduceResults, 0, len(records))
		for _, r := range records {
			results = append(results, kgo.ProduceResult{Record: r, Err: err})
		}
		return results
	}
	return p.Client.ProduceSync(ctx, records...)
}

// Produce sends a record for the tenant of ctx, as [kgo.Client.Produce] does. The promise is told of a record that is for no tenant.
func (p *Producer) Produce(ctx context.Context, record *kgo.Record, promise func(*kgo.Record, error)) {
	if err := p.seal(ctx, []*kgo.Record{record}); err != nil {
		if promise != nil {
			promise(record, err)
		}
		return
	}
	p.Client.Produce(ctx, record, promise)
}

// seal gives all of the records their tokens, or none is to be sent.
func (p *Producer) seal(ctx context.Context, records []*kgo.Record) error {
	for _, r := range records {
		of := ctx
		if r.Context != nil {
			of = r.Context
		}
		token, err := p.Tokens.Seal(of, r.Topic)
		if err != nil {
			return err
		}
		r.Headers = toFranz(event.Attach(fromFranz(r.Headers), token))
	}
	return nil
}

func fromFranz(headers []kgo.RecordHeader) []event.Header {
	list := make([]event.Header, 0, len(headers))
	for _, h := range headers {
		list = append(list, event.Header{Key: h.Key, Value: h.Value})
	}
	return list
}

func toFranz(headers []event.Header) []kgo.RecordHeader {
	list := make([]kgo.RecordHeader, 0, len(headers))
	for _, h := range headers {
		list = append(list, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return list
}
