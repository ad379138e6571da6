package decisionlog

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/policy"
)

// TestBounds: what a caller sends is kept in part, and keeps nothing else alive.
func TestBounds(t *testing.T) {
	l := New("0123456789abcdef", zap.NewNop())
	target := "/a?" + strings.Repeat("secret", 10_000)
	d := policy.Decision{ClientRequestID: strings.Repeat("i", 10_000), ClientTraceparent: strings.Repeat("t", 10_000), Path: target[:2], Method: strings.Repeat("M", 10_000), Detail: strings.Repeat("\u00e9", 10_000)}
	for i := range 1000 {
		d.Rules = append(d.Rules, policy.RuleResult{Rule: fmt.Sprint(i), Matched: i == 999, Why: strings.Repeat("w", 10_000)})
	}
	l.Add(&d)
	kept, ok := l.Find(d.ID)
	if !ok || kept.Path != "/a" || unsafe.StringData(kept.Path) == unsafe.StringData(target) {
		t.Errorf("the path %q is kept with its query", kept.Path)
	}
	if len(kept.Rules) != maxRules || cap(kept.Rules) > 2*maxRules || kept.Rules[0].Rule != "999" || len(kept.Rules[1].Why) > 2*maxText {
		t.Errorf("%d rules are kept, the first is %.50v", len(kept.Rules), kept.Rules)
	}
	if !strings.HasSuffix(kept.Method, "M... (9488 bytes more)") || !strings.HasSuffix(kept.Detail, "\u00e9... (19488 bytes more)") {
		t.Errorf("what was cut does not say so: %q, %q", kept.Method, kept.Detail)
	}
	if !strings.HasSuffix(kept.ClientRequestID, "i... (9744 bytes more)") || !strings.HasSuffix(kept.ClientTraceparent, "t... (9744 bytes more)") {
		t.Errorf("of the client's own IDs are kept %q, %q", kept.ClientRequestID, kept.ClientTraceparent)
	}
	if len(d.Method) != 10_000 {
		t.Error("the caller's decision is cut, too")
	}
	long := policy.Decision{Path: "/" + strings.Repeat("p", 2*maxPath)}
	if l.Add(&long); len(mustFind(t, l, long.ID).Path) > maxPath+32 {
		t.Error("a long path is kept whole")
	}
}

func mustFind(t *testing.T, l *Log, id string) policy.Decision {
	t.Helper()
	d, ok := l.Find(id)
	if !ok {
		t.Fatal("not found")
	}
	return d
}
