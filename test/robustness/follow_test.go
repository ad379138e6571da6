package robustness

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// moverPort is where gateways take each other's writes; their addresses are their IDs.
const moverPort = 1

// progress is what a mover has brought since it was appointed. It dies with its process.
type progress struct {
	follow int64
	life   int
	begun  bool
}

// entry is a write in a mover's journal.
type entry struct {
	mover  *node
	id     string
	claims *tenanttoken.Claims
	follow int64
	taken  bool // the owner's cell has answered: the other must get it
	dirty  bool // nobody knows: the copy begins anew
}

// again keeps a message that may come once more, whenever.
func (w *world) again(message func()) {
	const remembered = 30
	if w.late = append(w.late, message); len(w.late) > remembered {
		w.late = w.late[1:]
	}
}

// forward gives a write to the gateway that is the tenant's mover, and returns what that one decides.
func (w *world) forward(r *request, via string) decide.Onward {
	held := decide.Onward{Held: true}
	id, _, _ := strings.Cut(via, ":")
	for _, n := range w.nodes {
		if n.id != id {
			continue
		}
		lease := fmt.Sprint("forwarded-", r.id, "-", w.random.Uint64())
		onward, _, ok := n.decider.Onward(&decide.Request{
			Listener: meshname.ListenerGateway, Target: "workload/front", Forwarded: true, Method: r.method(), Path: "/rows", Lease: lease,
			Headers: decide.HeadersOf(map[string][]string{propagation.HeaderTxnToken: {r.token}}),
		})
		if !ok || onward.Held || onward.Via != "" {
			n.decider.End(decide.Ended{Lease: lease, Settled: true})
			return held
		}
		r.mover, r.moverLife, r.forwarded = n, n.life, lease
		return onward
	}
	return held
}

// intend notes on the mover's disk what it is about to send on.
func (w *world) intend(r *request, onward *decide.Onward) {
	if onward.Repeat == nil {
		return
	}
	if r.mover == nil {
		r.mover, r.moverLife = r.gateway, r.gateway.life
	}
	r.entry = &entry{mover: r.mover, id: r.id, claims: onward.Claims, follow: onward.Repeat.Follow}
	w.journal = append(w.journal, r.entry)
}

// untaken is what a mover knows when a sidecar refuses.
func (w *world) untaken(r *request) {
	if r.entry != nil && !r.entry.dirty {
		w.journal = slices.DeleteFunc(w.journal, func(e *entry) bool { return e == r.entry })
	}
	w.left(r)
}

// answered is what a mover knows once the service has answered, if the answer reaches it.
func (w *world) answered(r *request, reached bool) {
	if r.entry != nil {
		if reached && !r.entry.dirty {
			r.entry.taken = true
		} else {
			r.entry.dirty = true
		}
	}
	w.left(r)
}

// left ends a request at the mover.
func (w *world) left(r *request) {
	if r.forwarded != "" && r.mover.life == r.moverLife {
		r.mover.decider.End(decide.Ended{Lease: r.forwarded})
	}
	r.mover, r.forwarded, r.entry = nil, "", nil
}

// crashed makes what a mover had under way unclear.
func (w *world) crashed(n *node) {
	for _, e := range w.journal {
		e.dirty = e.dirty || e.mover == n && !e.taken
	}
}

// own are the entries of a mover since it was appointed.
func (w *world) own(g *node, t *policyset.Tenant) (list []*entry) {
	for _, e := range w.journal {
		if e.mover == g && e.follow == t.Follow {
			list = append(list, e)
		}
	}
	return list
}

