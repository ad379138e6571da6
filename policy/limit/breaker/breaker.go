package breaker

import (
	"container/list"
	"math"
	"sync"
	"time"
)

// Pair is whose calls, to what.
type Pair struct {
	Tenant string // UID of the tenant's incarnation: a new one begins with a clean sheet
	Target string // "workload/<name>" or "dependency/<name>"
}

// Settings say when a pair opens. Zero fields take the defaults named there; what is out of range counts as the nearest
// that is in it.
type Settings struct {
	Failures int           // in a window, to open; 1 to 10,000, default 5; negative: it never opens
	Share    float64       // of the outcomes in the window that are failures, to open; over 0, to 1; default 0.5
	Window   time.Duration // 1 s to 1 h, default 10 s
	Wait     time.Duration // until the first probe; 100 ms to 1 h, default 5 s
	MaxWait  time.Duration // of a pair whose probes fail; Wait to 1 h, default 60 s
}

// The ranges of [Settings].
const (
	MaxFailures = 10_000
	MinWindow   = time.Second
	MinWait     = 100 * time.Millisecond
	MaxDuration = time.Hour
)

// Defaults fills in what is not said.
func (s Settings) Defaults() Settings {
	for _, field := range []struct {
		of                 *time.Duration
		otherwise, at, max time.Duration
	}{
		{&s.Window, 10 * time.Second, MinWindow, MaxDuration}, {&s.Wait, 5 * time.Second, MinWait, MaxDuration}, {&s.MaxWait, time.Minute, MinWait, MaxDuration},
	} {
		if *field.of == 0 {
			*field.of = field.otherwise
		}
		*field.of = min(max(*field.of, field.at), field.max)
	}
	s.MaxWait = max(s.MaxWait, s.Wait)
	if s.Failures == 0 {
		s.Failures = 5
	}
	s.Failures = min(s.Failures, MaxFailures)
	if s.Share == 0 || math.IsNaN(s.Share) {
		s.Share = 0.5
	}
	s.Share = min(max(s.Share, math.SmallestNonzeroFloat64), 1)
	return s
}

// Outcome is what became of a call.
type Outcome uint8

// The outcomes.
const (
	Unknown Outcome = iota // nothing that speaks of the target: the caller hung up, or the call was refused by name
	Success
	Failure
)

// Options of a [Set]; zero fields take the defaults named there.
type Options struct {
	MaxPairs int           // default 16,384
	MaxCalls int           // default 65,536
	Lifetime time.Duration // after which an open call whose end was not seen is forgotten; default 5 min
}

// Set holds the breakers of every pair that fails.
type Set struct {
	options Options

	mu       sync.Mutex
	pairs    map[Pair]*state
	touched  list.List // of *state, the longest untouched first
	calls    map[string]*list.Element
	begun    list.List // of *call, the oldest first
	openings uint64
	open     int
}

// state is a pair that fails.
type state struct {
	pair            Pair
	since           time.Time // when the window began
	failures, total int       // in it
	opening         uint64    // which opening this is, 0: closed
	wait            time.Duration
	until           time.Time // when open: the next probe
	stale           time.Time // when nobody has called for so long that it may go
	element         *list.Element
}

// call is one that is open.
type call struct {
	lease    string
	pair     Pair
	settings Settings
	opening  uint64 // it is a probe of that opening; 0: it is none
	since    time.Time
}

// New returns a set in which nothing fails.
func New(options Options) *Set {
	if options.MaxPairs == 0 {
		options.MaxPairs = 16_384
	}
	if options.MaxCalls == 0 {
		options.MaxCalls = 65_536
	}
	if options.Lifetime == 0 {
		options.Lifetime = 5 * time.Minute
	}
	return &Set{options: options, pairs: map[Pair]*state{}, calls: map[string]*list.Element{}}
}

