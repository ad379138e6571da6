// Package refusal answers WHAT A CLIENT IS TOLD: how a refusal looks, its headers and a body of problem details (RFC 9457), and how
// much of its limits is left to who is let in; the same whoever writes them to the client.
//
// It imports policy, identity/propagation, sidecar/decide and grpc/codes.
package refusal

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"strconv"
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
	seconds := int64(0) // to wait
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
		seconds = rounded(wait, time.Second)
		add(propagation.HeaderRetryAfter, strconv.FormatInt(seconds, 10))
		if grpc {
			add(propagation.HeaderGRPCPushback, strconv.FormatInt(rounded(wait, time.Millisecond), 10))
		}
	}
	if answer.Limited && answer.Level.Exceeded && !answer.Hidden {
		r.Headers = append(r.Headers, LimitHeaders(answer, seconds)...)
	}
	if grpc {
		// Envoy would make a status of the HTTP one, which is UNAVAILABLE for 429, and so a reason to try again at once.
		add("grpc-status", strconv.Itoa(int(r.Code)))
		add("grpc-message", d.Reason.Title())
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

// rounded is a time in units, never less of them.
func rounded(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

// LimitHeaders are those of the IETF draft "RateLimit header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers), which are
// structured fields (RFC 9651): t is the very moment that Retry-After says, and the partition key a hash, by which its tenant
// can tell its quotas apart and nobody else can tell whose they are.
func LimitHeaders(answer *decide.Answer, seconds int64) []Header {
	level := &answer.Level
	var room [192]byte // most fit: a gateway writes them for each request
	b := appendName(room[:0], level.Kind)
	b = strconv.AppendInt(append(b, ";q="...), whole(level.Of), 10)
	if level.Window > 0 {
		b = strconv.AppendInt(append(b, ";w="...), max(1, rounded(level.Window, time.Second)), 10)
	} else {
		b = append(b, `;qu="concurrent-requests"`...)
	}
	at := len(b)
	b = appendPartition(b, &answer.Decision, level.Kind)
	quota := string(b)
	b = appendName(b[:0], level.Kind)
	b = strconv.AppendInt(append(b, ";r="...), whole(level.Remaining), 10)
	b = strconv.AppendInt(append(b, ";t="...), seconds, 10)
	return []Header{{propagation.HeaderRateLimitPolicy, quota}, {propagation.HeaderRateLimit, string(append(b, quota[at:]...))}}
}

// appendName appends the name of a kind of limit, as a structured field's string.
func appendName(b []byte, kind limit.Kind) []byte {
	b = append(b, '"')
	for _, c := range []byte(kind.String()) {
		if c == ' ' {
			c = '-'
		}
		b = append(b, c)
	}
	return append(b, '"')
}

// Left are the headers that tell a client whose request was let in what is left of the strictest of its limits, and when all of it
// will be there again; none where nothing is limited, or the workload hides its limits.
func Left(answer *decide.Answer) []Header {
	if !answer.Limited || answer.Hidden {
		return nil
	}
	return LimitHeaders(answer, rounded(answer.Level.Refill(), time.Second))
}

// whole is the integer part of a quota, within what a structured field may hold.
func whole(x float64) int64 {
	if !(x > 0) {
		return 0
	}
	return int64(min(x, 999_999_999_999_999))
}

// appendPartition appends a hash of what the quota is of: the tenant's incarnation, which nobody outside knows, and the class.
func appendPartition(b []byte, d *policy.Decision, kind limit.Kind) []byte {
	var room [192]byte
	of := append(append(room[:0], "tenantmesh quota\x00"...), d.TenantUID...)
	if kind == limit.ClassRate || kind == limit.ClassConcurrency {
		of = append(append(append(append(of, 0), d.Workload...), 0), d.Class...)
	}
	sum := sha256.Sum256(of)
	return append(base64.StdEncoding.AppendEncode(append(b, ";pk=:"...), sum[:12]), ':')
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
