package sidecar

import (
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// maxTop is how many tenants are reported.
const maxTop = 50

// top is who uses most of what this sidecar serves, with where each stands.
func (s *sidecar) top(now time.Time) []*api.TopEntry {
	set := s.sets.Load()
	used := s.decider.Use.Top(now)
	var list []*api.TopEntry
	for _, u := range used[:min(len(used), maxTop)] {
		e := &api.TopEntry{Tenant: u.Key.Tenant, TenantUid: u.Key.UID, Requests: u.Uses, Refused: u.Refused, Over: u.Over}
		if t, ok := set.Tenant(u.Key.Tenant); ok && t.UID == u.Key.UID {
			open, share := s.decider.Fair.Standing(t.UID)
			e.Open, e.Share = int64(open), share
			e.Level, e.Limit = nearest(s.decider.Limiter, now, set.Self, t)
		}
		list = append(list, e)
	}
	return list
}

// nearest is the tenant's limit of which most is used here, 0 to 1, and its name.
func nearest(limiter *limit.Limiter, now time.Time, self *policyset.Self, t *policyset.Tenant) (level float64, name string) {
	look := func(r *limit.Request) {
		verdict := limiter.Explain(now, r)
		for _, l := range verdict.Levels() {
			if used := 1 - l.Remaining/l.Of; l.Of > 0 && used > level {
				level, name = used, l.Kind.String()
				if r.Class != "" {
					name += " of " + r.Class
				}
			}
		}
	}
	if self == nil || self.Role == "gateway" || !self.BoundTenant.IsZero() {
		look(&limit.Request{UID: t.UID, Limits: t.Limits, ChargeTenant: true})
	}
	if self != nil && self.Role != "gateway" {
		for class := range t.Limits.Classes {
			look(&limit.Request{UID: t.UID, Class: class, Limits: t.Limits})
		}
	}
	return level, name
}
