package quota

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/policy/limit/share"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func set(role string, groups ...*api.ShareGroup) *policyset.Set {
	return &policyset.Set{Self: &policyset.Self{Role: role, Cell: "us-1", Workload: "front", Groups: groups}}
}

func group(name string, counted bool, members ...string) *api.ShareGroup {
	g := &api.ShareGroup{Name: name, Members: members}
	if counted {
		g.Counted = members
	}
	return g
}

// ask has requests come at once, and returns how many are let in.
func ask(s *Shares, now time.Time, n int, change ...func(*limit.Request)) (let int, last limit.Verdict) {
	for range n {
		r := &limit.Request{UID: "u", ChargeTenant: true, Limits: policy.Limits{RequestsPerSecond: 90, Burst: 30, Concurrency: policy.Unlimited}}
		for _, f := range change {
			f(r)
		}
		if last = s.Admit(s.limiter, now, "acme", r); last.Reason == policy.Permitted {
			let++
		}
	}
	return let, last
}

// TestParts: what a member has without a session, by who else there is.
func TestParts(t *testing.T) {
	gateways := meshname.GroupGateways
	class := func(r *limit.Request) {
		r.ChargeTenant, r.Class = false, "exports"
		r.Limits.Classes = map[string]policy.ClassLimit{"exports": {RequestsPerSecond: 9, Burst: 9}}
	}
	unclassed := func(r *limit.Request) { r.ChargeTenant = false }
	for name, test := range map[string]struct {
		set    *policyset.Set
		change func(*limit.Request)
		want   int // of 40 at once
	}{
		"nothing was saved yet":          {nil, nil, 0},
		"a control plane without groups": {set("gateway"), nil, 30},
		"alone":                          {set("gateway", group(gateways, false, "me")), nil, 30},
		"one of three":                   {set("gateway", group(gateways, true, "a", "b", "me")), nil, 10},
		"not known yet":                  {set("gateway", group(gateways, true, "a", "b")), nil, 0},
		"not counted":                    {set("gateway", group(gateways, false, "a", "b", "me")), nil, 0},
		"a bound tenant":                 {set("gateway", group(gateways, true, "a", "b", "me"), group("tenant/acme", true, "a", "b", "c", "d", "me")), nil, 6},
		"a bound tenant, not counted":    {set("gateway", group(gateways, true, "a", "b", "me"), group("tenant/acme", false, "a", "b", "c", "d", "me")), nil, 10},
		"another tenant is bound":        {set("gateway", group(gateways, true, "a", "b", "me"), group("tenant/other", true, "me")), nil, 10},
		"a bound workload":               {set("sidecar", group("workload/us-1/front", true, "me"), group("tenant/acme", true, "a", "b", "me")), nil, 10},
		"a class":                        {set("sidecar", group("workload/us-1/front", true, "a", "b", "me")), class, 3},
		"a class, alone":                 {set("sidecar", group("workload/us-1/front", false, "me")), class, 9},
		"no class":                       {set("sidecar", group("workload/us-1/front", true, "a", "me")), unclassed, 40},
	} {
		s := New("me", limit.New(limit.Options{}), start)
		s.Saved(test.set)
		change := func(*limit.Request) {}
		if test.change != nil {
			change = test.change
		}
		// Long after the process began. Half of a part that was lent, until nobody knows when, is filled first.
		now := start.Add(time.Hour)
		ask(s, now, 1, change)
		now = now.Add(time.Minute)
		if let, _ := ask(s, now, 40, change); let != test.want {
			t.Errorf("%s: %d of 40 at once, want %d", name, let, test.want)
		}
	}
	if let, _ := (func() (int, limit.Verdict) {
		var none *Shares
		v := none.Admit(limit.New(limit.Options{}), start, "acme", &limit.Request{UID: "u", ChargeTenant: true, Limits: policy.SafeLimits()})
		return map[bool]int{true: 1}[v.Reason == policy.Permitted], v
	})(); let != 1 {
		t.Error("without shares a limit is not whole")
	}
}

