package tenantstore

import (
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/breaker"
)

// breaker checks when calls are refused because they keep failing.
func (v *validation) breaker(b policy.Breaker) {
	if f := b.Failures; f != 0 && f != policy.Unlimited && (f < 1 || f > breaker.MaxFailures) {
		v.add("spec.breaker.failures", "must be from 1 to %d, or -1 to open never (got %d)", breaker.MaxFailures, f)
	}
	if b.Share != 0 {
		between(v, "spec.breaker.share", b.Share, 0.001, 1)
	}
	v.duration("spec.breaker.window", b.Window, breaker.MinWindow, breaker.MaxDuration)
	least := breaker.Settings{Wait: v.duration("spec.breaker.wait", b.Wait, breaker.MinWait, breaker.MaxDuration)}.Defaults().Wait
	v.duration("spec.breaker.maxWait", b.MaxWait, least, breaker.MaxDuration)
}

// duration checks a Go duration that may be not said, and returns it, 0 when it is not.
func (v *validation) duration(path, text string, low, high time.Duration) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < low || d > high {
		v.add(path, "must be a duration from %v to %v, such as 10s (got %q)", low, high, text)
		return 0
	}
	return d
}

// bulkhead checks a class's own connections. Envoy has a cluster for them that goes by the class's name.
func (v *validation) bulkhead(at string, class Class, before []Class) {
	if class.Bulkhead == nil {
		return
	}
	if _, err := identity.ParseTenantID(class.Name); err != nil {
		v.add(at+".name", "must be 1 to %d lower-case letters, digits and '-' with a bulkhead (got %q)", identity.MaxTenantID, class.Name)
	}
	if slices.ContainsFunc(before, func(other Class) bool { return other.Name == class.Name && other.Bulkhead != nil }) {
		v.add(at+".bulkhead", "must be given once for a name (got it again for %q)", class.Name)
	}
	for _, bound := range []struct {
		field string
		value int
	}{
		{"maxConnections", class.Bulkhead.MaxConnections}, {"maxPendingRequests", class.Bulkhead.MaxPendingRequests}, {"maxRequests", class.Bulkhead.MaxRequests},
	} {
		if bound.value != 0 {
			between(v, at+".bulkhead."+bound.field, bound.value, 1, 65535)
		}
	}
}
