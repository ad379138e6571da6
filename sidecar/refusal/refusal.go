// Package refusal answers HOW A REFUSAL LOOKS: its headers, and a body of problem details (RFC 9457), the same whoever
// writes them to the client.
//
// It imports policy, identity/propagation, sidecar/decide and grpc/codes.
package refusal

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Header is one header.
type Header struct{ Name, Value string }

// Refusal is an answer that refuses.
type Refusal struct {
	Status  int
	Code    codes.Code // for a gRPC client
	Headers []Header
	Body    string // "" for a gRPC client
}

// problem is an RFC 9457 problem details object.
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance"`
	Reason   string `json:"reason"`
	Advice   string `json:"advice"`
}

// Of is the refusal that tells a client of a decision.
func Of(answer *decide.Answer, grpc bool) Refusal {
	d := &answer.Decision
	r := Refusal{Status: d.Reason.Status(), Code: code(d.Reason)}
	add := func(name, value string) { r.Headers = append(r.Headers, Header{name, value}) }
	add(propagation.HeaderReason, d.Reason.String())
	add(propagation.HeaderDecision, d.ID)
	if d.Point == meshname.ListenerInbound && (d.Reason == policy.Misdirected || d.Reason == policy.WriteFenced) {
		add(propagation.HeaderUntaken, "1")
	}
	if d.Reason == policy.UnauthenticatedTenant {
		add("www-authenticate", "Bearer") // RFC 6750, section 3
	}
	if d.RetryAfter > 0 {
		wait := jittered(d.RetryAfter)
		add(propagation.HeaderRetryAfter, strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
		if grpc {
			add(propagation.HeaderGRPCPushback, strconv.FormatInt(wait.Milliseconds(), 10))
		}
	}
	if answer.Limited && answer.Level.Exceeded {
		r.Headers = append(r.Headers, LimitHeaders(&answer.Level, d.RetryAfter)...)
	}
	if grpc {
		return r
	}
	// The detail stays inside: it may name what the caller must not know. The ID leads to it.
	body, err := json.Marshal(problem{
		Type: "https://tenantmesh.dev/reasons#" + d.Reason.String(), Title: d.Reason.Title(), Status: d.Reason.Status(),
		Instance: "urn:tenantmesh:decision:" + d.ID, Reason: d.Reason.String(), Advice: d.Reason.Advice(),
	})
	if err == nil {
		r.Body = string(body)
		add("content-type", "application/problem+json")
	}
	return r
}

// jittered adds up to a fifth, so that those who were refused together do not come back together.
func jittered(wait time.Duration) time.Duration { return wait + rand.N(wait/5+1) }

// LimitHeaders are those of the IETF draft "RateLimit header fields for HTTP".
func LimitHeaders(level *limit.Level, retry time.Duration) []Header {
	name := strconv.Quote(strings.ReplaceAll(level.Kind.String(), " ", "-"))
	policyValue := fmt.Sprintf("%s;q=%d", name, int64(level.Of))
	if level.Window > 0 {
		policyValue += fmt.Sprintf(";w=%d", max(1, int64((level.Window+time.Second-1)/time.Second)))
	}
	return []Header{
		{propagation.HeaderRateLimitPolicy, policyValue},
		{propagation.HeaderRateLimit, fmt.Sprintf("%s;r=%d;t=%d", name, int64(level.Remaining), int64((retry+time.Second-1)/time.Second))},
	}
}

func code(reason policy.Reason) codes.Code {
	switch reason.Status() {
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 413, 429:
		return codes.ResourceExhausted
	default:
		return codes.Unavailable
	}
}