// Admit says whether a call may go out, and otherwise when one may. One that may is known by its lease until [Set.End].
func (s *Set) Admit(now time.Time, lease string, pair Pair, settings Settings) (retry time.Duration, ok bool) {
	if settings = settings.Defaults(); settings.Failures < 0 {
		return 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	began := call{lease: lease, pair: pair, settings: settings, since: now}
	if p := s.find(now, pair); p != nil && p.opening > 0 {
		if p.until.Sub(now) > p.wait {
			p.until = now.Add(p.wait)
		}
		if retry = p.until.Sub(now); retry > 0 {
			return retry, false
		}
		began.opening, p.until = p.opening, now.Add(p.wait)
		s.touch(p, p.until.Add(settings.MaxWait))
	}
	s.remember(&began)
	return 0, true
}

// End notes what became of a call. One that is not known changes nothing.
func (s *Set) End(now time.Time, lease string, outcome Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	element, ok := s.calls[lease]
	if !ok {
		return
	}
	ended := s.forget(element)
	p := s.find(now, ended.pair)
	switch {
	case p == nil && outcome == Failure:
		if p = s.begin(now, ended.pair); p != nil {
			s.count(now, p, ended.settings, Failure)
		}
	case p == nil:
	case p.opening == 0:
		s.count(now, p, ended.settings, outcome)
	case p.opening == ended.opening:
		s.probed(now, p, ended.settings, outcome)
	}
}

// Open is how many pairs are open.
func (s *Set) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Pairs is how many pairs have a state.
func (s *Set) Pairs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pairs)
}

// count counts an outcome of a pair that is closed.
func (s *Set) count(now time.Time, p *state, settings Settings, outcome Outcome) {
	if outcome == Unknown {
		return
	}
	if age := now.Sub(p.since); age >= settings.Window || age < 0 {
		if outcome == Success {
			s.drop(p)
			return
		}
		p.since, p.failures, p.total = now, 0, 0
	}
	p.total++
	if outcome == Failure {
		p.failures++
	}
	s.touch(p, p.since.Add(settings.Window))
	if p.failures >= settings.Failures && float64(p.failures) >= settings.Share*float64(p.total) {
		s.openings++
		s.open++
		p.opening, p.wait = s.openings, settings.Wait
		s.shut(now, p, settings)
	}
}

// probed takes the outcome of a probe.
func (s *Set) probed(now time.Time, p *state, settings Settings, outcome Outcome) {
	switch outcome {
	case Success:
		s.drop(p)
	case Failure:
		p.wait = min(2*p.wait, settings.MaxWait)
		s.shut(now, p, settings)
	case Unknown:
		p.until = now
	}
}

func (s *Set) shut(now time.Time, p *state, settings Settings) {
	p.until = now.Add(p.wait)
	s.touch(p, p.until.Add(settings.MaxWait))
}

// find is the state of a pair, nil when it does not fail.
func (s *Set) find(now time.Time, pair Pair) *state {
	p := s.pairs[pair]
	if p != nil && now.After(p.stale) {
		s.drop(p)
		return nil
	}
	return p
}

// begin makes the state of a pair, nil when there is no room.
func (s *Set) begin(now time.Time, pair Pair) *state {
	if len(s.pairs) >= s.options.MaxPairs {
		return nil
	}
	p := &state{pair: pair, since: now}
	p.element = s.touched.PushBack(p)
	s.pairs[pair] = p
	return p
}

func (s *Set) touch(p *state, stale time.Time) {
	p.stale = stale
	s.touched.MoveToBack(p.element)
}

func (s *Set) drop(p *state) {
	s.touched.Remove(p.element)
	delete(s.pairs, p.pair)
	if p.opening > 0 {
		s.open--
	}
}

func (s *Set) remember(c *call) {
	if old, ok := s.calls[c.lease]; ok {
		s.forget(old)
	} else if len(s.calls) >= s.options.MaxCalls {
		s.forget(s.begun.Front())
	}
	s.calls[c.lease] = s.begun.PushBack(c)
}

func (s *Set) forget(element *list.Element) *call {
	c := s.begun.Remove(element).(*call)
	delete(s.calls, c.lease)
	return c
}

// sweep lets a few go of those that nobody has called for long, and of the calls that nobody ended: more than one call
// can add.
func (s *Set) sweep(now time.Time) {
	for range 2 {
		if front := s.begun.Front(); front != nil && now.Sub(front.Value.(*call).since) > s.options.Lifetime {
			s.forget(front)
		}
		if front := s.touched.Front(); front != nil {
			if p := front.Value.(*state); now.After(p.stale) {
				s.drop(p)
			} else if len(s.pairs) >= s.options.MaxPairs {
				s.touched.MoveToBack(front) // a wait of an hour must not keep those behind it
			}
		}
	}
}
