package cli

import (
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/policy"
)

// TestExplainIsText: what a client, a token or a sidecar chose can neither move a terminal's cursor nor write a line of
// its own.
func TestExplainIsText(t *testing.T) {
	const evil = "a\x1b[2J\u009b31m\u202e\r\nverdict    allowed\tb"
	d := policy.Decision{
		ID: "x", Method: evil, Path: evil, Authority: evil, RequestID: evil, Principal: evil, Tenant: evil, Tier: evil, Proof: evil, Detail: evil, Class: evil, Rule: evil,
		ClientRequestID: evil, ClientTraceparent: evil, Reason: policy.DeniedByPolicy, Rules: []policy.RuleResult{{Rule: evil, Why: evil}},
	}
	var out strings.Builder
	explain(visible{&out}, d)
	for line := range strings.Lines(out.String()) {
		if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x1b\u009b\u202e\r\n\t") {
			t.Errorf("a terminal would obey %q", line)
		}
		if strings.HasPrefix(line, "verdict") && !strings.HasPrefix(line, "verdict    refused") {
			t.Errorf("%q is not what was decided", line)
		}
	}
}
