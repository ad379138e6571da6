package analysis

import (
	"maps"
	"slices"
	"strconv"
)

// set is a set of sequences of words. Within one [algebra] equal sets are one pointer, and nobody changes one.
type set struct {
	id    int
	end   bool // the empty sequence is in it
	words []string
	next  map[string]*set // what may follow a word, for those of which it is not other; by words, which are sorted
	other *set            // what may follow any other word
}

// after is what may follow a word.
func (s *set) after(word string) *set {
	if next, ok := s.next[word]; ok {
		return next
	}
	return s.other
}

// has reports whether a sequence is in s.
func (s *set) has(words []string) bool {
	for _, word := range words {
		s = s.after(word)
	}
	return s.end
}

type operation uint8

const (
	and operation = iota
	or
	minus
)

// algebra makes sets. It is of one analysis, and for one goroutine.
type algebra struct {
	made map[string]*set
	done map[operands]*set
	none *set // no sequence
	all  *set // every sequence
	unit *set // the empty sequence alone
}

type operands struct {
	op   operation
	a, b int
}

func newAlgebra() *algebra {
	g := &algebra{made: map[string]*set{}, done: map[operands]*set{}, none: &set{id: 0}, all: &set{id: 1, end: true}}
	g.none.other, g.all.other = g.none, g.all
	for _, s := range []*set{g.none, g.all} {
		g.made[signature(s.end, s.other, nil, nil)] = s
	}
	g.unit = g.node(true, g.none, nil)
	return g
}

// signature is the same for equal sets only.
func signature(end bool, other *set, words []string, next map[string]*set) string {
	key := strconv.AppendBool(nil, end)
	key = strconv.AppendInt(key, int64(other.id), 10)
	for _, word := range words {
		key = strconv.AppendQuote(append(key, ' '), word)
		key = strconv.AppendInt(key, int64(next[word].id), 10)
	}
	return string(key)
}

// node is the set of that shape. It keeps next.
func (g *algebra) node(end bool, other *set, next map[string]*set) *set {
	maps.DeleteFunc(next, func(_ string, s *set) bool { return s == other })
	words := slices.Sorted(maps.Keys(next))
	key := signature(end, other, words, next)
	if s, ok := g.made[key]; ok {
		return s
	}
	s := &set{len(g.made), end, words, next, other}
	g.made[key] = s
	return s
}

// oneOf are the sequences of one word of a list and then those of rest.
func (g *algebra) oneOf(rest *set, words ...string) *set {
	next := map[string]*set{}
	for _, word := range words {
		next[word] = rest
	}
	return g.node(false, g.none, next)
}

// anyWord are the sequences of any one word and then those of rest.
func (g *algebra) anyWord(rest *set) *set { return g.node(false, rest, nil) }

// trivial is the outcome of an operation that needs no look into its operands, nil for another one.
func (g *algebra) trivial(op operation, a, b *set) *set {
	switch op {
	case and:
		switch {
		case a == g.none || b == g.none:
			return g.none
		case a == b || b == g.all:
			return a
		case a == g.all:
			return b
		}
	case or:
		switch {
		case a == g.all || b == g.all:
			return g.all
		case a == b || b == g.none:
			return a
		case a == g.none:
			return b
		}
	case minus:
		switch {
		case a == b || a == g.none || b == g.all:
			return g.none
		case b == g.none:
			return a
		}
	}
	return nil
}

// combine is a op b.
func (g *algebra) combine(op operation, a, b *set) *set {
	if s := g.trivial(op, a, b); s != nil {
		return s
	}
	of := operands{op, a.id, b.id}
	if s, ok := g.done[of]; ok {
		return s
	}
	next := make(map[string]*set, len(a.words)+len(b.words))
	for _, words := range [][]string{a.words, b.words} {
		for _, word := range words {
			if _, ok := next[word]; !ok {
				next[word] = g.combine(op, a.after(word), b.after(word))
			}
		}
	}
	end := [...]bool{and: a.end && b.end, or: a.end || b.end, minus: a.end && !b.end}[op]
	s := g.node(end, g.combine(op, a.other, b.other), next)
	g.done[of] = s
	return s
}

// within reports whether all of a is in b.
func (g *algebra) within(a, b *set) bool { return g.combine(minus, a, b) == g.none }
