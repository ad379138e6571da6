package policy

import (
	"maps"
	"math"
)

// FailMode says what a tier's tenants get where enforcement does not know what it should. What is never a choice: a
// tenant whose existence or place is not known is refused, and so is a request that nobody has judged.
type FailMode struct {
	LimitsUnknown OnUnknown `json:"limitsUnknown,omitempty"` // default [SafeDefaults]
}

// OnUnknown is what to do in the place of limits that are not known.
type OnUnknown string

// What there is to do; empty means [SafeDefaults].
const (
	SafeDefaults  OnUnknown = "safeDefaults" // hold the tenant to [SafeLimits]
	RefuseUnknown OnUnknown = "refuse"       // refuse its requests until its limits are known
)

// Known returns the tenant's limits, those of [SafeLimits] in the place of each that is none (0, NaN, negative but for
// [Unlimited]), and whether all of them were limits. Zero fields of a class are no limits of its own, and are known.
func (l Limits) Known() (known Limits, all bool) {
	safe := SafeLimits()
	all = true
	known = l
	if !(l.RequestsPerSecond > 0 || l.RequestsPerSecond == Unlimited) {
		known.RequestsPerSecond, known.Burst, all = safe.RequestsPerSecond, safe.Burst, false
	} else if l.Burst < 0 || l.Burst == 0 && l.RequestsPerSecond > 0 {
		known.Burst, all = safe.Burst, false
	}
	if l.Concurrency == 0 || l.Concurrency < Unlimited {
		known.Concurrency, all = safe.Concurrency, false
	}
	if math.IsNaN(l.RetryShare) {
		known.RetryShare, all = 0, false
	}
	for name, class := range l.Classes {
		if class.known() {
			continue
		}
		known.Classes, all = maps.Clone(known.Classes), false
		known.Classes[name] = ClassLimit{safe.RequestsPerSecond, safe.Burst, 1}
	}
	return known, all
}

// known reports whether each field is a limit, or no limit of the class's own.
func (c ClassLimit) known() bool {
	return (c.RequestsPerSecond >= 0 || c.RequestsPerSecond == Unlimited) && c.Burst >= 0 && c.Concurrency >= Unlimited
}
