package analysis

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Class is a set of requests: all that are in each of its parts.
type Class struct {
	Rules      []string `json:"rules,omitempty"`   // that permit it
	Forbids    []string `json:"forbids,omitempty"` // that forbid it
	Principals Words    `json:"principals"`
	Tenants    Words    `json:"tenants"`
	Workloads  Words    `json:"workloads"`
	Methods    Words    `json:"methods"`
	Paths      Words    `json:"paths"`
	Times      string   `json:"times,omitempty"` // "until ..."; empty: from now on, for ever
	When       []string `json:"when,omitempty"`  // conditional: it depends on these, which nobody looked into
	Example    Request  `json:"example"`         // one of it
}

// Request is a request as people write and read it.
type Request struct {
	Principal string            `json:"principal"`
	Tenant    string            `json:"tenant,omitempty"`
	Tier      string            `json:"tier,omitempty"` // of a tenant that is not known
	Residency string            `json:"residency,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"` // of a tenant that is not known
	Own       string            `json:"own,omitempty"`    // tenant that the principal is bound to, where no workloads are known
	Workload  string            `json:"workload"`
	Method    string            `json:"method"`
	Path      string            `json:"path"`
	Time      time.Time         `json:"time,omitzero"`
}

// String is r on one line.
func (r Request) String() string {
	tenant := r.Tenant
	switch {
	case tenant == "":
		tenant = NoTenant
	case r.Tier != "":
		tenant += " (tier " + r.Tier + ")"
	}
	who := r.Principal
	if r.Own != "" {
		who += " (of " + r.Own + ")"
	}
	return fmt.Sprintf("%s for %s: %s %s of %s", who, tenant, r.Method, r.Path, r.Workload)
}

// authz is the request as a mesh judges it. Tenants and workloads that are known are as they are; a request without a time is of now.
func (r Request) authz(m *Mesh) (*authz.Request, error) {
	principal, err := identity.ParsePrincipal(r.Principal)
	if err != nil {
		return nil, err
	}
	path, ok := authz.Canonical(r.Path)
	if !ok {
		return nil, fmt.Errorf("path must be well encoded (got %q)", r.Path)
	}
	request := &authz.Request{Principal: principal, Workload: r.Workload, Method: r.Method, Path: path, Now: m.Now, Purpose: "asked"} // who may use a grant can say why
	if !r.Time.IsZero() {
		request.Now = r.Time
	}
	if len(m.Workloads) > 0 {
		request.Own = m.owned(principal)
	} else if err := request.Own.UnmarshalText([]byte(r.Own)); err != nil {
		return nil, fmt.Errorf("own: %w", err)
	}
	if r.Tenant == "" {
		return request, nil
	}
	id, err := identity.ParseTenantID(r.Tenant)
	if err != nil {
		return nil, err
	}
	request.Tenant = authz.Tenant{ID: id, Tier: r.Tier, Residency: r.Residency, Labels: r.Labels}
	if i := slices.IndexFunc(m.Tenants, func(t authz.Tenant) bool { return t.ID == id }); i >= 0 {
		request.Tenant = m.Tenants[i]
	}
	return request, nil
}

// class spells a box.
func (s *space) class(b box) Class {
	c := Class{
		Principals: s.spelled(b, ofPrincipal), Tenants: s.spelled(b, ofTenant), Workloads: s.spelled(b, ofWorkload),
		Methods: s.spelled(b, ofMethod), Paths: s.spelled(b, ofPath), Times: s.times(s.of(b, ofTime)), Example: s.example(b),
	}
	for _, constraint := range b {
		if constraint.dimension >= ofCondition {
			c.When = append(c.When, phrase(s.dimensions[constraint.dimension].text, constraint.set.words))
		}
	}
	return c
}

// phrase says that a condition has one of the values, which are sorted.
func phrase(text string, values []string) string {
	switch strings.Join(values, " ") {
	case isError:
		return "(" + text + ") fails"
	case isFalse:
		return "not (" + text + ")"
	case isOut:
		return "not " + text
	case isError + " " + isFalse:
		return "not (" + text + "), or it fails"
	case isError + " " + isTrue:
		return "(" + text + "), or it fails"
	case isFalse + " " + isTrue:
		return "(" + text + ") does not fail"
	}
	return text // in, or true
}

// times say when, "" for always.
func (s *space) times(of *set) string {
	var parts []string
	in, from := true, ""
	if !of.has([]string{interval(0)}) {
		in = false
	}
	for i, bound := range s.bounds {
		after := of.has([]string{interval(i + 1)})
		at := bound.Format(time.RFC3339)
		if in && !after {
			parts = append(parts, strings.TrimSpace(from+" until "+at))
		}
		if !in && after {
			from = "from " + at
		}
		in = after
	}
	if in && from != "" {
		parts = append(parts, from)
	}
	return strings.Join(parts, ", ")
}

// example is a request of a box, with names that are known where there are any.
func (s *space) example(b box) Request {
	principal := s.pick(s.of(b, ofPrincipal), "other.example")
	r := Request{
		Principal: scheme + strings.Join(principal, "/"),
		Workload:  s.pick(s.of(b, ofWorkload))[0], Method: s.pick(s.of(b, ofMethod), "GET", "POST", "PUT", "DELETE")[0],
	}
	path := s.of(b, ofPath)
	if slashed := s.combine(and, path, s.anyWord(s.all)); slashed != s.none {
		r.Path = "/" + strings.Join(s.pick(slashed), "/")
	}
	tenants := s.of(b, ofTenant)
	if named := s.combine(and, tenants, s.anyWord(s.all)); named != s.none {
		words := s.pick(named)
		r.Tenant = words[0]
		if len(words) > 1 { // one that is not known
			r.Labels = map[string]string{}
			for i, trait := range s.traits {
				trait.describe(&r, words[1+i])
			}
		}
		if at, ok := s.conditions["own"]; ok && s.of(b, at) == s.oneOf(s.unit, isIn) {
			r.Own = r.Tenant
		}
	}
	if times := s.of(b, ofTime); times.has([]string{interval(0)}) {
		r.Time = s.now
	} else {
		for i, bound := range s.bounds {
			if times.has([]string{interval(i + 1)}) {
				r.Time = bound
				break
			}
		}
	}
	return r
}

// pick is a sequence of a set, of words that some policy names if it can be. Its first word is one of the preferred, if that
// can be and no policy's word can.
func (s *space) pick(of *set, preferred ...string) (words []string) {
	for !of.end {
		word := ""
		for _, candidate := range of.words {
			if candidate != "" && of.next[candidate] != s.none {
				word = candidate
				break
			}
		}
		if word == "" && of.other != s.none {
			word = fresh(of, preferred)
		}
		words, of, preferred = append(words, word), of.after(word), nil // "" when nothing else is left
	}
	return words
}

// fresh is a word that the set does not name.
func fresh(of *set, preferred []string) string {
	for _, word := range append(slices.Clone(preferred), "other") {
		if _, ok := of.next[word]; !ok {
			return word
		}
	}
	for i := 2; ; i++ {
		word := fmt.Sprintf("other-%d", i)
		if _, ok := of.next[word]; !ok {
			return word
		}
	}
}
