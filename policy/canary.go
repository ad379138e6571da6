package policy

import "slices"

// Canary is the part of the tenants that a rollout gives its change to: those listed, and a share of all. While Seed
// stays, a larger share holds everyone that a smaller one held.
type Canary struct {
	Seed    string   // of one rollout; another one begins with other tenants
	Percent float64  // 0 to 100
	Names   []string // tenants that are in it whatever the share
	Others  bool     // selects who is not in it, with requests that have no tenant
}

// CanarySuffix ends the name of a policy as it is for the canary, ShadowSuffix that of one as a change that is only watched would
// make it.
const (
	CanarySuffix = "@canary"
	ShadowSuffix = "@shadow"
)

// Selects reports whether a tenant is meant, by its name and the uid of its incarnation; "" and "" for no tenant. It
// allocates nothing.
func (c *Canary) Selects(tenant, uid string) bool {
	in := tenant != "" && (slices.Contains(c.Names, tenant) || percentile(c.Seed, uid) < c.Percent)
	return in != c.Others
}

// percentile is where a tenant stands among all under a seed, from 0 to under 100: FNV-1a, whose upper bits differ too
// little for names that differ at their end, and so the finalizer of MurmurHash3 over it.
func percentile(seed, uid string) float64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{seed, "\x00", uid} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return float64(h>>11) / (1 << 53) * 100
}
