// Package inflight answers WHAT IS OPEN: the requests that this sidecar admitted and that have not ended, with whose
// they are and the epoch they were admitted under. A drain waits for all of them, a move for those of one tenant.
//
// The end of a request may be seen before its admission, because a client may hang up while the check is pending: an
// end without a beginning is remembered for a while, and the beginning then opens nothing.
//
// # Concurrency
//
// A [Ledger] may be used from many goroutines. Time is an argument.
//
// It imports identity, policy/limit/fair and ledger.
package inflight

import (
	"strings"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
)

// Options of a [Ledger]; zero fields take the defaults named there.
type Options struct {
	MaxOpen  int           // requests open at once; default [meshname.MaxOpen]
	Lifetime time.Duration // after which a request whose end was not seen has ended, as Envoy's bounds say; default [meshname.LeaseTime]
	Early    time.Duration // at least as long as a check may take; default 10 s
}

// maxEarly bounds the ends without a beginning that are remembered, in each of two generations.
const maxEarly = 16384

// Request is an admitted request.
type Request struct {
	Tenant identity.TenantID
	UID    string             // of the tenant's incarnation
	Epoch  int64              // of the placement that it was admitted under
	Stream bool               // an upgrade, or of a class that streams: it lasts as long as it is used
	Held   *Held              // what it was let in by, where Envoy holds a call open beside it to end it by; nil: none is
	Within bool               // it came from another workload of the cell
	Usage  ledger.UsageRecord // to be completed at its end; Requests is 0 for none
	Seat   *ledger.Seat       // of its tenant, for Usage; nil: none
	Since  time.Time          // or when it was last renewed
	Place  fair.Ticket        // in the service; zero: it takes none
}

// Held is what a request was let in by that may be judged again while it is open. Nobody changes it.
type Held struct {
	Txn      string
	Issuer   string             // of the token, at a gateway
	Key      [32]byte           // thumbprint of the issuer's key that signed it
	Peer     identity.Principal // before a service
	Shown    string             // SHA-256 of the peer's certificate, hexadecimal
	Workload string             // "": no policy was asked
	Method   string
	Path     string // to match by
	Purpose  string // why an AccessGrant is used
}

// Ledger knows the open requests by their lease.
type Ledger struct {
	options Options

	mu            sync.Mutex
	open          map[string]*Request
	retired       []*Request          // to be used again
	fresh, former map[string]struct{} // ends without a beginning: two generations
	turned        time.Time
}

// New returns an empty ledger.
func New(options Options) *Ledger {
	if options.MaxOpen == 0 {
		options.MaxOpen = meshname.MaxOpen
	}
	if options.Lifetime == 0 {
		options.Lifetime = meshname.LeaseTime
	}
	if options.Early == 0 {
		options.Early = 10 * time.Second
	}
	return &Ledger{options: options, open: map[string]*Request{}, fresh: map[string]struct{}{}}
}

// Outcome is what became of a beginning.
type Outcome uint8

// The outcomes.
const (
	Begun Outcome = iota
	Gone          // its end was seen before: the client hung up, and nothing is open
	Full          // there is no room: a request that nobody waits for may not run
)

// Begin enters a request.
func (l *Ledger) Begin(lease string, r Request) Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.early(lease) {
		return Gone
	}
	if len(l.open) >= l.options.MaxOpen {
		l.expire(r.Since)
	}
	if lease == "" || len(l.open) >= l.options.MaxOpen {
		return Full
	}
	l.open[lease] = l.keep(r)
	return Begun
}

// maxRetired bounds the memory that is kept to be used again.
const maxRetired = 4096

func (l *Ledger) keep(r Request) *Request {
	last := len(l.retired) - 1
	if last < 0 {
		made := r // else every call's r is on the heap
		return &made
	}
	kept := l.retired[last]
	l.retired, *kept = l.retired[:last], r
	return kept
}

// retire takes a request out of the ledger, and returns what it was.
func (l *Ledger) retire(lease string, r *Request) Request {
	delete(l.open, lease)
	was := *r
	if *r = (Request{}); len(l.retired) < maxRetired {
		l.retired = append(l.retired, r)
	}
	return was
}

// early takes back an end that came first.
func (l *Ledger) early(lease string) bool {
	_, fresh := l.fresh[lease]
	_, former := l.former[lease]
	delete(l.fresh, lease)
	delete(l.former, lease)
	return fresh || former
}

// HungUp reports, once, whether the end of a request was seen that was never begun.
func (l *Ledger) HungUp(lease string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.early(lease)
}

// Renew notes that a request is still open.
func (l *Ledger) Renew(now time.Time, lease string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.open[lease]; r != nil {
		r.Since = now
	}
}

// Clear ends every request, and returns those that were open: the Envoy that had them is gone.
func (l *Ledger) Clear() map[string]Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := make(map[string]Request, len(l.open))
	for lease, r := range l.open {
		open[lease] = l.retire(lease, r)
	}
	return open
}

// End ends a request, and returns it if it was open. When it was not, and was not settled (its beginning may yet come),
// the end is remembered.
func (l *Ledger) End(now time.Time, lease string, settled bool) (Request, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.open[lease]; r != nil {
		return l.retire(lease, r), true
	}
	if settled {
		return Request{}, false
	}
	if len(l.fresh) >= maxEarly || now.Sub(l.turned) >= l.options.Early {
		l.fresh, l.former, l.turned = map[string]struct{}{}, l.fresh, now
	}
	l.fresh[strings.Clone(lease)] = struct{}{} // what it was cut from is not remembered
	return Request{}, false
}

// Readmit counts an open request under another epoch: it was held, and has not gone anywhere yet. It reports false when
// the request is not open any more.
func (l *Ledger) Readmit(lease string, epoch int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.open[lease]
	if r != nil {
		r.Epoch = epoch
	}
	return r != nil
}

func (l *Ledger) expire(now time.Time) {
	for lease, r := range l.open {
		if now.Sub(r.Since) > l.options.Lifetime {
			l.retire(lease, r)
		}
	}
}

// Open is how many requests are open.
func (l *Ledger) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// Find returns an open request.
func (l *Ledger) Find(lease string) (Request, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.open[lease]; ok {
		return *r, true
	}
	return Request{}, false
}

// Older is how many requests of a tenant are open that were admitted under an epoch before epoch, and how many of them
// are streams. It looks at all that are open: only a move asks.
func (l *Ledger) Older(now time.Time, uid string, epoch int64) (count, streams int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	for _, r := range l.open {
		if r.UID == uid && r.Epoch < epoch {
			if count++; r.Stream {
				streams++
			}
		}
	}
	return count, streams
}
