package analysis

import (
	"maps"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
)

// Words say which values of one dimension are meant: each of Of, but those of Except. Of and Except are patterns, as policies have
// them. "any" alone in Of is every value.
type Words struct {
	Of     []string `json:"of"`
	Except *Words   `json:"except,omitempty"`
}

// Any is the word for every value.
const Any = "any"

// IsAny reports whether every value is meant.
func (w Words) IsAny() bool { return w.Except == nil && len(w.Of) == 1 && w.Of[0] == Any }

// String is w on one line.
func (w Words) String() string {
	text := strings.Join(w.Of, ", ")
	if w.Except != nil {
		text += " except " + w.Except.nested()
	}
	return text
}

func (w Words) nested() string {
	if w.Except == nil {
		return w.String()
	}
	return "(" + w.String() + ")"
}

// speller spells the sets of one dimension.
type speller struct {
	*space
	full  *set
	tail  *set                        // that ** stands for
	star  func(rest *set) *set        // "*" and then rest
	apart []string                    // words that "*" does not stand for
	set   func(pattern []string) *set // what a pattern matches
	spell func(pattern []string) string
	wide  bool // ** stands for all that goes on at will, with exceptions for the rest
}

func (s *space) speller(dimension int) speller {
	sp := speller{space: s, full: s.dimensions[dimension].full}
	switch dimension {
	case ofPrincipal:
		sp.tail, sp.star = s.anyWord(s.all), s.anyWord
		sp.spell = func(pattern []string) string { return scheme + strings.Join(pattern, "/") }
		sp.set = func(pattern []string) *set { return s.pattern(sp.spell(pattern)) }
	case ofPath:
		sp.tail, sp.star, sp.apart = s.all, s.segment, []string{""}
		sp.spell = func(pattern []string) string {
			if len(pattern) == 0 {
				return NoSlash
			}
			return "/" + strings.Join(pattern, "/")
		}
		sp.set = func(pattern []string) *set {
			if len(pattern) == 0 {
				return s.unit
			}
			return s.path(sp.spell(pattern))
		}
	default: // one word
		sp.tail, sp.star = s.none, s.anyWord
		sp.spell = func(pattern []string) string { return strings.Join(pattern, "") }
		sp.set = func(pattern []string) *set { return s.sequence(pattern, s.none, s.anyWord) }
	}
	return sp
}

// NoSlash is the word for the paths that do not begin with "/".
const NoSlash = "what does not begin with /"

// words spell a set of the dimension, exactly.
func (sp speller) words(of *set) Words {
	sp.wide = false
	narrow := sp.spelled(of)
	if sp.wide = sp.tail.end; sp.wide { // of paths
		if wide := sp.spelled(of); wide.len() < narrow.len() {
			return wide
		}
	}
	return narrow
}

func (w Words) len() int {
	if w.Except == nil {
		return len(w.Of)
	}
	return len(w.Of) + w.Except.len()
}

func (sp speller) spelled(of *set) (w Words) {
	covered := sp.none
	if of.other == sp.full.other && of.end == sp.full.end {
		w.Of, covered = []string{Any}, sp.full
	} else {
		for _, pattern := range sp.cover(of) {
			w.Of = append(w.Of, sp.spell(pattern))
			covered = sp.combine(or, covered, sp.set(pattern))
		}
	}
	if over := sp.combine(minus, covered, of); over != sp.none {
		except := sp.words(over)
		w.Except = &except
	}
	return w
}

// goesOn reports whether what is long enough is in the set, if none of its words is named.
func (sp speller) goesOn(of *set) bool {
	for of != sp.none && of != sp.all {
		of = of.other
	}
	return of == sp.all
}

// cover are patterns that match all of the set, and little else. Of what has no word that is named anywhere they match nothing but the
// set, or are wide and leave what is bounded in length; so exceptions to exceptions come to an end.
func (sp speller) cover(of *set) (patterns [][]string) {
	switch {
	case of == sp.none:
		return nil
	case of == sp.tail, sp.wide && sp.goesOn(of):
		return [][]string{{"**"}}
	case of.end:
		patterns = [][]string{nil}
	}
	add := func(word string, rest *set) {
		for _, pattern := range sp.cover(rest) {
			patterns = append(patterns, slices.Concat([]string{word}, pattern))
		}
	}
	usual := of.other
	if usual == sp.all && sp.tail != sp.all {
		patterns = append(patterns, []string{"**"})
	} else {
		add("*", usual)
	}
	for _, word := range sp.apart {
		add(word, of.after(word))
	}
	for _, word := range of.words {
		if !slices.Contains(sp.apart, word) {
			add(word, sp.combine(minus, of.after(word), usual))
		}
	}
	return patterns
}

// spelled are the words for a box's set of a dimension.
func (s *space) spelled(b box, dimension int) Words {
	if dimension == ofTenant {
		return s.tenantWords(s.of(b, dimension))
	}
	return s.speller(dimension).words(s.of(b, dimension))
}

// tenantWords spell a set of tenants, exactly.
func (s *space) tenantWords(of *set) (w Words) {
	var selectors []policy.TenantSelector
	if of.other == s.dimensions[ofTenant].full.other {
		selectors = []policy.TenantSelector{{}}
	} else {
		s.kinds(of.other, 0, policy.TenantSelector{}, &selectors)
	}
	covered, spelled := s.none, 0
	spell := func() {
		for ; spelled < len(selectors); spelled++ {
			covered = s.combine(or, covered, s.tenants(&selectors[spelled], s.known))
			w.Of = append(w.Of, selectorText(&selectors[spelled]))
		}
	}
	spell()
	rest := s.combine(minus, of, covered)
	for _, name := range rest.words {
		s.kinds(rest.after(name), 0, policy.TenantSelector{Names: []string{name}}, &selectors)
	}
	spell()
	if rest.end {
		w.Of, covered = append(w.Of, NoTenant), s.combine(or, covered, s.unit)
	}
	if over := s.combine(minus, covered, of); over != s.none {
		except := s.tenantWords(over)
		w.Except = &except
	}
	return w
}

// kinds adds selectors for all of a set of traits, from the one of that number on.
func (s *space) kinds(of *set, trait int, so policy.TenantSelector, selectors *[]policy.TenantSelector) {
	if of == s.none {
		return
	}
	if of == s.unit { // at the end, or a tenant that is known
		*selectors = append(*selectors, so)
		return
	}
	s.kinds(of.other, trait+1, so, selectors)
	for _, word := range of.words {
		s.kinds(s.combine(minus, of.after(word), of.other), trait+1, s.traits[trait].with(so, word), selectors)
	}
}

// NoTenant is the word for requests of no tenant.
const NoTenant = "no tenant"

func selectorText(selector *policy.TenantSelector) string {
	var words []string
	if len(selector.Names) > 0 {
		words = append(words, selector.Names[0])
	}
	if len(selector.Tiers) > 0 {
		words = append(words, "tier "+selector.Tiers[0])
	}
	if selector.Residency != "" {
		words = append(words, "residency "+selector.Residency)
	}
	for _, label := range slices.Sorted(maps.Keys(selector.Labels)) {
		words = append(words, label+"="+selector.Labels[label])
	}
	if len(words) == 0 {
		return Any
	}
	return strings.Join(words, " ")
}
