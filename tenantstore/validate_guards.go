package tenantstore

import (
	"time"

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
