package fair

import (
	"math"
	"sync"
	"time"
)

// Constants of a controller.
const (
	defaultTenants = 65536
	maxWeight      = 1000
	activeTime     = time.Second            // after which a tenant without requests is forgotten
	demandTime     = 250 * time.Millisecond // demand is that of this and the former one
	levelTime      = 10 * time.Millisecond  // between two looks at all that are active, and
	lookTime       = 20 * time.Microsecond  // for each of them: a look takes a hundredth of that
	LongTime       = 30 * time.Second       // LongTime is how long a request counts.
	minRetry       = time.Second
	maxRetry       = 30 * time.Second
	useTime        = 500 * time.Millisecond // that use is averaged over
	overshoot      = 3                      // limits, up to which who used less than its share on average is let in
	burst          = 3                      // deviations of the number of open requests
	satiety        = 0.8                    // of its share, which who demands more uses on average
	burstSlope     = 4                      // requests in a burst for each that was not used on average
	tiny           = 1e-9
)

// Request is one request to a service.
type Request struct {
	Tenant string // uid of the incarnation
	Weight int    // 1 to 1000; others count as the nearest
	Batch  bool   // its class is batch
	Kind   uint8  // of request, below Kinds: latencies of one kind are alike
	Min    int    // least limit; below 1: 10
	Max    int    // greatest limit; below 1: 1000
	Seat   *Seat  // of the tenant; nil: it is looked up
}

// Seat is where a [Controller] has a tenant, for who asks for it again and again. The zero Seat is nowhere; a seat is used with one
// controller only.
type Seat struct{ of *tenant }

// Ticket stands for a request that was let in. The zero Ticket stands for none.
type Ticket struct{ slot, turn uint32 }

// Outcome is what becomes of a request.
type Outcome uint8

// The outcomes.
const (
	Refused Outcome = iota
	Admitted
	Waiting // until Verdict.Ready or MaxWait; then Settle
)

// Verdict is the answer to a request.
type Verdict struct {
	Outcome Outcome
	Ticket  Ticket
	Under   bool          // under its share, whatever the outcome
	Open    int           // of the tenant, before this request
	Share   float64       // of the tenant
	Retry   time.Duration // when refused: 1 s to 30 s
	waiter  *waiter
}

// Answered says how a request ended.
type Answered struct {
	Latency time.Duration // in the service; 0: not known
	Failed  bool          // it was not answered, or not well: a failure may be quick for no good reason
}

type class uint8

const (
	interactive class = iota
	batch
	classes
)

// tenant is one that is active.
type tenant struct {
	uid    string
	weight float64
	index  int // in Controller.active
	open   [classes]int
	seen   int64
	use    [classes]float64 // average of open requests
	passed int64            // until when

	period  int64            // of demandTime
	refused [2][classes]bool // in it, and in the former, of who used its share

	greedy  bool    // demands more than its share
	counted float64 // demand that is taken from room, unless greedy

	queue queue
}

// node is a request that is open.
type node struct {
	tenant     *tenant
	turn       uint32
	class      class
	kind       uint8
	open       int32 // with it, when it was let in
	at         int64
	prev, next uint32 // in the order of at; 0 is the head
}

// beyond is how far over its share, as a factor, a tenant takes room that others were refused who are not.
const beyond = 1.5

// Controller lets requests to one service in.
type Controller struct {
	mu      sync.Mutex
	finder  finder
	clock   clock
	tenants map[string]*tenant
	active  []*tenant
	most    int
	rest    *tenant // those beyond
	nodes   []node  // [0] is the head of the open ones
	free    []uint32
	spare   []*tenant
	open    int
	weight  float64 // of all that are active

	// The level of shares is room over greed: what the modest do not demand, and the weight of the greedy.
	room, greed float64
	wanting     int // the greedy that were refused, and are not far beyond their share
	looked      int64
	since       int // operations
	force       bool

	waiting ring
	idle    []*waiter
}

// New returns a controller that knows at most maxTenants apart; 0: 65536.
func New(maxTenants int) *Controller {
	if maxTenants <= 0 {
		maxTenants = defaultTenants
	}
	c := &Controller{tenants: map[string]*tenant{}, most: maxTenants, nodes: make([]node, 1)}
	c.finder.bounds(0, 0)
	c.room = c.finder.limit
	return c
}

