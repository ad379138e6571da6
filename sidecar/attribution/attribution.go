// Package attribution answers WHICH TENANT DOES AN OUTBOUND CALL BELONG TO: the ledger of the requests that this
// sidecar let in, by the IDs that their signed contexts carry.
//
// An ID is entered only when the context's signer put its digest there, so nobody can claim another's request; one
// that is seen with two tenants all the same is refused for both. What is open is never forgotten: when there is no
// room, the newcomer is refused.
//
// # Concurrency
//
// A [Ledger] may be used from many goroutines. Time is an argument.
//
// It imports the standard library only.
package attribution

import (
	"container/list"
	"slices"
	"sync"
	"time"
)

// Options of a [Ledger]; zero fields take the defaults named there.
type Options struct {
	MaxOpen int           // requests open at once; default 100,000
	Grace   time.Duration // how long a request that ended still counts; default 5 s
	TTL     time.Duration // after which a request that nobody closed has ended; default 10 min
}

// Ledger knows which request an ID belongs to.
type Ledger struct {
	options Options

	mu     sync.Mutex
	known  map[string][]*request // by ID: open, or in their grace; in the order of their arrival
	open   map[string]*request   // by lease
	opened list.List             // of *request, those that are open, in the order of their arrival
	ending []ended               // in the order of their end
}

type request struct {
	lease, uid, token string
	ids               []string
	since             time.Time
	element           *list.Element // of opened
}

type ended struct {
	request *request
	at      time.Time
}

// New returns an empty ledger.
func New(options Options) *Ledger {
	if options.MaxOpen == 0 {
		options.MaxOpen = 100_000
	}
	if options.Grace == 0 {
		options.Grace = 5 * time.Second
	}
	if options.TTL == 0 {
		options.TTL = 10 * time.Minute
	}
	return &Ledger{options: options, known: map[string][]*request{}, open: map[string]*request{}}
}

// Open enters a request: ids are digests of the IDs by which its calls may be known, uid is its tenant's incarnation,
// token its context. It reports false when there is no room.
func (l *Ledger) Open(now time.Time, lease, uid, token string, ids []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	if l.open[lease] != nil {
		return true
	}
	if lease == "" || len(l.open) >= l.options.MaxOpen {
		return false
	}
	r := &request{lease: lease, uid: uid, token: token, ids: ids, since: now}
	l.open[lease] = r
	r.element = l.opened.PushBack(r)
	for _, id := range ids {
		l.known[id] = append(l.known[id], r)
	}
	return true
}

// Close ends a request; its calls count for the grace.
func (l *Ledger) Close(now time.Time, lease string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	l.end(now, lease)
}

func (l *Ledger) end(at time.Time, lease string) {
	r := l.open[lease]
	if r == nil {
		return
	}
	delete(l.open, lease)
	l.opened.Remove(r.element)
	r.element = nil
	l.ending = append(l.ending, ended{r, at})
}

// Match is the outcome of a look-up.
type Match uint8

// The outcomes.
const (
	Unknown    Match = iota
	Found            // the token is the request's context
	Conflicted       // several tenants were seen under this ID
)

// Find returns the context of the request that an ID belongs to.
func (l *Ledger) Find(now time.Time, id string) (token string, match Match) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	requests := l.known[id]
	if len(requests) == 0 {
		return "", Unknown
	}
	last := requests[len(requests)-1]
	for _, r := range requests {
		if r.uid != last.uid {
			return "", Conflicted
		}
	}
	return last.token, Found
}

// Len is how many requests are open.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

func (l *Ledger) expire(now time.Time) {
	for first := l.opened.Front(); first != nil; first = l.opened.Front() {
		r := first.Value.(*request)
		if now.Sub(r.since) < l.options.TTL {
			break
		}
		l.end(r.since.Add(l.options.TTL), r.lease)
	}
	for len(l.ending) > 0 && now.Sub(l.ending[0].at) >= l.options.Grace {
		gone := l.ending[0].request
		for _, id := range gone.ids {
			left := slices.DeleteFunc(l.known[id], func(r *request) bool { return r == gone })
			if l.known[id] = left; len(left) == 0 {
				delete(l.known, id)
			}
		}
		l.ending = l.ending[1:]
	}
}
