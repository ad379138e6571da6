package tenantstore

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// ShadowReport says what policies that are only watched would have done to requests in the mesh.
type ShadowReport struct {
	Watched     []WatchedPolicy    `json:"watched"`
	Differences []ShadowDifference `json:"differences"`     // most requests first
	Lost        int64              `json:"lost"`            // requests that are in no difference: there were more than are kept
	Members     int                `json:"members"`         // that reported, to this control plane
	Since       *time.Time         `json:"since,omitempty"` // when the youngest of them began to count
}

// WatchedPolicy is something that is only watched.
type WatchedPolicy struct {
	Policy   string `json:"policy"`
	What     string `json:"what"` // in words
	Revision int64  `json:"revision"`
}

// ShadowDifference counts the requests that one of them would have made come out in another way.
type ShadowDifference struct {
	Policy    string    `json:"policy"`
	Outcome   string    `json:"outcome"` // refuse, allow: what it would be
	Tenant    string    `json:"tenant,omitempty"`
	TenantUID string    `json:"tenantUid,omitempty"`
	Principal string    `json:"principal"`
	Workload  string    `json:"workload"`
	Method    string    `json:"method"`
	Route     string    `json:"route"` // path pattern
	Requests  int64     `json:"requests"`
	Decision  string    `json:"decision"` // of the last of them
	Path      string    `json:"path"`     // of that
	Last      time.Time `json:"last"`

	Revision int64 `json:"-"` // of what is watched
}

// The outcomes of a difference.
const (
	WouldRefuse = "refuse"
	WouldAllow  = "allow"
)

// WatchedPolicies are what is only watched: policies in Shadow mode, and changes.
func WatchedPolicies(objects map[Key]*Object) (list []WatchedPolicy) {
	for _, key := range slices.SortedFunc(maps.Keys(objects), compareKeys) {
		o := objects[key]
		switch {
		case key.Kind == KindAccessPolicy && o.AccessPolicy.Mode == policy.Shadow && !watchedChange(objects, o):
			list = append(list, WatchedPolicy{key.Name, "in Shadow mode", o.Metadata.Revision})
		case key.Kind == KindRollout && o.Rollout.State == Shadowed:
			what, name := "a new version", o.Rollout.Candidate.Metadata.Name
			switch {
			case o.Rollout.Removes:
				what = "its removal"
			case objects[o.Rollout.Candidate.Key()] == nil:
				what = "a new policy"
			}
			list = append(list, WatchedPolicy{name, what, o.Metadata.Revision})
		}
	}
	slices.SortStableFunc(list, func(a, b WatchedPolicy) int { return strings.Compare(a.Policy, b.Policy) })
	return list
}

// watchedChange reports whether a change of an object is watched; then that is what counts.
func watchedChange(objects map[Key]*Object, o *Object) bool {
	rollout := RolloutOf(objects, o.Key())
	return rollout != nil && rollout.Rollout.State == Shadowed
}

// maxDifferences bounds a report.
const maxDifferences = 10_000

// MergeShadows sums what members say of what is watched still.
func MergeShadows(watched []WatchedPolicy, said []ShadowDifference) (list []ShadowDifference, lost int64) {
	revisions := map[string]int64{}
	for _, w := range watched {
		revisions[w.Policy] = w.Revision
	}
	type key struct{ policy, outcome, uid, tenant, principal, workload, method, route string }
	at := map[key]int{}
	list = []ShadowDifference{}
	for _, d := range said {
		if revision, ok := revisions[d.Policy]; !ok || revision != d.Revision {
			continue
		}
		k := key{d.Policy, d.Outcome, d.TenantUID, d.Tenant, d.Principal, d.Workload, d.Method, d.Route}
		i, ok := at[k]
		if !ok {
			at[k] = len(list)
			list = append(list, d)
			continue
		}
		sum := list[i].Requests + d.Requests
		if d.Last.After(list[i].Last) {
			list[i] = d
		}
		list[i].Requests = sum
	}
	slices.SortFunc(list, func(a, b ShadowDifference) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Policy, b.Policy), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Principal, b.Principal),
			strings.Compare(a.Workload, b.Workload), strings.Compare(a.Method, b.Method), strings.Compare(a.Route, b.Route), strings.Compare(a.Outcome, b.Outcome))
	})
	for _, d := range list[min(len(list), maxDifferences):] {
		lost += d.Requests
	}
	return list[:min(len(list), maxDifferences)], lost
}

// PolicyUses says which policies decided to permit requests, and whose, as far as sidecars say.
type PolicyUses struct {
	Uses    []PolicyUse `json:"uses"`
	Lost    int64       `json:"lost"`            // requests that are in no use
	Members int         `json:"members"`         // that reported, to this control plane
	Since   *time.Time  `json:"since,omitempty"` // when the youngest of them began to count
}

// PolicyUse is that a policy permitted requests of a principal.
type PolicyUse struct {
	Policy    string    `json:"policy"`
	Principal string    `json:"principal"`
	Requests  int64     `json:"requests"`
	Last      time.Time `json:"last"` // to the second
}

// MergeUses sums what members say.
func MergeUses(said []PolicyUse) (list []PolicyUse) {
	at := map[[2]string]int{}
	list = []PolicyUse{}
	for _, u := range said {
		key := [2]string{u.Policy, u.Principal}
		i, ok := at[key]
		if !ok {
			at[key] = len(list)
			list = append(list, u)
			continue
		}
		list[i].Requests += u.Requests
		if u.Last.After(list[i].Last) {
			list[i].Last = u.Last
		}
	}
	slices.SortFunc(list, func(a, b PolicyUse) int {
		return cmp.Or(strings.Compare(a.Policy, b.Policy), strings.Compare(a.Principal, b.Principal))
	})
	return list
}