// clock makes nanoseconds of times that may jump: it stands still while they go back, and follows again from there when
// they went back by over a second.
type clock struct {
	begun  bool
	origin time.Time
	last   int64
}

func (c *clock) at(now time.Time) int64 {
	if !c.begun {
		c.begun, c.origin = true, now
	}
	at := int64(now.Sub(c.origin))
	if at < c.last-int64(time.Second) {
		c.origin = now.Add(-time.Duration(c.last))
	}
	c.last = max(c.last, at)
	return c.last
}

// Admit lets a request in, or not.
func (c *Controller) Admit(now time.Time, r *Request) Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.clock.at(now)
	if f := &c.finder; r.Min != int(f.low) || r.Max != int(f.high) {
		before := f.limit
		f.bounds(r.Min, r.Max)
		c.room += f.limit - before
	}
	if c.finder.probing { // a service from which nothing comes back ends no probe
		c.finder.close(at)
	}
	c.expire(at)
	c.look(at)
	t := c.tenant(at, r)
	k := interactive
	if r.Batch {
		k = batch
	}
	v := Verdict{Open: t.open[interactive] + t.open[batch], Share: c.share(t, k)}
	may, under := c.may(at, t, k)
	// Who is under its share is let in, but for its max-min share while thrice the limit are open.
	v.Under = under || !may && k == interactive && t.use[k] < v.Share && float64(v.Open+1) <= v.Share
	if may {
		v.Outcome, v.Ticket = Admitted, c.enter(at, t, k, r.Kind)
		return v
	}
	if v.waiter = c.enqueue(at, t, k, r.Kind); v.waiter != nil {
		v.Outcome = Waiting
		return v
	}
	c.refuse(t, k, &v)
	return v
}

// may reports whether a request may be let in, and whether its tenant is under its share. A tenant's batch requests come after
// its interactive ones: those need not wait for what is open of batch.
func (c *Controller) may(at int64, t *tenant, k class) (may, under bool) {
	t.pass(at)
	all, short := t.open[interactive]+t.open[batch]+1, 0
	mine, use := t.open[interactive]+1, t.use[interactive]
	if k == batch {
		short = max(0, int(math.Ceil(use))-t.open[interactive])
		all += short
		mine, use = all, use+t.use[batch]
	}
	share := c.share(t, k)
	switch within := float64(c.open) < overshoot*c.finder.recent; {
	case float64(all) <= c.guaranteed(t, k)+tiny:
		return true, true
	case within && use < share && float64(mine) <= c.reach(t, k, share, use):
		return true, true
	case c.wanting > 0 && use > beyond*share:
		return false, false
	default:
		return float64(c.open+1+short) <= c.finder.inForce(), false
	}
}

// reach is how many requests may be open of a tenant that used less than its share on average: requests come in bursts, of
// about the root of their mean (Poisson's deviation), three times, and never more than the limit. Who demands more than its share has no bursts, and its share
// rounded up; nor has batch.
func (c *Controller) reach(t *tenant, k class, share, use float64) float64 {
	over := 1.0
	if k == batch {
		return share
	}
	if !t.hungry(k) {
		over += min(burstSlope*(share-use), burst*math.Sqrt(share)+1)
	}
	return min(share+over, c.finder.limit)
}

// pass brings the averages of open requests up to at.
func (t *tenant) pass(at int64) {
	if at > t.passed {
		kept := math.Exp(-float64(at-t.passed) / float64(useTime))
		for k, n := range t.open {
			t.use[k] = t.use[k]*kept + float64(n)*(1-kept)
		}
		t.passed = at
	}
}

// share is the tenant's share: the greedy have the level times their weight; one that is not would get, if it became so,
// what it demands now besides.
func (c *Controller) share(t *tenant, k class) float64 {
	share := 0.0
	if t.greedy {
		share = t.weight * c.room / c.greed
	} else {
		share = t.weight * (c.room + t.counted) / (c.greed + t.weight)
	}
	if c.finder.probing && t.hungry(k) {
		share *= c.finder.inForce() / c.finder.limit
	}
	return max(share, c.guaranteed(t, k))
}

