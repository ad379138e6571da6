package share

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// lent is what the members of a group that are in a session have lent.
type lent struct {
	complete bool // every member of the group lends
	lenders  []*member
	all      []*member // in a session
	lends    func(*member) bool
}

// lent finds out what is lent, for requests that are open or else for those that come.
func (b *Book) lent(group string, open bool) lent {
	l := lent{complete: true, lends: func(m *member) bool { return m.lending && m.lends && (m.lendsOpen || !open) }}
	for _, id := range b.groups[group] {
		m := b.members[id]
		if m == nil {
			l.complete = false
			continue
		}
		part := m.parts[group]
		l.complete = l.complete && l.lends(m) && part.valid()
		l.all = append(l.all, m)
		if l.lends(m) && part.Counted {
			l.lenders = append(l.lenders, m)
		}
	}
	return l
}

// pot is what can be given out on top of what is standing.
func (l *lent) pot(group string, limit Amount) (pot Amount) {
	var total, standing Amount
	if l.complete {
		total = limit
	}
	for _, m := range l.lenders {
		if !l.complete {
			total = total.Plus(m.parts[group].Own(limit)).Min(limit)
		}
	}
	for _, m := range l.all {
		stands, part := m.stands(group, limit), m.parts[group]
		own := Amount{}
		if part.Counted && !l.lends(m) { // covered by its own part
			own = part.Own(limit)
		}
		for _, kind := range kinds {
			*kind(&standing) += max(0, *kind(&stands)-max(0, *kind(&own)))
		}
	}
	for _, kind := range kinds {
		if *kind(&limit) > 0 {
			*kind(&pot) = max(0, *kind(&total)-*kind(&standing))
		}
	}
	return pot
}

// potOf is a limit of a group. There are many pools of few limits.
type potOf struct {
	group string
	limit Amount
}

// pot is what can be given out of a limit, on top of what is standing.
func (b *Book) pot(group string, limit Amount) Amount {
	pot, ok := b.pots[potOf{group, limit}]
	if !ok {
		requests, open := b.lent(group, false), b.lent(group, true)
		pot = requests.pot(group, limit)
		pot.Concurrency = open.pot(group, limit).Concurrency
		b.pots[potOf{group, limit}] = pot
	}
	return pot
}

// stands is the most that may be standing at a member, or is to be.
func (m *member) stands(group string, limit Amount) Amount {
	stands := m.standing[group].Standing(limit)
	for _, part := range []Part{m.agreed[group], m.parts[group]} {
		more := part.Standing(limit)
		for _, kind := range kinds {
			*kind(&stands) = max(*kind(&stands), *kind(&more))
		}
	}
	return stands
}

// agrees reports whether something of a part may be standing at a member from now on. Less always may; more, when all of
// the group know of all, none has more than it will have, and what was given out leaves room.
func (b *Book) agrees(group string, m *member, part Part) bool {
	if part.under(m.standing[group]) {
		return true
	}
	requests := b.lent(group, false)
	if !requests.complete {
		return false
	}
	for _, other := range requests.all {
		now := other.parts[group]
		if now.Digest != part.Digest || now.Of != len(b.groups[group]) || !other.standing[group].under(now) || !other.agreedOr(group).under(now) {
			return false
		}
	}
	for key, p := range b.pools {
		if key.Group == group && b.over(key, p) {
			return false
		}
	}
	return true
}

func (m *member) agreedOr(group string) Part {
	if part, ok := m.agreed[group]; ok {
		return part
	}
	return m.standing[group]
}

// over reports whether more of a pool may be in use than there is.
func (b *Book) over(key Pool, p *pool) bool {
	limit, _ := b.Limit(key)
	free := b.pot(key.Group, Of(limit))
	for id, h := range p.holders {
		held := Amount{Concurrency: h.left}
		if m := b.members[id]; m != nil {
			held = b.held(key, m, h)
		}
		for _, kind := range kinds {
			if *kind(&free) -= *kind(&held); *kind(&free) < 0 {
				return true
			}
		}
	}
	return false
}

// held is the most that a member may be using of a pool, on top of what is standing.
func (b *Book) held(key Pool, m *member, h *holder) Amount {
	held := h.held()
	limit, _ := b.Limit(key)
	held.Concurrency = max(held.Concurrency, h.open-max(0, m.stands(key.Group, Of(limit)).Concurrency))
	return held
}

// divide gives out a pool.
func (b *Book) divide(now time.Time, key Pool, p *pool) {
	limit, ok := b.Limit(key)
	whole, pot := Of(limit), Amount{}
	if ok {
		pot = b.pot(key.Group, whole)
	}
	idle := now.Sub(p.wanted) > idleTime
	over, quiet := false, idle
	free := pot
	var takers []*taker
	for _, id := range slices.Sorted(maps.Keys(p.holders)) {
		t := &taker{id: id, holder: p.holders[id], member: b.members[id]}
		if t.member == nil {
			pot.Concurrency = max(0, pot.Concurrency-t.holder.left)
			free.Concurrency -= t.holder.left
			quiet = false
			continue
		}
		t.standing, t.held, t.last = t.member.standing[key.Group].Standing(whole), b.held(key, t.member, t.holder), t.holder.last()
		for _, kind := range kinds {
			*kind(&free) -= *kind(&t.held)
			over = over || *kind(&free) < 0
		}
		quiet = quiet && t.holder.demand == 0 && t.held == Amount{}
		takers = append(takers, t)
	}
	if quiet {
		delete(b.pools, key)
		return
	}
	target(takers, whole, pot, idle)
	// Who gets less is told so; who gets more gets what is free by now, and the rest once the others have answered.
	for _, t := range takers {
		next := t.last
		for _, kind := range kinds {
			want, held, left := *kind(&t.target), *kind(&t.held), kind(&free)
			if have := *kind(&next); want > have {
				want = max(have, min(want, held+max(0, *left)))
				*left -= max(0, want-held)
			}
			*kind(&next) = want
		}
		if next != t.last && (over || idle || worthwhile(t.last, next, whole)) {
			b.grant(key, t, next)
		}
	}
}

