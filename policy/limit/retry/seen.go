package retry

import (
	"sync"
	"sync/atomic"
	"time"
)

// generation is how long a key is remembered at least; it is forgotten after at most two.
const generation = time.Minute

// row is how many places a key may be in.
const row = 8

// seen is a set of digests, each with the generation in which it was seen last: 48 bits of one and 16 of the other in a
// word. The place in the table holds the other bits of the digest.
type seen struct {
	max   int
	once  sync.Once
	words []atomic.Uint64 // 0: empty
	rows  uint64
}

const ageBits = 16

// add remembers a digest, and reports whether it was there.
func (s *seen) add(now time.Time, digest uint64) bool {
	s.once.Do(func() {
		for s.rows = 1; s.rows*2*row <= uint64(s.max); s.rows *= 2 {
		}
		s.words = make([]atomic.Uint64, s.rows*row)
	})
	age := uint16(now.UnixNano() / int64(generation))
	for {
		word, held, found := s.find(age, digest)
		if word.CompareAndSwap(held, kept(digest)|uint64(age)) {
			return found
		} // else another took the place: it may be the same key
	}
}

// find is the digest's word and what is in it, or else the word that it would take: an empty one, or any.
func (s *seen) find(age uint16, digest uint64) (word *atomic.Uint64, held uint64, found bool) {
	begin := digest % s.rows * row
	for i := range uint64(row) {
		candidate := &s.words[begin+i]
		value := candidate.Load()
		if live := value != 0 && near(age, uint16(value)); live && value>>ageBits == kept(digest)>>ageBits {
			return candidate, value, true
		} else if !live && word == nil {
			word, held = candidate, value
		}
	}
	if word == nil {
		word = &s.words[begin+digest>>ageBits%row]
		held = word.Load()
	}
	return word, held, false
}

// remove forgets a digest; 0 is none.
func (s *seen) remove(digest uint64) {
	if digest == 0 {
		return
	}
	begin := digest % s.rows * row
	for i := range uint64(row) {
		word := &s.words[begin+i]
		if value := word.Load(); value>>ageBits == kept(digest)>>ageBits {
			word.CompareAndSwap(value, 0)
		}
	}
}

// kept is what a word keeps of a digest; it is never 0.
func kept(digest uint64) uint64 { return digest>>ageBits<<ageBits | 1<<63 }

// near reports whether two generations are the same or neighbours, either of which may be the later: clocks jump.
func near(a, b uint16) bool {
	apart := int16(a - b)
	return apart >= -1 && apart <= 1
}
