package tenantstore

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// NoProof is the proof of a call whose tenant was not proven.
const NoProof = "none"

// Coverage says how the tenants of calls were proven, as far as sidecars say: each counts since it began, keeps the 256 most frequent sorts of
// calls, and reports within 10 s.
type Coverage struct {
	Workloads []WorkloadCoverage `json:"workloads"`
	Calls     []CoveredCalls     `json:"calls"`
	Lost      int64              `json:"lost"`            // calls that are in none of Calls
	Members   int                `json:"members"`         // that reported, to this control plane
	Since     *time.Time         `json:"since,omitempty"` // when the youngest of them began to count
}

// WorkloadCoverage sums the calls of a workload, or those to it.
type WorkloadCoverage struct {
	Workload string           `json:"workload"`
	Inbound  bool             `json:"inbound"` // calls to it; false: of it
	Requests int64            `json:"requests"`
	Proven   float64          `json:"proven"`  // share of them, 0 to 1
	Refused  int64            `json:"refused"` // of those that were not proven
	Proofs   map[string]int64 `json:"proofs"`  // calls, by how they were proven
}

// CoveredCalls are calls that are alike, and how their tenant was proven.
type CoveredCalls struct {
	Workload string    `json:"workload"`
	Inbound  bool      `json:"inbound"` // calls to it; false: of it
	Peer     string    `json:"peer"`    // who calls (SPIFFE ID), or what is called (workload/..., dependency/...)
	Method   string    `json:"method"`
	Route    string    `json:"route"` // path, without what is of one request
	Proof    string    `json:"proof"` // context, traceparent, x-request-id, bound, none
	Refused  bool      `json:"refused,omitempty"`
	Requests int64     `json:"requests"`
	Decision string    `json:"decision"` // of one of them, to explain
	Path     string    `json:"path"`     // of that
	Last     time.Time `json:"last"`
}

// LeastProven is the share of proven calls below which a workload is turned to Require only by force.
const LeastProven = 0.99

// Proven is the share of the calls to a workload whose tenant was proven, and how many there were.
func (c *Coverage) Proven(workload string) (share float64, calls int64) {
	for _, w := range c.Workloads {
		if w.Inbound && w.Workload == workload {
			return w.Proven, w.Requests
		}
	}
	return 0, 0
}

// proven refuses to turn workloads to Require whose callers would notice.
func (t *draft) proven(of func(workload string) (share float64, calls int64)) {
	if of == nil {
		return
	}
	for _, c := range t.changes {
		if c.Key.Kind != KindWorkload || c.Action != Updated {
			continue
		}
		old := t.before(c.Key)
		if old == nil || old.Workload.Tenancy != Observe || c.Object.Workload.Tenancy != Require && c.Object.Workload.Tenancy != "" {
			continue
		}
		if share, calls := of(c.Key.Name); calls > 0 && share < LeastProven {
			t.problem(c.Key, "spec.tenancy", "must stay observe while less than %g%% of the calls have a proven tenant (got %.1f%% of %d): see 'tenantmesh coverage %s', or apply with --force to have the others refused",
				100*LeastProven, 100*share, calls, c.Key.Name)
		}
	}
}

// MergeCoverage sums what members say, most frequent first.
func MergeCoverage(said []CoveredCalls) []CoveredCalls {
	type key struct {
		workload, peer, method, route, proof string
		inbound, refused                     bool
	}
	at, list := map[key]int{}, []CoveredCalls{}
	for _, c := range said {
		k := key{c.Workload, c.Peer, c.Method, c.Route, c.Proof, c.Inbound, c.Refused}
		i, ok := at[k]
		if !ok {
			at[k] = len(list)
			list = append(list, c)
			continue
		}
		sum := list[i].Requests + c.Requests
		if c.Last.After(list[i].Last) {
			list[i] = c
		}
		list[i].Requests = sum
	}
	slices.SortFunc(list, func(a, b CoveredCalls) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Workload, b.Workload), strings.Compare(a.Peer, b.Peer), strings.Compare(a.Method, b.Method),
			strings.Compare(a.Route, b.Route), strings.Compare(a.Proof, b.Proof))
	})
	return list
}

// CoverageOf sums calls by workload, those of it before those to it.
func CoverageOf(calls []CoveredCalls) []WorkloadCoverage {
	list := []WorkloadCoverage{}
	for _, c := range calls {
		i := slices.IndexFunc(list, func(w WorkloadCoverage) bool { return w.Workload == c.Workload && w.Inbound == c.Inbound })
		if i < 0 {
			i, list = len(list), append(list, WorkloadCoverage{Workload: c.Workload, Inbound: c.Inbound, Proofs: map[string]int64{}})
		}
		w := &list[i]
		w.Requests += c.Requests
		w.Proofs[c.Proof] += c.Requests
		if c.Refused {
			w.Refused += c.Requests
		}
	}
	for i := range list {
		if w := &list[i]; w.Requests > 0 {
			w.Proven = float64(w.Requests-w.Proofs[NoProof]) / float64(w.Requests)
		}
	}
	slices.SortFunc(list, func(a, b WorkloadCoverage) int {
		if a.Workload == b.Workload && a.Inbound { // there is one of each
			return 1
		}
		return cmp.Or(strings.Compare(a.Workload, b.Workload), -1)
	})
	return list
}