// worthwhile reports whether a change is one to tell: a hundredth of the limit, or all of it.
func worthwhile(from, to, whole Amount) bool {
	for _, kind := range kinds {
		x, y := *kind(&from), *kind(&to)
		if step := max(x, y) - min(x, y); step > *kind(&whole)/100 || step > 0 && (x == 0 || y == 0) {
			return true
		}
	}
	return false
}

func (b *Book) grant(key Pool, t *taker, amount Amount) {
	b.number++
	g := Grant{key, b.number, amount}
	t.holder.given = append(t.holder.given, g)
	if len(t.holder.given) > maxGiven { // it answers nothing: what it may be using is the most that it was given
		t.holder.given[1].Amount = t.holder.held()
		t.holder.given = t.holder.given[1:]
	}
	t.member.grants = append(t.member.grants, g)
}

// maxGiven bounds what a member has not answered of one pool.
const maxGiven = 64

// held is the most that may be in force.
func (h *holder) held() (most Amount) {
	for _, g := range h.given {
		for _, kind := range kinds {
			*kind(&most) = max(*kind(&most), *kind(&g.Amount))
		}
	}
	return most
}

// last is the newest grant.
func (h *holder) last() Amount {
	if len(h.given) == 0 {
		return Amount{}
	}
	return h.given[len(h.given)-1].Amount
}

// taker is a member that is to get some of a pool.
type taker struct {
	id       string
	holder   *holder
	member   *member
	standing Amount
	held     Amount
	last     Amount
	target   Amount
}

// target says what each should have. Demand is served max-min fair, and what is left goes to those who have some: it
// may become more. While nobody wants any, it stays as it is, until that was so for long.
func target(takers []*taker, whole, pot Amount, idle bool) {
	var wanting []*taker
	for _, t := range takers {
		if t.holder.demand > 0 || t.holder.open > 0 {
			wanting = append(wanting, t)
		}
	}
	if len(wanting) == 0 {
		for _, t := range takers {
			if idle {
				continue
			}
			t.target = t.last.Min(pot)
			for _, kind := range kinds {
				*kind(&pot) -= *kind(&t.target)
			}
		}
		return
	}
	needs := make([]int64, len(wanting))
	for i, t := range wanting { // a tenth more than came: demand grows
		needs[i] = int64(min(t.holder.demand*1.1, float64(max(0, whole.Rate)))) - t.standing.Rate
	}
	for i, amount := range fill(pot.Rate, needs) {
		wanting[i].target.Rate = amount
	}
	// A burst goes with the rate, but nobody's is of no request.
	weights := make([]int64, len(wanting))
	for i, t := range wanting {
		needs[i], weights[i] = max(0, 1-t.standing.Burst), t.target.Rate
	}
	first := floors(pot.Burst, needs)
	rest := pot.Burst
	for i, t := range wanting {
		t.target.Burst = first[i]
		rest -= first[i]
	}
	for i, amount := range proportional(rest, weights) {
		wanting[i].target.Burst += amount
	}
	for i, t := range wanting {
		needs[i] = t.holder.open + t.holder.waiting - max(0, t.standing.Concurrency)
	}
	for i, amount := range fill(pot.Concurrency, needs) {
		wanting[i].target.Concurrency = amount
	}
}

// fill divides an amount by needs, max-min fair, and what is left equally.
func fill(amount int64, needs []int64) []int64 {
	got := floors(amount, needs)
	left := amount
	for _, g := range got {
		left -= g
	}
	for i := range got {
		got[i] += left / int64(len(got))
		if int64(i) < left%int64(len(got)) {
			got[i]++
		}
	}
	return got
}

// floors gives each what it needs, or as much as everyone who needs more.
func floors(amount int64, needs []int64) []int64 {
	order := make([]int, len(needs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(needs[i], needs[j]) })
	got := make([]int64, len(needs))
	for n, i := range order {
		waiting := int64(len(order) - n)
		got[i] = max(0, min(needs[i], (amount+waiting-1)/waiting, amount))
		amount -= got[i]
	}
	return got
}

// proportional divides an amount by weights, and the remainder from the first on.
func proportional(amount int64, weights []int64) []int64 {
	var sum int64
	for _, w := range weights {
		sum += w
	}
	got := make([]int64, len(weights))
	if sum == 0 {
		return fill(amount, got)
	}
	left := amount
	for i, w := range weights {
		got[i] = int64(float64(amount) * (float64(w) / float64(sum)))
		left -= got[i]
	}
	for i := range got {
		if left > 0 && weights[i] > 0 {
			got[i]++
			left--
		}
	}
	return got
}
