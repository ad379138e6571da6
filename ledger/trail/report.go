package trail

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Report is who acted for one tenant, what was kept from crossing into or out of it, and what is not known.
type Report struct {
	Tenant    string    `json:"tenant"`
	TenantUID string    `json:"tenantUid"`
	Since     time.Time `json:"since,omitzero"`
	Actors    []Actor   `json:"actors"`   // who acted, as far as events say: see Notes
	Grants    []Actor   `json:"grants"`   // of those, by an AccessGrant
	Into      []Refused `json:"into"`     // refusals that would have crossed into the tenant
	OutOf     []Refused `json:"outOf"`    // refusals of the tenant's own principals elsewhere; where is not said
	Refusals  int64     `json:"refusals"` // all refusals, those that were only counted too
	Gaps      []Gapped  `json:"gaps"`     // evidence that is missing
	Problems  []string  `json:"problems"` // evidence that is not as it was recorded
	Notes     []string  `json:"notes"`    // what this does and does not say
	Changes   int       `json:"changes"`  // administrative events about the tenant
	Bundle    string    `json:"bundle"`   // fingerprint of the trust bundle that vouched for the evidence
}

// Actor is who acted, and by what right.
type Actor struct {
	Principal  string    `json:"principal"`
	Workload   string    `json:"workload"`
	Rule       string    `json:"rule,omitempty"`
	Grant      string    `json:"grant,omitempty"`
	BreakGlass bool      `json:"breakGlass,omitempty"`
	Purposes   []string  `json:"purposes,omitempty"` // at most 20
	Count      int64     `json:"count"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
}

// Refused are refusals alike.
type Refused struct {
	Principal string    `json:"principal,omitempty"` // "": they were only counted
	Workload  string    `json:"workload,omitempty"`
	Reason    string    `json:"reason"`
	Count     int64     `json:"count"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

// Gapped is evidence that is missing.
type Gapped struct {
	Member string    `json:"member"`
	Kind   Kind      `json:"kind"` // gap, restart
	Lost   int64     `json:"lost"` // 0: it is not known how many, if any
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
}

const maxPurposes = 20

// Report sums a trail.
func (t *Trail) Report() Report {
	r := Report{
		Tenant: t.Export.Tenant, TenantUID: t.Export.TenantUID, Since: t.Export.Since, Actors: []Actor{}, Grants: []Actor{}, OutOf: []Refused{}, Gaps: []Gapped{}, Problems: []string{},
		Notes: slices.Clone(t.Notes), Changes: len(t.Administrative), Bundle: Fingerprint(t.Export.Bundle),
	}
	for _, problem := range t.Problems {
		r.Problems = append(r.Problems, problem.Error())
	}
	actors := map[[4]string]*Actor{}
	for i := range t.Events {
		e := &t.Events[i]
		switch {
		case e.Kind == Gap || e.Kind == Restart:
			r.Gaps = append(r.Gaps, Gapped{e.Member, e.Kind, e.Lost, e.From, e.To})
		case e.Allowed:
			key := [4]string{e.Principal, e.Workload, e.Rule, e.Grant}
			a := actors[key]
			if a == nil {
				a = &Actor{Principal: e.Principal, Workload: e.Workload, Rule: e.Rule, Grant: e.Grant, First: e.Time}
				actors[key] = a
			}
			a.Count, a.Last, a.BreakGlass = a.Count+1, e.Time, a.BreakGlass || e.BreakGlass
			if e.Purpose != "" && len(a.Purposes) < maxPurposes && !slices.Contains(a.Purposes, e.Purpose) {
				a.Purposes = append(a.Purposes, e.Purpose)
			}
		default:
			r.Refusals += e.Suppressed
			if e.Kind == Decision {
				r.Refusals++
			}
		}
	}
	for _, a := range actors {
		if r.Actors = append(r.Actors, *a); a.Grant != "" {
			r.Grants = append(r.Grants, *a)
		}
	}
	for _, list := range [][]Actor{r.Actors, r.Grants} {
		slices.SortFunc(list, func(a, b Actor) int {
			return cmp.Or(cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Rule, b.Rule))
		})
	}
	r.Into = Crossings(t.Events)
	r.Notes = append(r.Notes, "requests that were allowed by ordinary policies leave events only where the tenant or the policy says audit: all; grants and refusals always do")
	if n := len(r.Gaps); n > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the evidence has %d gaps: what happened in them is not known from here", n))
	}
	return r
}

// Crossings sums those refusals that kept someone from what may be another tenant's.
func Crossings(events []Event) []Refused {
	sums := map[[3]string]*Refused{}
	add := func(principal, workload, reason string, n int64, from, to time.Time) {
		key := [3]string{principal, workload, reason}
		s := sums[key]
		if s == nil {
			s = &Refused{Principal: principal, Workload: workload, Reason: reason, First: from}
			sums[key] = s
		}
		s.Count += n
		if from.Before(s.First) {
			s.First = from
		}
		if to.After(s.Last) {
			s.Last = to
		}
	}
	for i := range events {
		e := &events[i]
		if !e.Crosses() {
			continue
		}
		if e.Suppressed > 0 {
			add("", "", e.Reason, e.Suppressed, e.From, e.To)
		}
		if e.Kind == Decision {
			add(e.Principal, e.Workload, e.Reason, 1, e.Time, e.Time)
		}
	}
	list := []Refused{}
	for _, s := range sums {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Refused) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Workload, b.Workload))
	})
	return list
}
