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
// It imports identity/tenanttoken.
package attribution

import (
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

// Options of a [Ledger]; zero fields take the defaults named there.
type Options struct {
	MaxOpen int           // requests open at once; default 100,000
	Grace   time.Duration // how long a request that ended still counts; default 5 s
	TTL     time.Duration // after which a request that nobody closed has ended; default 10 min
}

// IDs are the digests of the IDs by which calls may be known to belong to a request. The zero value has none.
type IDs struct {
	list [3]tenanttoken.Digest // its context's, its trace ID's and its request ID's
	n    int
}

// Add adds a digest, once; there is room for three.
func (ids *IDs) Add(digest tenanttoken.Digest) {
	for i := range ids.n {
		if ids.list[i] == digest {
			return
		}
	}
	ids.list[ids.n] = digest
	ids.n++
}

// Ledger knows which request an ID belongs to.
type Ledger struct {
	options Options

	mu      sync.Mutex
	known   map[tenanttoken.Digest]*request // the newest, open or in its grace
	open    map[string]*request             // by lease
	opened  queue                           // those that are open, in the order of their arrival
	ending  queue                           // those that ended, in the order of their end
	retired []*request                      // to be used again
}

// maxRetired bounds the memory that is kept to be used again.
const maxRetired = 16384

type request struct {
	lease, uid, token string
	ids               IDs
	under             [len(IDs{}.list)]place // by the place of an ID
	at                time.Time              // of its arrival, or of its end
	before, after     *request               // in the queue that it is in
}

// place is a request's among those of one ID.
type place struct {
	older, newer *request
	conflict     bool // of the newest: they are not all of one tenant
}

// queue is a list from which any may be taken.
type queue struct{ first, last *request }

func (q *queue) add(r *request) {
	if r.before, r.after = q.last, nil; q.last == nil {
		q.first = r
	} else {
		q.last.after = r
	}
	q.last = r
}

func (q *queue) remove(r *request) {
	if r.before == nil {
		q.first = r.after
	} else {
		r.before.after = r.after
	}
	if r.after == nil {
		q.last = r.before
	} else {
		r.after.before = r.before
	}
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
	return &Ledger{options: options, known: map[tenanttoken.Digest]*request{}, open: map[string]*request{}}
}

// Open enters a request: ids are those by which its calls may be known, uid is its tenant's incarnation, token its
// context. It reports false when there is no room.
func (l *Ledger) Open(now time.Time, lease, uid, token string, ids IDs) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	if l.open[lease] != nil {
		return true
	}
	if lease == "" || len(l.open) >= l.options.MaxOpen {
		return false
	}
	r := l.make()
	r.lease, r.uid, r.token, r.ids, r.at = lease, uid, token, ids, now
	l.open[lease] = r
	l.opened.add(r)
	for i, id := range ids.list[:ids.n] {
		if older := l.known[id]; older != nil {
			before := older.place(id)
			before.newer = r
			r.under[i] = place{older: older, conflict: before.conflict || older.uid != uid}
		}
		l.known[id] = r
	}
	return true
}

func (l *Ledger) make() *request {
	last := len(l.retired) - 1
	if last < 0 {
		return &request{}
	}
	r := l.retired[last]
	l.retired = l.retired[:last]
	return r
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
	l.opened.remove(r)
	r.at = at
	l.ending.add(r)
}

// Match is the outcome of a look-up.
type Match uint8

// The outcomes.
const (
	Unknown    Match = iota
	Found            // the token is the request's context
	Conflicted       // several tenants were seen under this ID
)

// Find returns the context of the request that an ID belongs to: of the newest, when it belongs to several of one tenant.
func (l *Ledger) Find(now time.Time, id tenanttoken.Digest) (token string, match Match) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	newest := l.known[id]
	if newest == nil {
		return "", Unknown
	}
	if newest.place(id).conflict {
		return "", Conflicted
	}
	return newest.token, Found
}

// place is r's among those of an ID of its own.
func (r *request) place(id tenanttoken.Digest) *place {
	i := 0
	for r.ids.list[i] != id {
		i++
	}
	return &r.under[i]
}

// Len is how many requests are open.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

func (l *Ledger) expire(now time.Time) {
	for r := l.opened.first; r != nil && now.Sub(r.at) >= l.options.TTL; r = l.opened.first {
		l.end(r.at.Add(l.options.TTL), r.lease)
	}
	for r := l.ending.first; r != nil && now.Sub(r.at) >= l.options.Grace; r = l.ending.first {
		l.ending.remove(r)
		l.forget(r)
	}
}

func (l *Ledger) forget(gone *request) {
	for i, id := range gone.ids.list[:gone.ids.n] {
		was := gone.under[i]
		if was.older != nil {
			was.older.place(id).newer = was.newer
		}
		switch {
		case was.newer != nil:
			was.newer.place(id).older = was.older
		case was.older != nil:
			l.known[id] = was.older
		default:
			delete(l.known, id)
			continue
		}
		newest := l.known[id]
		if at := newest.place(id); at.conflict || was.conflict {
			at.conflict = newest.conflicts(id)
		}
	}
	if *gone = (request{}); len(l.retired) < maxRetired {
		l.retired = append(l.retired, gone)
	}
}

// conflicts looks at all requests of an ID, of which r is the newest.
func (r *request) conflicts(id tenanttoken.Digest) bool {
	for older := r.place(id).older; older != nil; older = older.place(id).older {
		if older.uid != r.uid {
			return true
		}
	}
	return false
}