// TestBegins: a process that begins has, of three, what is standing, until others cannot have its part any more; whatever the
// clock says, never more than its part.
func TestBegins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shared.json")
	part := share.PartOf("me", []string{"a", "b", "me"}, []string{"me"})
	text := fmt.Sprintf(`{"allocator":"x","standing":{"gateways":{"Rank":2,"Of":3,"Digest":%q,"Counted":true}}}`, part.Digest)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func() *Shares {
		s := New("me", limit.New(limit.Options{}), start)
		if _, err := NewClient(Config{Shares: s, Path: path, Log: zap.NewNop()}); err != nil {
			t.Fatal(err)
		}
		s.Saved(set("gateway", group(meshname.GroupGateways, true, "a", "b", "me")))
		return s
	}
	s := begin()
	if let, v := ask(s, start, 40); let != 5 || v.Reason != policy.RateLimited {
		t.Errorf("at once: %d, %v", let, v.Reason)
	}
	if s.Ready(start) || !s.Ready(start.Add(share.Hold)) {
		t.Error("it is ready with nothing, or never")
	}
	ask(s, start.Add(share.Hold), 1)
	if let, _ := ask(s, start.Add(share.Hold+time.Minute), 40); let != 10 {
		t.Errorf("later: %d", let)
	}
	for _, jump := range []time.Duration{-time.Hour, time.Hour, -1000 * time.Hour, 1000 * time.Hour} {
		s := begin()
		let := 0
		for _, at := range []time.Duration{0, jump, 0} {
			n, _ := ask(s, start.Add(at), 40)
			let += n
		}
		if let > 3*10 { // its part of the burst, each time that the clock jumped
			t.Errorf("a clock that jumps by %v: %d", jump, let)
		}
	}
	if err := os.WriteFile(path, []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if let, _ := ask(begin(), start, 40); let != 0 {
		t.Errorf("with a torn file: %d", let)
	}
}

// TestBadLimits: limits that are no limits let in no more than some.
func TestBadLimits(t *testing.T) {
	s := New("me", limit.New(limit.Options{}), start)
	s.Saved(set("gateway", group(meshname.GroupGateways, true, "a", "b", "me")))
	now := start.Add(time.Hour)
	for i, l := range []policy.Limits{
		{RequestsPerSecond: nan(), Burst: 5}, {RequestsPerSecond: 1e300, Burst: 1 << 40}, {RequestsPerSecond: 1e-300, Burst: -1}, {RequestsPerSecond: 10, Burst: 0, Concurrency: -5}, {RequestsPerSecond: 0.002, Burst: 1},
	} {
		r := func(r *limit.Request) { r.UID, r.Limits, r.Hits = fmt.Sprint(i), l, -3 }
		if let, _ := ask(s, now, 10, r); l.Burst < 10 && let > 5 {
			t.Errorf("%+v: %d", l, let)
		}
	}
	if n := s.Pools(); n != 5 {
		t.Errorf("%d pools", n)
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

// TestCounts: what is counted where.
func TestCounts(t *testing.T) {
	s := New("me", limit.New(limit.Options{}), start)
	for _, test := range []struct {
		set            *policyset.Set
		tenants, class bool
	}{
		{nil, true, true}, {set("gateway", group(meshname.GroupGateways, true, "me")), true, false},
		{set("sidecar", group("workload/us-1/front", true, "me")), false, true},
	} {
		s.Saved(test.set)
		if s.Counts("acme", false) != test.tenants || s.Counts("acme", true) != test.class {
			t.Errorf("%+v: tenants %v, classes %v", test.set, s.Counts("acme", false), s.Counts("acme", true))
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	for name, members := range map[string][]string{"alone": {"me"}, "of three": {"a", "b", "me"}} {
		b.Run(name, func(b *testing.B) {
			s := New("me", limit.New(limit.Options{}), start)
			s.Saved(set("gateway", group(meshname.GroupGateways, true, members...)))
			r := &limit.Request{UID: "u", ChargeTenant: true, Limits: policy.Limits{RequestsPerSecond: 1e6, Burst: 1e6}}
			now := start.Add(time.Hour)
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(10 * time.Microsecond)
				s.Admit(s.limiter, now, "acme", r)
			}
		})
	}
}
