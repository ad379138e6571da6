package retry

import (
	"hash/maphash"
	"math"
	"sync"
	"time"
)

// DefaultShare is the share of its first tries that a tenant may repeat where nothing is said.
const DefaultShare = 0.2

// Floor is how many repeats of a tenant pass in two windows however few its first tries are.
const Floor = 10

// Window is the time in which tries are counted together.
const Window = 10 * time.Second

// Try is one request.
type Try struct {
	Tenant string  // UID of the tenant's incarnation
	Target string  // what is called, where one place has several budgets; "" where it has one
	Key    string  // Idempotency-Key; "" for none
	Method string  // of the operation that the key names
	Path   string  // likewise
	Again  bool    // the request says that it is a repeat
	Share  float64 // of first tries; 0: [DefaultShare]; negative: repeats have no bound
}

// Admission is what was counted, for [Budgets.Undo]. The zero value is nothing.
type Admission struct {
	whose  whose
	repeat bool
	counts bool
	digest uint64 // remembered by this try and by none before; 0: none
}

// Options of [Budgets]; zero fields take the defaults named there.
type Options struct {
	MaxTenants int // active in a window, with each of their targets; default 65,536
	MaxKeys    int // remembered; default 131,072 (1 MiB)
}

const shards = 64

// Budgets counts the tries of every tenant.
type Budgets struct {
	perShard int
	seed     maphash.Seed
	seen     seen
	shards   [shards]shard
}

type whose struct{ tenant, target string }

type counts struct{ firsts, repeats int }

type shard struct {
	mu           sync.Mutex
	window       int64
	fresh, prior map[whose]counts
}

// New returns budgets of which nothing is used.
func New(options Options) *Budgets {
	if options.MaxTenants == 0 {
		options.MaxTenants = 65_536
	}
	if options.MaxKeys == 0 {
		options.MaxKeys = 131_072
	}
	return &Budgets{perShard: max(1, options.MaxTenants/shards), seed: maphash.MakeSeed(), seen: seen{max: options.MaxKeys}}
}

// Admit counts a try, and reports false for a repeat too many, which is not counted, with how long until the next window.
func (b *Budgets) Admit(now time.Time, t *Try) (a Admission, retry time.Duration, ok bool) {
	if t.Share < 0 {
		return Admission{}, 0, true
	}
	a = Admission{whose: whose{t.Tenant, t.Target}, repeat: t.Again}
	if t.Key != "" {
		if digest := b.digest(t); b.seen.add(now, digest) {
			a.repeat = true
		} else {
			a.digest = digest
		}
	}
	s := &b.shards[maphash.String(b.seed, t.Tenant)%shards]
	if s.count(now, &a, share(t.Share), b.perShard) {
		return a, 0, true
	}
	b.seen.remove(a.digest)
	return Admission{}, Window - time.Duration(now.UnixNano())%Window, false
}

// Undo takes back what was counted of a request that was refused after all.
func (b *Budgets) Undo(a *Admission) {
	b.seen.remove(a.digest)
	if a.counts {
		b.shards[maphash.String(b.seed, a.whose.tenant)%shards].uncount(a)
	}
	*a = Admission{}
}

func (b *Budgets) digest(t *Try) uint64 {
	var h maphash.Hash
	h.SetSeed(b.seed)
	for _, part := range [...]string{t.Tenant, t.Target, t.Method, t.Path, t.Key} {
		_, _ = h.WriteString(part)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// share is what is said, as it can be: a share that is not a number is the default.
func share(said float64) float64 {
	if said == 0 || math.IsNaN(said) {
		return DefaultShare
	}
	return min(said, 1e6)
}

// count counts a try, or reports false for a repeat that may not be.
func (s *shard) count(now time.Time, a *Admission, share float64, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now.UnixNano() / int64(Window))
	fresh, known := s.fresh[a.whose]
	if !known && len(s.fresh) >= most {
		return !a.repeat
	}
	if !a.repeat {
		fresh.firsts++
	} else {
		prior := s.prior[a.whose]
		if fresh.repeats++; float64(fresh.repeats+prior.repeats) > Floor+share*float64(fresh.firsts+prior.firsts) {
			return false
		}
	}
	s.fresh[a.whose], a.counts = fresh, true
	return true
}

// uncount takes one from this window, or where it has turned meanwhile, from the last.
func (s *shard) uncount(a *Admission) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range []map[whose]counts{s.fresh, s.prior} {
		c := in[a.whose]
		counted := &c.firsts
		if a.repeat {
			counted = &c.repeats
		}
		if *counted > 0 {
			*counted--
			in[a.whose] = c
			return
		}
	}
}

func (s *shard) turn(window int64) {
	switch {
	case s.fresh == nil || window > s.window+1:
		s.fresh, s.prior = map[whose]counts{}, nil
	case window == s.window+1:
		s.fresh, s.prior = map[whose]counts{}, s.fresh
	}
	s.window = window
}