// follow lets the other cell follow while the owner serves: all at first, then a part of what is missing, or each write.
func (w *world) follow(g *node, t *policyset.Tenant) {
	p := w.progress[g.id]
	dirty := slices.ContainsFunc(w.own(g, t), func(e *entry) bool { return e.dirty })
	if p == nil || p.follow != t.Follow || p.life != g.life || dirty {
		p = &progress{follow: t.Follow, life: g.life}
		w.progress[g.id] = p
		w.journal = slices.DeleteFunc(w.journal, func(e *entry) bool { return e.mover == g && (e.dirty || e.follow != t.Follow) })
	}
	if !p.begun || w.strategy == policyset.StrategyCatchUp {
		if !w.hook(g, t, t.Cell, "GET", tenanttoken.Owner, nil) {
			return
		}
		copied := maps.Clone(w.data[t.Target])
		for id, n := range w.data[t.Cell] {
			if !p.begun || w.random.IntN(3) > 0 {
				copied[id] = n
			}
		}
		if !p.begun {
			copied = maps.Clone(w.data[t.Cell])
		}
		if !w.hook(g, t, t.Target, "PUT", tenanttoken.Replica, copied) {
			return
		}
		p.begun = true
	}
	w.replay(g, t)
	g.tracker.Copied(tenant, t.Epoch, []*api.Copy{{Workload: "front", Caught: len(w.own(g, t)) < 3}})
}

// replay repeats at the other cell what the owner's has taken.
func (w *world) replay(g *node, t *policyset.Tenant) {
	for _, e := range w.own(g, t) {
		if !e.taken || e.dirty {
			continue
		}
		token, err := g.decider.Again(e.claims, t, t.Target, tenanttoken.Replica)
		if err != nil {
			w.fail("again: %w", err)
			return
		}
		repeat := func() bool { return w.repeat(g, t.Target, token, e.id) }
		w.again(func() { repeat() })
		if !repeat() {
			return
		}
		w.journal = slices.DeleteFunc(w.journal, func(done *entry) bool { return done == e })
	}
}

// repeat brings a cell a copy of a write, and reports whether it took it.
func (w *world) repeat(g *node, cell, token, id string) bool {
	for _, n := range w.nodes {
		if n.cell != cell {
			continue
		}
		lease := fmt.Sprint("repeat-", w.random.Uint64())
		if !w.inbound(n, g, "POST", "/rows", lease, token).Decision.Allowed {
			return false
		}
		if p, _ := w.placement(); p.Cell == cell {
			w.fail("the owner takes no copies of requests: %s took one (%s, epoch %d)", cell, p.State, p.Epoch)
		}
		w.repeated++
		w.data[cell][id] = 1 // repeats are settled by key
		n.decider.End(decide.Ended{Lease: lease})
		return true
	}
	return false
}

// hook calls a hook of a cell, with what is to be imported there if anything is.
func (w *world) hook(g *node, t *policyset.Tenant, cell, method string, role tenanttoken.Role, data map[string]int) bool {
	token, err := g.decider.ForData(t, cell, role)
	if err != nil {
		w.fail("for data: %w", err)
		return false
	}
	w.tokens++
	fence := w.tokens
	call := func() bool { return w.call(g, cell, method, token, fence, data) }
	if data != nil {
		w.again(func() { call() })
	}
	return call()
}

// call brings a hook's call to a sidecar and, if it lets it in, to the service, which refuses what is behind its fence.
func (w *world) call(g *node, cell, method, token string, fence int64, data map[string]int) bool {
	for _, n := range w.nodes {
		if n.cell != cell {
			continue
		}
		lease := fmt.Sprint("hook-", w.random.Uint64())
		allowed := w.inbound(n, g, method, "/x", lease, token).Decision.Allowed
		n.decider.End(decide.Ended{Lease: lease})
		if !allowed || data == nil {
			return allowed
		}
		if fence < w.fences[cell] {
			return false
		}
		w.fences[cell], w.data[cell] = fence, maps.Clone(data)
		return true
	}
	return false
}

// caughtUp brings the rest under the seal, and reports whether the other cell has everything by then.
func (w *world) caughtUp(g *node, t *policyset.Tenant) bool {
	p := w.progress[g.id]
	if p == nil || !p.begun || p.follow != t.Follow || t.Follow == 0 || p.life != g.life {
		return false
	}
	if w.fault == digestsUnread {
		return true
	}
	w.replay(g, t)
	if !w.hook(g, t, t.Cell, "GET", tenanttoken.Owner, nil) || !w.hook(g, t, t.Target, "GET", tenanttoken.Replica, nil) || !maps.Equal(w.data[t.Cell], w.data[t.Target]) {
		return false
	}
	w.spared++
	return true
}
