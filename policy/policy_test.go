package policy

import (
	"encoding/json"
	"maps"
	"math"
	"reflect"
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

func TestKnownLimits(t *testing.T) {
	safe := SafeLimits()
	good := Limits{RequestsPerSecond: 1000, Burst: 10, Concurrency: Unlimited, RetryShare: 0.5, Classes: map[string]ClassLimit{"a": {}, "b": {Unlimited, 0, Unlimited}}}
	for name, test := range map[string]struct {
		spoil func(*Limits)
		want  func(*Limits) // nil: all are known
	}{
		"good":             {func(*Limits) {}, nil},
		"huge":             {func(l *Limits) { l.RequestsPerSecond, l.Burst, l.Concurrency = math.Inf(1), math.MaxInt, math.MaxInt }, nil},
		"unlimited":        {func(l *Limits) { l.RequestsPerSecond, l.Burst = Unlimited, 0 }, nil},
		"no rate":          {func(l *Limits) { l.RequestsPerSecond = 0 }, func(l *Limits) { l.RequestsPerSecond, l.Burst = safe.RequestsPerSecond, safe.Burst }},
		"a rate of NaN":    {func(l *Limits) { l.RequestsPerSecond = math.NaN() }, func(l *Limits) { l.RequestsPerSecond, l.Burst = safe.RequestsPerSecond, safe.Burst }},
		"a negative rate":  {func(l *Limits) { l.RequestsPerSecond = -2 }, func(l *Limits) { l.RequestsPerSecond, l.Burst = safe.RequestsPerSecond, safe.Burst }},
		"no burst":         {func(l *Limits) { l.Burst = 0 }, func(l *Limits) { l.Burst = safe.Burst }},
		"a negative burst": {func(l *Limits) { l.RequestsPerSecond, l.Burst = Unlimited, -1 }, func(l *Limits) { l.RequestsPerSecond, l.Burst = Unlimited, safe.Burst }},
		"no concurrency":   {func(l *Limits) { l.Concurrency = 0 }, func(l *Limits) { l.Concurrency = safe.Concurrency }},
		"a negative one":   {func(l *Limits) { l.Concurrency = -7 }, func(l *Limits) { l.Concurrency = safe.Concurrency }},
		"a share of NaN":   {func(l *Limits) { l.RetryShare = math.NaN() }, func(l *Limits) { l.RetryShare = 0 }},
		"a class of NaN":   {func(l *Limits) { l.Classes["a"] = ClassLimit{RequestsPerSecond: math.NaN()} }, func(l *Limits) { l.Classes["a"] = ClassLimit{10, 20, 1} }},
		"negative classes": {
			func(l *Limits) { l.Classes["a"], l.Classes["b"] = ClassLimit{Concurrency: -2}, ClassLimit{Burst: -1} },
			func(l *Limits) { l.Classes["a"], l.Classes["b"] = ClassLimit{10, 20, 1}, ClassLimit{10, 20, 1} },
		},
	} {
		spoiled, want := good, good
		spoiled.Classes, want.Classes = maps.Clone(good.Classes), maps.Clone(good.Classes)
		test.spoil(&spoiled)
		if test.want == nil {
			want = spoiled
		} else {
			test.want(&want)
		}
		before := maps.Clone(spoiled.Classes)
		got, all := spoiled.Known()
		if !reflect.DeepEqual(got, want) || all != (test.want == nil) {
			t.Errorf("%s: %+v, all %v; want %+v", name, got, all, want)
		}
		if name != "a class of NaN" && !reflect.DeepEqual(spoiled.Classes, before) {
			t.Errorf("%s: what was given changed", name)
		}
	}
}