// guaranteed is the share that the tenant has whatever the others demand.
func (c *Controller) guaranteed(t *tenant, k class) float64 {
	if t.hungry(k) {
		return c.finder.inForce() * t.weight / c.weight
	}
	return c.finder.limit * t.weight / c.weight
}

func (c *Controller) enter(at int64, t *tenant, k class, kind uint8) Ticket {
	var slot uint32
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
	} else {
		c.nodes = append(c.nodes, node{})
		slot = uint32(len(c.nodes) - 1)
	}
	t.pass(at)
	c.open++
	t.open[k]++
	last := c.nodes[0].prev
	turn := c.nodes[slot].turn + 1
	c.nodes[slot] = node{tenant: t, turn: turn, class: k, kind: kind, open: int32(c.open), at: at, prev: last}
	c.nodes[last].next, c.nodes[0].prev = slot, slot
	return Ticket{slot, turn}
}

func (c *Controller) refuse(t *tenant, k class, v *Verdict) {
	v.Outcome = Refused
	if t.use[interactive]+t.use[batch] >= satiety*v.Share { // otherwise it was a burst
		t.refused[0][k] = true
	}
	over := float64(v.Open+1) / max(1, v.Share)
	wait := max(c.finder.latency, slack) * over * float64(time.Second)
	v.Retry = min(maxRetry, max(minRetry, time.Duration(min(wait, float64(maxRetry)))))
}

// Done ends a request that was let in; a ticket that ended before, or the zero one, changes nothing.
func (c *Controller) Done(now time.Time, ticket Ticket, a Answered) {
	if ticket.slot == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(ticket.slot) >= len(c.nodes) || c.nodes[ticket.slot].turn != ticket.turn || c.nodes[ticket.slot].tenant == nil {
		return
	}
	at := c.clock.at(now)
	ended := c.leave(at, ticket.slot)
	before := c.finder.limit
	c.finder.ended(at, ended.at, a.Latency, ended.kind, int(ended.open), c.open, a.Failed)
	c.room += c.finder.limit - before
	c.expire(at)
	c.look(at)
	c.grant(at)
}

// leave frees the slot of a request.
func (c *Controller) leave(at int64, slot uint32) node {
	n := c.nodes[slot]
	c.nodes[n.prev].next = n.next
	c.nodes[n.next].prev = n.prev
	c.nodes[slot] = node{turn: n.turn}
	c.free = append(c.free, slot)
	c.open--
	n.tenant.pass(at)
	n.tenant.open[n.class]--
	n.tenant.seen = at
	return n
}

// expire lets go of requests that are open for too long to count.
func (c *Controller) expire(at int64) {
	for first := c.nodes[0].next; first != 0 && at-c.nodes[first].at >= int64(LongTime); first = c.nodes[0].next {
		c.leave(at, first)
	}
}

// Clear ends every request; those that wait go on waiting.
func (c *Controller) Clear(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.clock.at(now)
	for first := c.nodes[0].next; first != 0; first = c.nodes[0].next {
		c.leave(at, first)
	}
}

// tenant finds or makes the entry of a tenant.
func (c *Controller) tenant(at int64, r *Request) *tenant {
	weight := float64(min(max(1, r.Weight), maxWeight))
	t := c.find(r)
	if t.weight != weight && t != c.rest { // moved to another tier
		c.weight += weight - t.weight
		if t.greedy {
			c.greed += weight - t.weight
		}
		t.weight = weight
	}
	t.seen = at
	t.turn(at)
	return t
}

// find finds or makes the entry of a tenant. One that was forgotten has no uid.
func (c *Controller) find(r *Request) *tenant {
	if r.Seat != nil && r.Seat.of != nil && r.Seat.of.uid == r.Tenant && r.Tenant != "" {
		return r.Seat.of
	}
	t := c.tenants[r.Tenant]
	if t == nil {
		t = c.join(r.Tenant, float64(min(max(1, r.Weight), maxWeight)))
	}
	if r.Seat != nil {
		r.Seat.of = t
	}
	return t
}

