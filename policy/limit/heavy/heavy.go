// Package heavy answers WHO USES MOST NOW, in bounded memory: a sketch of those who use most, whatever the number of all.
//
// It is the space-saving algorithm (Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k
// Elements in Data Streams", 2005): who is not known takes the place of the least, and its count. So a count may be too high,
// by no more than the count that it began with, and never too low; whoever uses more than the N-th part of everything is
// among N. Counts fade by forward decay (Cormode, Shkapenyuk, Srivastava and Xu, "Forward Decay", 2009): what comes later weighs
// more, so nothing that was counted needs to be touched, and the order stays.
//
// # Concurrency
//
// A [Sketch] may be used from many goroutines; each call holds one mutex, Add for the logarithm of the size. It has
// no clock: time is an argument, and may go back, in which case it stands still.
//
// It imports the standard library only.
package heavy

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"sync"
	"time"
)

// HalfLife is the time in which what was counted counts half.
const HalfLife = 10 * time.Second

// maxExponent is when weights are begun anew, long before they are too large.
const maxExponent = 256

// Entry is one of those who use most, with what it does a second.
type Entry[K comparable] struct {
	Key     K
	Uses    float64 // refused ones too
	Refused float64
	Over    float64 // by how much Uses may be too high
}

// Sketch holds those who use most. Use [New].
type Sketch[K comparable] struct {
	mu     sync.Mutex
	most   int
	begun  bool
	origin time.Time // of weights: one use now weighs 2^((now - origin) / HalfLife)
	last   float64   // half-lives since origin
	known  map[K]*counted[K]
	least  leastFirst[K]
}

type counted[K comparable] struct {
	Entry[K]
	index int
}

// New returns an empty sketch of at most so many, at least one.
func New[K comparable](most int) *Sketch[K] {
	return &Sketch[K]{most: max(1, most), known: map[K]*counted[K]{}}
}

// age is the half-lives between the origin and now.
func (s *Sketch[K]) age(now time.Time) float64 {
	if !s.begun {
		s.begun, s.origin = true, now
	}
	s.last = max(s.last, now.Sub(s.origin).Seconds()/HalfLife.Seconds())
	if s.last > maxExponent {
		faded := math.Exp2(-s.last)
		for _, c := range s.least {
			c.Uses, c.Refused, c.Over = c.Uses*faded, c.Refused*faded, c.Over*faded
		}
		s.origin, s.last = now, 0
	}
	return s.last
}

// Add counts one use, which may have been refused.
func (s *Sketch[K]) Add(now time.Time, key K, refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	weight := math.Exp2(s.age(now))
	c := s.known[key]
	switch {
	case c != nil:
	case len(s.least) < s.most:
		c = &counted[K]{Entry: Entry[K]{Key: key}, index: len(s.least)}
		s.known[key] = c
		s.least = append(s.least, c)
	default:
		c = s.least[0]
		delete(s.known, c.Key)
		c.Key, c.Refused, c.Over = key, 0, c.Uses
		s.known[key] = c
	}
	c.Uses += weight
	if refused {
		c.Refused += weight
	}
	heap.Fix(&s.least, c.index)
}

// Top is who uses most, first who does most of all: those that do at least the thousandth part of one use a second.
func (s *Sketch[K]) Top(now time.Time) []Entry[K] {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A steady rate r sums to r·HalfLife/ln 2.
	scale := math.Exp2(-s.age(now)) * math.Ln2 / HalfLife.Seconds()
	list := make([]Entry[K], 0, len(s.least))
	for _, c := range s.least {
		e := Entry[K]{c.Key, c.Uses * scale, c.Refused * scale, c.Over * scale}
		if e.Uses >= 0.001 {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry[K]) int { return cmp.Compare(b.Uses, a.Uses) })
	return list
}

// leastFirst is a heap.Interface.
type leastFirst[K comparable] []*counted[K]

func (l leastFirst[K]) Len() int           { return len(l) }
func (l leastFirst[K]) Less(i, j int) bool { return l[i].Uses < l[j].Uses }
func (l leastFirst[K]) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push and Pop are of the interface; the heap only ever grows at its end, by Add.
func (l *leastFirst[K]) Push(any) {}

// Pop implements heap.Interface.
func (l *leastFirst[K]) Pop() any { return nil }
