package policy

import (
	"slices"
	"time"
)

// TierSpec is the spec of kind Tier: defaults for the tenants that name it.
type TierSpec struct {
	Limits    Limits    `json:"limits"`
	Weight    int       `json:"weight,omitempty"` // share under overload; 1 to 1000, default 1
	Isolation Isolation `json:"isolation,omitempty"`
	SLO       SLO       `json:"slo,omitempty"`
	FailMode  FailMode  `json:"failMode,omitzero"`
}

// Isolation says what of a cell a tier's tenants share.
type Isolation string

// The isolations; empty means [Pooled].
const (
	Pooled         Isolation = "pooled"
	DedicatedStore Isolation = "dedicatedStore"
	DedicatedCell  Isolation = "dedicatedCell"
)

// SLO is what a tier promises.
type SLO struct {
	Availability float64 `json:"availability,omitempty"` // share of requests, 0 to 1, e.g. 0.999
	LatencyP99   string  `json:"latencyP99,omitempty"`   // a Go duration, e.g. "250ms"
}

// BuiltInTiers are the tiers built in, by name; a Tier of the same name in the store replaces one.
func BuiltInTiers() map[string]TierSpec {
	limits := func(rate float64, exports int) Limits {
		return Limits{
			RequestsPerSecond: rate, Burst: int(2 * rate), Concurrency: int(rate), Classes: map[string]ClassLimit{ClassExports: {Concurrency: exports}},
		}
	}
	return map[string]TierSpec{
		TierBronze: {Limits: SafeLimits(), Weight: 1, Isolation: Pooled, SLO: SLO{0.999, ""}},
		"silver":   {Limits: limits(50, 2), Weight: 2, Isolation: Pooled, SLO: SLO{0.999, ""}},
		"gold":     {Limits: limits(200, 4), Weight: 4, Isolation: DedicatedStore, SLO: SLO{0.9995, ""}},
		"platinum": {Limits: limits(1000, 16), Weight: 8, Isolation: DedicatedCell, SLO: SLO{0.9995, ""}},
	}
}

// TierBronze is the tier of the safe defaults.
const TierBronze = "bronze"

// AccessPolicySpec is the spec of kind AccessPolicy. An empty selector field selects everything of its
// sort, except Principals and Targets, which must be said.
type AccessPolicySpec struct {
	Effect     Effect         `json:"effect"`         // Permit or Forbid
	Mode       Mode           `json:"mode,omitempty"` // Enforce (default) or Shadow
	Principals []string       `json:"principals"`     // SPIFFE patterns, see identity.Pattern
	Tenants    TenantSelector `json:"tenants,omitempty"`
	Targets    []Target       `json:"targets"`
	When       string         `json:"when,omitempty"`  // CEL, see policy/authz
	Audit      Audit          `json:"audit,omitempty"` // of a Permit: which of what it allows leaves audit events
}

// Audit says which decisions leave an audit event, beside refusals and uses of grants, which always do.
type Audit string

// AuditAll is every decision.
const AuditAll Audit = "all"

// Effect is what a matching policy does.
type Effect string

// The effects. Forbid wins over Permit; where nothing matches, the request is denied.
const (
	Permit Effect = "Permit"
	Forbid Effect = "Forbid"
)

// Mode says whether a policy decides or only watches.
type Mode string

// The modes; empty means [Enforce].
const (
	Enforce Mode = "Enforce"
	Shadow  Mode = "Shadow"
)

// TenantSelector selects tenants that match every field that is said; the zero value selects all.
type TenantSelector struct {
	Names     []string          `json:"names,omitempty"`
	Tiers     []string          `json:"tiers,omitempty"`
	Residency string            `json:"residency,omitempty"` // "eu"
	Labels    map[string]string `json:"labels,omitempty"`
	Own       bool              `json:"own,omitempty"` // the one that the principal is bound to by registration (Workload.boundTenant); one that is bound to none has none
}

// Target selects requests to a workload.
type Target struct {
	Workload string   `json:"workload"`          // a Workload's name, or "*"
	Methods  []string `json:"methods,omitempty"` // upper-case; empty: all
	Paths    []string `json:"paths,omitempty"`   // per segment: exact, "*", trailing "**"; empty: all
	GRPC     []GRPC   `json:"grpc,omitempty"`    // instead of methods and paths
}

// GRPC selects gRPC calls: POSTs of /<service>/<method>.
type GRPC struct {
	Service string   `json:"service"`           // with its package, "pkg.Service"
	Methods []string `json:"methods,omitempty"` // as the service has them, "Get"; empty: all
}

// Plain is t in methods and paths alone. One that has no GRPC is so already.
func (t Target) Plain() Target {
	if len(t.GRPC) == 0 {
		return t
	}
	plain := Target{Workload: t.Workload, Methods: []string{"POST"}}
	for _, g := range t.GRPC {
		if len(g.Methods) == 0 {
			plain.Paths = append(plain.Paths, "/"+g.Service+"/*")
		}
		for _, method := range g.Methods {
			plain.Paths = append(plain.Paths, "/"+g.Service+"/"+method)
		}
	}
	return plain
}

// Plain is s with plain targets.
func (s AccessPolicySpec) Plain() AccessPolicySpec {
	s.Targets = slices.Clone(s.Targets)
	for i, t := range s.Targets {
		s.Targets[i] = t.Plain()
	}
	return s
}

// AccessInvariantSpec is the spec of kind AccessInvariant: something that is to hold for every request, whatever policies there are.
// Exactly one of NoCrossTenant and OnlyFrom is set.
type AccessInvariantSpec struct {
	// NoCrossTenant: who belongs to a tenant acts for no other, but by an AccessGrant of its own. A Workload with a boundTenant
	// belongs to that one. Who is no such workload's and holds an AccessGrant belongs to none: it acts for the tenants of its grants
	// alone. A request of no tenant is not for another one.
	NoCrossTenant bool `json:"noCrossTenant,omitempty"`

	// OnlyFrom: what the other fields select is allowed to principals of these SPIFFE patterns alone. An empty field selects all.
	OnlyFrom []string `json:"onlyFrom,omitempty"`
	Workload string   `json:"workload,omitempty"`
	Tenant   string   `json:"tenant,omitempty"`
	Methods  []string `json:"methods,omitempty"`
	Paths    []string `json:"paths,omitempty"` // as Target's
}

// MaxBreakGlass is how long a grant may last that nobody else approves.
const MaxBreakGlass = 4 * time.Hour

// AccessGrantSpec is the spec of kind AccessGrant: a governed, time-limited right of one principal over
// tenants that are not its own.
type AccessGrantSpec struct {
	Principal string         `json:"principal"` // a whole SPIFFE ID
	Tenants   TenantSelector `json:"tenants"`
	Targets   []Target       `json:"targets"`
	Reason    string         `json:"reason"`             // why, for the audit; 1 to 500 characters
	Approver  string         `json:"approver,omitempty"` // who is to approve, other than the one granted; empty: whoever may, but not who asked
	NotAfter  time.Time      `json:"notAfter"`

	// BreakGlass: it is in force at once, for MaxBreakGlass at most, and loudly: nobody else approved it.
	BreakGlass bool `json:"breakGlass,omitempty"`
}
