// Package event answers FOR WHICH TENANT IS THIS EVENT: tokens of events, whatever broker carries them and however they are encoded.
//
// A request's context is over after minutes; events wait longer. Where an event is produced, the sidecar exchanges the request's context for an
// event's token, which is bound to the topic and to the tenant's incarnation. Where it is consumed, the sidecar beside the consumer exchanges that
// for a context of now, and judges then whether the tenant may be served, and whether here. What is not taken is refused with a [Reason], and
// belongs into a dead-letter topic.
//
// # Concurrency
//
// A [Sidecar] may be used from many goroutines; everything else is functions of their arguments.
//
// It imports identity/propagation and identity/tenanttoken, and no broker's client. franztenant is for franz-go.
package event

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
)

// Names of records' headers. Brokers compare names as they are written; here their case does not count.
const (
	HeaderToken     = "txn-event-token"        // the event's token; one
	HeaderAttempts  = "x-tenantmesh-attempts"  // of a repetition: how often the event was handled before
	HeaderReason    = "x-tenantmesh-reason"    // of a dead letter: a [Reason]
	HeaderDetail    = "x-tenantmesh-detail"    // of a dead letter: why, in words; at most [MaxDetail] bytes
	HeaderTopic     = "x-tenantmesh-topic"     // of a dead letter: where it was
	HeaderPartition = "x-tenantmesh-partition" // likewise
	HeaderOffset    = "x-tenantmesh-offset"    // likewise
)

// MaxDetail bounds what a dead letter says of itself, in bytes.
const MaxDetail = 512

// Reason says why an event is not taken. The list is closed: context_expired and handling_failed are of events alone, all others are those of
// docs/reasons.md.
type Reason string

// The reasons.
const (
	Missing         Reason = "context_missing"  // no token, or several
	Foreign         Reason = "context_foreign"  // of another mesh or topic, forged or altered
	Expired         Reason = "context_expired"  // it was good once
	Revoked         Reason = "context_revoked"  // the transaction was
	TenantUnknown   Reason = "tenant_unknown"   //
	TenantSuspended Reason = "tenant_suspended" // send the event again once the suspension is lifted
	TenantDeleted   Reason = "tenant_deleted"   // or it is of another incarnation of the tenant
	Residency       Reason = "residency"        //
	Denied          Reason = "denied_by_policy" // the workload does not list the topic
	Misdirected     Reason = "misdirected"      // another cell owns the tenant: send the event again there
	Fenced          Reason = "write_fenced"     // the tenant moves: the event waits
	Failed          Reason = "handling_failed"  // the consumer's own code did not get it done
)

// reasons are those that a sidecar may answer with.
var reasons = map[Reason]bool{
	Missing: true, Foreign: true, Expired: true, Revoked: true, TenantUnknown: true, TenantSuspended: true, TenantDeleted: true, Residency: true, Denied: true,
	Misdirected: true, Fenced: true,
}

// Refusal is the error of an event that is not taken, and of one that may not be produced.
type Refusal struct {
	Reason Reason
	Detail string
}

// Error implements error.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Detail }

func refuse(reason Reason, format string, args ...any) error {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

// ErrUnavailable means that nobody could judge: the event must wait, and is not a dead letter.
var ErrUnavailable = errors.New("the sidecar could not judge the event")

// Tokens exchange contexts for events' tokens, and those for contexts of now. [Sidecar] does.
type Tokens interface {
	// Seal is the token for an event of a topic, for the tenant of ctx. [propagation.ErrTenantless] for none.
	Seal(ctx context.Context, topic string) (token string, err error)
	// Open returns ctx with the tenant that an event of a topic is for. The error is a [*Refusal], or [ErrUnavailable].
	Open(ctx context.Context, topic, token string) (context.Context, error)
}

// Header is a record's header.
type Header struct {
	Key   string
	Value []byte
}

// Attach returns headers with one token: others that were there are gone.
func Attach(headers []Header, token string) []Header { return set(headers, HeaderToken, token) }

// Token is the one token among a record's headers. The error is a [*Refusal].
func Token(headers []Header) (string, error) {
	var token string
	n := 0
	for _, h := range headers {
		if strings.EqualFold(h.Key, HeaderToken) {
			token = string(h.Value)
			n++
		}
	}
	if n != 1 {
		return "", refuse(Missing, "the event must carry one header %s (got %d)", HeaderToken, n)
	}
	return token, nil
}

// Attempts is how often an event was handled before, as a repetition says; 0 where nothing is said, or nothing that can be understood.
func Attempts(headers []Header) int {
	for _, h := range headers {
		if strings.EqualFold(h.Key, HeaderAttempts) {
			n, err := strconv.ParseUint(string(h.Value), 10, 16)
			if err != nil {
				return 0
			}
			return int(n)
		}
	}
	return 0
}

// Again returns the headers of an event's repetition, which was handled so often: its token stays.
func Again(headers []Header, attempts int) []Header {
	return set(headers, HeaderAttempts, strconv.Itoa(attempts))
}

// Place is where a record was.
type Place struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Dead returns the headers of an event's dead letter: its token stays, so that it can be sent again while that is good.
func Dead(headers []Header, refusal *Refusal, at Place) []Header {
	detail := strings.ToValidUTF8(refusal.Detail[:min(len(refusal.Detail), MaxDetail)], "")
	headers = set(headers, HeaderReason, string(refusal.Reason))
	headers = set(headers, HeaderDetail, detail)
	headers = set(headers, HeaderTopic, at.Topic)
	headers = set(headers, HeaderPartition, strconv.FormatInt(int64(at.Partition), 10))
	return set(headers, HeaderOffset, strconv.FormatInt(at.Offset, 10))
}

// set returns a copy of headers with one of that name.
func set(headers []Header, key, value string) []Header {
	out := make([]Header, 0, len(headers)+1)
	for _, h := range headers {
		if !strings.EqualFold(h.Key, key) {
			out = append(out, h)
		}
	}
	return append(out, Header{key, []byte(value)})
}

// Batch are events of one tenant's incarnation, in the order in which they came.
type Batch[R any] struct {
	Tenant propagation.Tenant // as the first of them says; each has its own transaction
	Events []R
}

// Split makes batches of events that were opened, one a tenant's incarnation, in the order of their first. It is propagation.ErrMissing for one that was
// not.
func Split[R any](events []R, context func(R) context.Context) (batches []Batch[R], err error) {
	known := map[string]int{} // by the incarnation
	for _, e := range events {
		tenant, ok := propagation.From(context(e))
		if !ok {
			return nil, fmt.Errorf("an event that was not opened is nobody's: %w", propagation.ErrMissing)
		}
		i, ok := known[tenant.UID]
		if !ok {
			i = len(batches)
			known[tenant.UID] = i
			batches = append(batches, Batch[R]{Tenant: tenant})
		}
		batches[i].Events = append(batches[i].Events, e)
	}
	return batches, nil
}
