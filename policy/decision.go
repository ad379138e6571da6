package policy

import "time"

// Decision is what was decided about one request, with all that `tenantmesh explain` prints. It is made
// once, beside the Envoy that asked, and travels as JSON.
type Decision struct {
	ID         string        `json:"id"`     // opaque: "<member>-<random>"
	Time       time.Time     `json:"time"`   // UTC
	Member     string        `json:"member"` // who decided
	Point      string        `json:"point"`  // gateway, inbound, outbound
	Cell       string        `json:"cell,omitempty"`
	Tenant     string        `json:"tenant,omitempty"`
	TenantUID  string        `json:"tenantUid,omitempty"`
	Tier       string        `json:"tier,omitempty"`
	Proof      string        `json:"proof,omitempty"`     // how the tenant was proven, in words
	Principal  string        `json:"principal,omitempty"` // the peer's SPIFFE ID, or the token's issuer and subject
	Workload   string        `json:"workload,omitempty"`
	Class      string        `json:"class,omitempty"`
	Txn        string        `json:"txn,omitempty"`
	Method     string        `json:"method"`
	Path       string        `json:"path"`                // no query
	Authority  string        `json:"authority,omitempty"` // the host that was asked for, as Envoy passes it on
	RequestID  string        `json:"requestId,omitempty"` // x-request-id, as the service sees it
	Allowed    bool          `json:"allowed"`
	Reason     Reason        `json:"reason,omitempty"`
	Detail     string        `json:"detail,omitempty"` // the one sentence that says what was wrong here
	Rule       string        `json:"rule,omitempty"`   // the policy or setting that caused it
	Rules      []RuleResult  `json:"rules,omitempty"`
	Limits     []LimitResult `json:"limits,omitempty"`
	Revision   int64         `json:"revision,omitempty"`
	Epoch      int64         `json:"epoch,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	Duration   time.Duration `json:"duration"` // of the decision itself

	// What a gateway's client sent by these names: its own word, to find this decision by, and never the mesh's.
	ClientRequestID   string `json:"clientRequestId,omitempty"`
	ClientTraceparent string `json:"clientTraceparent,omitempty"`
}

// RuleResult says what one policy had to do with a decision.
type RuleResult struct {
	Rule    string `json:"rule"`
	Effect  Effect `json:"effect"`
	Mode    Mode   `json:"mode,omitempty"`
	Matched bool   `json:"matched"`
	Why     string `json:"why,omitempty"` // the first part that did not match, or an error of its condition
}

// LimitResult says where one limit stood.
type LimitResult struct {
	Limit     string        `json:"limit"` // "tenant rate", "class exports concurrency"
	Level     float64       `json:"level"` // used, of Of
	Of        float64       `json:"of"`
	Remaining float64       `json:"remaining"`
	Exceeded  bool          `json:"exceeded,omitempty"`
	Retry     time.Duration `json:"retry,omitempty"`
}