func (c *Controller) join(uid string, weight float64) *tenant {
	full := len(c.tenants) >= c.most
	if full && c.rest != nil {
		return c.rest
	}
	t := &tenant{}
	if n := len(c.spare); n > 0 {
		t, c.spare = c.spare[n-1], c.spare[:n-1]
	}
	*t = tenant{uid: uid, weight: weight, index: len(c.active), passed: c.clock.last}
	c.active = append(c.active, t)
	c.weight += weight
	if full {
		t.uid, c.rest = "", t
		return t
	}
	c.tenants[uid] = t
	return t
}

// turn begins the period of at.
func (t *tenant) turn(at int64) {
	period := at / int64(demandTime)
	if period == t.period {
		return
	}
	t.refused[1] = [classes]bool{}
	if period == t.period+1 {
		t.refused[1] = t.refused[0]
	}
	t.period, t.refused[0] = period, [classes]bool{}
}

// hungry reports whether the tenant demands more than its share.
func (t *tenant) hungry(k class) bool { return t.refused[0][k] || t.refused[1][k] }

// look finds the level anew: O(1) amortised, because it waits for a quarter as many operations as there are tenants; and at most a
// hundredth of a CPU, because it waits for a time of each.
func (c *Controller) look(at int64) {
	c.since++
	if !c.force && (at-c.looked < max(int64(levelTime), int64(len(c.active))*int64(lookTime)) || c.since < len(c.active)/4) {
		return
	}
	c.looked, c.since = at, 0
	c.weight = 0
	for i := 0; i < len(c.active); i++ {
		t := c.active[i]
		t.turn(at)
		t.pass(at)
		if t.open[interactive]+t.open[batch] == 0 && t.queue.n == 0 && at-t.seen >= int64(activeTime) {
			c.forget(t)
			i--
			continue
		}
		c.weight += t.weight
		t.greedy = true
	}
	c.fill()
}

// fill finds the level: from below, each round takes out those who demand no more than it. The rounds are bounded; fewer than
// are needed leave the level lower than it may be, and never below the limit over all weights.
func (c *Controller) fill() {
	c.room, c.greed = c.finder.limit, c.weight
	for range 8 {
		level, changed := c.room/c.greed, false
		for _, t := range c.active {
			demand := t.use[interactive] + t.use[batch]
			if !t.greedy || t.hungry(interactive) || t.hungry(batch) || demand > level*t.weight+tiny {
				continue
			}
			t.greedy, t.counted, changed = false, demand, true
			c.room -= demand
			c.greed -= t.weight
		}
		if !changed || c.greed < tiny {
			break
		}
	}
	c.greed = max(0, c.greed)
	c.wanting = 0
	for _, t := range c.active {
		if t.greedy && (t.hungry(interactive) || t.hungry(batch)) && t.use[interactive]+t.use[batch] < beyond*t.weight*c.room/c.greed {
			c.wanting++
		}
	}
}

func (c *Controller) forget(t *tenant) {
	last := len(c.active) - 1
	c.active[t.index] = c.active[last]
	c.active[t.index].index = t.index
	c.active[last] = nil
	c.active = c.active[:last]
	if t == c.rest {
		c.rest = nil
	} else {
		delete(c.tenants, t.uid)
	}
	t.uid = ""
	if len(c.spare) < 1024 {
		c.spare = append(c.spare, t)
	}
}

// State is how a controller stands.
type State struct {
	Limit       float64
	Open        int
	Waiting     int
	Tenants     int     // active
	Latency     float64 // of the last window, seconds
	WithoutLoad float64 // of the kind asked for, seconds; 0: not known
}

// State says how the controller stands, with the latency without load of a kind of request.
func (c *Controller) State(kind uint8) State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return State{c.finder.limit, c.open, c.waiting.n, len(c.active), c.finder.latency, c.finder.withoutLoad(kind)}
}

// Standing says where a tenant stands: its open requests, and its share, 0 for one that is not active.
func (c *Controller) Standing(uid string) (open int, share float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tenants[uid]
	if t == nil {
		return 0, 0
	}
	return t.open[interactive] + t.open[batch], c.share(t, interactive)
}
