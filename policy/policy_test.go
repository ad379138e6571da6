package policy

import (
	"encoding/json"
	"testing"
)

func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		if r.String() == "" || seen[r.String()] || r.Title() == "" || r.Advice() == "" {
			t.Errorf("reason %d is %q, %q, %q", r, r, r.Title(), r.Advice())
		}
		seen[r.String()] = true
		switch r.Status() {
		case 401, 403, 413, 421, 429, 503:
		default:
			t.Errorf("%s answers %d", r, r.Status())
		}
		text, err := json.Marshal(Decision{Reason: r})
		if err != nil {
			t.Fatal(err)
		}
		var d Decision
		if err := json.Unmarshal(text, &d); err != nil || d.Reason != r {
			t.Errorf("%s comes back as %s, %v", r, d.Reason, err)
		}
	}
	if _, err := ParseReason("because"); err == nil {
		t.Error("a reason that is not on the list is one")
	}
	var none Reason
	if err := none.UnmarshalText(nil); err != nil || none != Permitted {
		t.Errorf("no reason is %v, %v", none, err)
	}
}

func TestLimitsOver(t *testing.T) {
	base := Limits{RequestsPerSecond: 10, Burst: 20, Concurrency: 5, Classes: map[string]ClassLimit{"a": {RequestsPerSecond: 1, Burst: 2, Concurrency: 3}}}
	base.RetryShare = 0.5
	if half, own := (Limits{}).Over(base), (Limits{RetryShare: -1}).Over(base); half.RetryShare != 0.5 || own.RetryShare != -1 {
		t.Errorf("shares of repeats are %v and %v", half.RetryShare, own.RetryShare)
	}
	got := Limits{Burst: 7, Classes: map[string]ClassLimit{"a": {Concurrency: 9}, "b": {Burst: 1}}}.Over(base)
	if got.RequestsPerSecond != 10 || got.Burst != 7 || got.Concurrency != 5 || got.Classes["a"] != (ClassLimit{1, 2, 9}) || got.Classes["b"].Burst != 1 {
		t.Errorf("got %+v", got)
	}
	if base.Classes["a"].Concurrency != 3 || len(base.Classes) != 1 {
		t.Errorf("the base changed: %+v", base)
	}
	if none := (Limits{}).Over(Limits{}); none.Classes != nil {
		t.Errorf("nothing over nothing has classes: %+v", none)
	}
	for name, tier := range BuiltInTiers() {
		if tier.Limits.RequestsPerSecond <= 0 || tier.Weight < 1 {
			t.Errorf("tier %s is %+v", name, tier)
		}
	}
}
