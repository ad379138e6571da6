package fair

import (
	"slices"
	"time"
)

// The constants of waiting; doc.go has their sources.
const (
	MaxWait      = 5 * time.Millisecond // MaxWait is the longest that a request waits.
	waitInterval = 100 * time.Millisecond
	maxQueue     = 16
	maxWaiting   = 256
)

// waiter is a request that waits.
type waiter struct {
	ready   chan struct{} // holds a token once it is let in
	tenant  *tenant
	class   class
	kind    uint8
	began   int64
	granted bool
	ticket  Ticket
}

// queue is what waits of one tenant, oldest first.
type queue struct {
	of      [classes][maxQueue]*waiter
	len     [classes]int
	n       int
	at      int   // in the ring, 1 is the first; 0: not there
	quiet   int64 // until then nothing waits
	strikes int   // of the quiet times, in a row
	last    int64 // when something began to wait last
	success int64 // when something was let in last, or began to wait after nothing had
}

func (q *queue) push(w *waiter) {
	q.of[w.class][q.len[w.class]] = w
	q.len[w.class]++
	q.n++
}

func (q *queue) remove(w *waiter) {
	line := q.of[w.class][:q.len[w.class]]
	i := slices.Index(line, w)
	copy(line[i:], line[i+1:])
	line[len(line)-1] = nil
	q.len[w.class]--
	q.n--
}

// ring is the tenants that have something waiting.
type ring struct {
	tenants []*tenant
	turn    int // whose it is
	n       int // waiters
}

func (r *ring) add(t *tenant) {
	r.n++
	if t.queue.at == 0 {
		r.tenants = append(r.tenants, t)
		t.queue.at = len(r.tenants)
	}
}

// removed notes that a waiter of t is gone.
func (r *ring) removed(t *tenant) {
	r.n--
	if t.queue.n > 0 {
		return
	}
	last := len(r.tenants) - 1
	moved := r.tenants[last]
	r.tenants[t.queue.at-1], moved.queue.at = moved, t.queue.at
	r.tenants[last], r.tenants = nil, r.tenants[:last]
	t.queue.at = 0
}

// enqueue lets a request wait, nil when that would not help.
func (c *Controller) enqueue(at int64, t *tenant, k class, kind uint8) *waiter {
	q := &t.queue
	// A slot comes free as often as requests end; each of the tenants that wait has one in its turn.
	ahead := (q.n + 1) * max(1, len(c.waiting.tenants))
	expected := c.finder.latency * float64(ahead) / float64(max(1, c.open))
	if q.len[k] >= maxQueue || c.waiting.n >= maxWaiting || at < q.quiet || expected > MaxWait.Seconds() {
		return nil
	}
	if at-q.last >= int64(waitInterval) {
		q.success = at
	}
	q.last = at
	var w *waiter
	if n := len(c.idle); n > 0 {
		w, c.idle = c.idle[n-1], c.idle[:n-1]
	} else {
		w = &waiter{ready: make(chan struct{}, 1)}
	}
	w.tenant, w.class, w.kind, w.began, w.granted, w.ticket = t, k, kind, at, false, Ticket{}
	q.push(w)
	c.waiting.add(t)
	return w
}

// grant gives what is free to those who wait.
func (c *Controller) grant(at int64) {
	for tries := 0; tries < 4 && c.waiting.n > 0; tries++ {
		r := &c.waiting
		r.turn = (r.turn + 1) % len(r.tenants)
		t := r.tenants[r.turn]
		k := interactive
		if t.queue.len[interactive] == 0 {
			k = batch
		}
		if may, _ := c.may(at, t, k); !may {
			continue
		}
		w := t.queue.of[k][0]
		t.queue.remove(w)
		r.removed(t)
		t.queue.success, t.queue.strikes = at, 0
		w.granted, w.ticket = true, c.enter(at, t, k, w.kind)
		w.ready <- struct{}{}
	}
}

// Ready is sent to once a request that waits is let in. It is nil unless the outcome is Waiting.
func (v *Verdict) Ready() <-chan struct{} {
	if v.waiter == nil {
		return nil
	}
	return v.waiter.ready
}

// Settle ends the wait, and says what became of the request. It must be called once for each verdict whose outcome is Waiting, whether
// or not Ready was received from.
func (c *Controller) Settle(now time.Time, v *Verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := v.waiter
	if w == nil {
		return
	}
	v.waiter = nil
	at := c.clock.at(now)
	t := w.tenant
	if w.granted {
		v.Outcome, v.Ticket = Admitted, w.ticket
	} else {
		t.queue.remove(w)
		c.waiting.removed(t)
		t.turn(at)
		if q := &t.queue; at-q.success >= int64(waitInterval) && at >= q.quiet {
			q.strikes = min(q.strikes+1, 5)
			q.quiet = at + int64(1<<(q.strikes-1))*int64(waitInterval)
			q.success = q.quiet
		}
		c.refuse(t, w.class, v)
	}
	select {
	case <-w.ready:
	default:
	}
	w.tenant = nil
	c.idle = append(c.idle, w)
}
