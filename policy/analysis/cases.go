package analysis

import (
	"fmt"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Case is a request, and what is to be decided about it.
type Case struct {
	Name    string  `json:"name,omitempty"`
	Request Request `json:"request"`
	Want    Want    `json:"want"`
}

// Want is what a case expects. Of Rule and Reason, what is empty may be anything.
type Want struct {
	Decision Verdict       `json:"decision"`
	Rule     string        `json:"rule,omitempty"`   // that decides
	Reason   policy.Reason `json:"reason,omitempty"` // of a refusal
}

// Verdict is allow or refuse.
type Verdict string

// The verdicts.
const (
	Allow  Verdict = "allow"
	Refuse Verdict = "refuse"
)

// Failure is a case that came out in another way.
type Failure struct {
	Case Case                `json:"case"`
	Got  Want                `json:"got"`
	Why  []policy.RuleResult `json:"why"`
}

// Try judges every case, and returns those that failed.
func Try(m *Mesh, cases []Case) ([]Failure, error) {
	set, err := authz.Compile(m.Policies)
	if err != nil {
		return nil, err
	}
	failures := []Failure{}
	for i, c := range cases {
		if c.Name == "" {
			c.Name = fmt.Sprintf("case %d", i+1)
		}
		if c.Want.Decision != Allow && c.Want.Decision != Refuse {
			return nil, fmt.Errorf("%s: want.decision must be %s or %s (got %q)", c.Name, Allow, Refuse, c.Want.Decision)
		}
		request, err := c.Request.authz(m)
		if err != nil {
			return nil, fmt.Errorf("%s: request: %w", c.Name, err)
		}
		d := set.Authorize(request)
		got := Want{Decision: Allow, Rule: d.Rule}
		if !d.Allowed {
			got.Decision, got.Reason = Refuse, policy.DeniedByPolicy
		}
		if got.Decision != c.Want.Decision || c.Want.Rule != "" && c.Want.Rule != got.Rule || c.Want.Reason != policy.Permitted && c.Want.Reason != got.Reason {
			failures = append(failures, Failure{c, got, d.Results})
		}
	}
	return failures, nil
}
