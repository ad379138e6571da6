// Package shadow answers WHAT WOULD IT HAVE DONE: it counts the requests that would have come out in another way if a policy that
// is only watched were in force, by policy, tenant, principal, method and route, with one example each.
//
// It counts in the same way which policies permitted whose requests.
//
// It imports sidecar/tally.
package shadow

import (
	"strings"

	"github.com/tenantmesh/tenantmesh/sidecar/tally"
)

// Key is what is counted apart.
type Key struct {
	Policy    string
	Revision  int64 // of what is watched
	Allowed   bool  // it would be allowed; false: it would be refused
	Tenant    string
	TenantUID string
	Principal string
	Method    string
	Route     string
}

func (k Key) own() Key {
	for _, text := range []*string{&k.Policy, &k.Tenant, &k.TenantUID, &k.Principal, &k.Method, &k.Route} {
		*text = strings.Clone(*text)
	}
	return k
}

// Table counts.
type Table = tally.Table[Key]

// New returns an empty table.
func New() *Table { return tally.New(Key.own) }

// Counts are all that a table holds, but for what is not watched any more, which is forgotten; how many requests were lost; and a number
// that grows with each request.
func Counts(t *Table, watched map[string]int64) (counts map[Key]tally.Count, lost, changes int64) {
	return t.Keep(func(key Key) bool {
		revision, ok := watched[key.Policy]
		return ok && revision == key.Revision
	}, len(watched) > 0)
}
