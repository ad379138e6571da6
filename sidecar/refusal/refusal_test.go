package refusal

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

func header(r Refusal, name string) string {
	for _, h := range r.Headers {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

func limited(kind limit.Kind, level limit.Level, retry time.Duration) *decide.Answer {
	level.Kind, level.Exceeded = kind, true
	reason := policy.RateLimited
	if level.Window == 0 {
		reason = policy.ConcurrencyLimited
	}
	return &decide.Answer{Limited: true, Level: level, Decision: policy.Decision{ID: "m-1", Reason: reason, TenantUID: "uid-1", Workload: "front", Class: "exports", RetryAfter: retry}}
}

// TestWhen: what a client is told is never earlier than the moment, by whatever header, and not much later.
func TestWhen(t *testing.T) {
	for _, retry := range []time.Duration{1, time.Millisecond, 999_999_999, time.Second, time.Second + 1, time.Minute, 240 * time.Hour, math.MaxInt64 / 4} {
		earliest, latest := int64(math.MaxInt64), int64(0)
		for range 200 {
			r := Of(limited(limit.TenantRate, limit.Level{Of: 20, Window: 2 * time.Second}, retry), true)
			seconds, err := strconv.ParseInt(header(r, "retry-after"), 10, 64)
			if err != nil || float64(seconds) < retry.Seconds() || float64(seconds) > retry.Seconds()*1.2+1 {
				t.Fatalf("%v: Retry-After is %q", retry, header(r, "retry-after"))
			}
			ms, err := strconv.ParseInt(header(r, "grpc-retry-pushback-ms"), 10, 64)
			if err != nil || float64(ms) < float64(retry)/1e6 || ms > 1000*seconds {
				t.Fatalf("%v: pushback is %q of %d s", retry, header(r, "grpc-retry-pushback-ms"), seconds)
			}
			if !strings.Contains(header(r, "ratelimit"), ";t="+strconv.FormatInt(seconds, 10)+";") {
				t.Fatalf("RateLimit is %q, and Retry-After %d", header(r, "ratelimit"), seconds)
			}
			earliest, latest = min(earliest, ms), max(latest, ms)
		}
		if retry > 100*time.Millisecond && earliest == latest {
			t.Errorf("%v: 200 clients are told to come at once", retry)
		}
	}
}

// field is an item of the draft: an sf-string, and parameters that are sf-integers, sf-strings or byte sequences.
var field = regexp.MustCompile(`^"[a-z-]+"(;[a-z]+=(\d{1,15}|"[a-z-]+"|:[A-Za-z0-9+/]+={0,2}:))+$`)

func TestRateLimitFields(t *testing.T) {
	for _, test := range []struct {
		answer          *decide.Answer
		policy, current string // without their partition key
	}{
		{limited(limit.TenantRate, limit.Level{Of: 20, Window: 2 * time.Second}, time.Second), `"tenant-rate";q=20;w=2`, `"tenant-rate";r=0;t=2`},
		{limited(limit.TenantConcurrency, limit.Level{Of: 10}, time.Second), `"tenant-concurrency";q=10;qu="concurrent-requests"`, `"tenant-concurrency";r=0;t=2`},
		{limited(limit.ClassRate, limit.Level{Of: 2, Remaining: 1, Window: time.Millisecond}, time.Second), `"class-rate";q=2;w=1`, `"class-rate";r=1;t=2`},
		{limited(limit.ClassRate, limit.Level{Of: math.NaN(), Remaining: math.Inf(1), Window: time.Second}, time.Second), `"class-rate";q=0;w=1`, `"class-rate";r=999999999999999;t=2`},
		{limited(limit.ClassRate, limit.Level{Of: -5, Remaining: -1, Window: time.Second}, time.Second), `"class-rate";q=0;w=1`, `"class-rate";r=0;t=2`},
	} {
		r := Of(test.answer, false)
		for name, want := range map[string]string{"ratelimit-policy": test.policy, "ratelimit": test.current} {
			got := header(r, name)
			bare, key, _ := strings.Cut(got, ";pk=")
			if bare != want || len(key) < 10 || !field.MatchString(got) || strings.Contains(got, "uid-1") {
				t.Errorf("%s: %s, want %s and a key", name, got, want)
			}
		}
	}
	a, b := limited(limit.ClassRate, limit.Level{Window: 1}, 1), limited(limit.ClassRate, limit.Level{Window: 1}, 1)
	if b.Decision.TenantUID = "uid-2"; header(Of(a, false), "ratelimit-policy") == header(Of(b, false), "ratelimit-policy") {
		t.Error("two tenants have one partition")
	}
	a.Hidden = true
	if r := Of(a, false); header(r, "ratelimit")+header(r, "ratelimit-policy") != "" || header(r, "retry-after") == "" {
		t.Errorf("hidden: %+v", r.Headers)
	}
}

// TestWhoseFault: 429 is for a client's own quota, 503 for what we cannot do; a gRPC client gets the status that it knows.
func TestWhoseFault(t *testing.T) {
	for reason, want := range map[policy.Reason]struct {
		status int
		code   codes.Code
	}{
		policy.RateLimited: {429, codes.ResourceExhausted}, policy.ConcurrencyLimited: {429, codes.ResourceExhausted},
		policy.Overloaded: {503, codes.Unavailable}, policy.BreakerOpen: {503, codes.Unavailable}, policy.EnforcementUnavailable: {503, codes.Unavailable},
		policy.DeniedByPolicy: {403, codes.PermissionDenied}, policy.UnauthenticatedTenant: {401, codes.Unauthenticated},
	} {
		answer := &decide.Answer{Decision: policy.Decision{ID: "m-1", Reason: reason}}
		if r := Of(answer, false); r.Status != want.status || header(r, "content-type") != "application/problem+json" || !strings.Contains(r.Body, reason.String()) {
			t.Errorf("%v: %+v", reason, r)
		}
		if r := Of(answer, true); r.Code != want.code || r.Body != "" || header(r, "grpc-status") != strconv.Itoa(int(want.code)) {
			t.Errorf("%v by gRPC: %+v", reason, r)
		}
	}
}
