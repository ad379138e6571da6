// Package propagation answers HOW THE CONTEXT TRAVELS: header names, and for services that opt in the tenant of a request, verified by the mesh's
// keys, as net/http middleware and a RoundTripper. grpctenant does the same for gRPC.
//
// Nothing of it is needed in the mesh: the sidecar proves and refuses by itself. It is for services that want to know their tenant from a
// signature instead of a header, and to have a call for none fail where it is made. The Workload must say deliverContext.
//
// It imports identity and identity/tenanttoken, never policy, tenantstore, xds or sidecar.
package propagation

// Header names (design, section 5), in the lower case that Envoy and HTTP/2 use.
const (
	HeaderTxnToken   = "txn-token"         // the tenant context
	HeaderTenantID   = "x-tenant-id"       // for the service to read; overwritten always
	HeaderTenantTier = "x-tenant-tier"     // likewise
	HeaderCell       = "x-tenantmesh-cell" // the gateway's decision; "-" on arrival
	HeaderLease      = "x-tenantmesh-lease"
	HeaderHook       = "x-tenantmesh-hook"         // at a gateway's egress: the workload whose data moves
	HeaderPeer       = "x-tenantmesh-peer"         // set by a sidecar's Envoy for its Go process: SHA-256 of the peer's certificate, a space, and the URIs that it names
	HeaderClass      = "x-tenantmesh-class"        // from a sidecar's Go process to its Envoy: the class of a request that has a bulkhead
	HeaderStream     = "x-tenantmesh-stream"       // from a Go process to its Envoy: the request may last, and is held to be ended when it may not
	HeaderTarget     = "x-tenantmesh-target"       // from a gateway's Envoy to its Go process: "workload/<name>" that a moving tenant's request is for
	HeaderFence      = "x-tenantmesh-fence"        // of a hook that changes data: a fencing token, an integer that only grows; a lower one than was seen must be refused
	HeaderCursor     = "x-tenantmesh-cursor"       // of an export: how far it goes; "" or absent: to the end, and it cannot be gone on with
	HeaderMore       = "x-tenantmesh-more"         // of an export: "true" when there is more after its cursor already
	HeaderUntaken    = "x-tenantmesh-untaken"      // a sidecar's answer: the service saw nothing of the request, send it again by a newer placement
	HeaderPurpose    = "x-tenantmesh-grant-reason" // from a service, to use an AccessGrant: why; for the sidecar before what is called alone
	HeaderCalled     = "x-tenantmesh-called"       // set by a sidecar's Envoy for its routes: the address that a captured call was to
	HeaderReason     = "x-tenantmesh-reason"
	HeaderDecision   = "x-tenantmesh-decision"

	HeaderRequestID       = "x-request-id"
	HeaderTraceparent     = "traceparent"                    // W3C Trace Context, section 3.2
	HeaderClientRequestID = "x-tenantmesh-client-request-id" // from a gateway's Envoy to its Go process: the x-request-id that the client sent

	HeaderIdempotencyKey = "idempotency-key"            // IETF draft of that name: one operation, however often it is sent
	HeaderAttemptCount   = "x-envoy-attempt-count"      // set by the Envoy that sends to a workload, over what was there; from 1
	HeaderGRPCAttempts   = "grpc-previous-rpc-attempts" // gRFC A6, of a retry: from 1

	HeaderRetryAfter      = "retry-after"
	HeaderRateLimit       = "ratelimit"
	HeaderRateLimitPolicy = "ratelimit-policy"
	HeaderGRPCPushback    = "grpc-retry-pushback-ms"
)

// Values of [HeaderStream].
const (
	StreamHeld = "held"      // within the bounds of every request
	StreamLong = "held-long" // as long as it is used
)

// ClientStripped are the headers that a client may not send through a gateway: tracing and baggage of
// its own, and every name by which the mesh speaks.
var ClientStripped = []string{
	HeaderTxnToken, HeaderTenantID, HeaderTenantTier, HeaderReason, HeaderDecision, HeaderHook, HeaderTarget, HeaderFence, HeaderPeer, HeaderStream, HeaderClientRequestID,
	"b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
	"uber-trace-id", "baggage", "tracestate",
	HeaderAttemptCount,
	// Who asked, and for what host, in the client's own words. Envoy writes x-forwarded-for and -proto.
	"forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server", "x-forwarded-scheme", "x-forwarded-ssl", "x-real-ip", "x-client-ip", "true-client-ip",
}

// ClientStrippedPrefixes begin the names that a client may not send through a gateway, whatever follows: the mesh's own, and
// those by which Envoy is told what to do, or tells a service.
var ClientStrippedPrefixes = []string{"x-tenantmesh-", "x-envoy-"}

// OverrideHeaders say that a request is another than its first line says, to frameworks that believe them: what was judged is
// the line. They are stripped everywhere.
var OverrideHeaders = []string{"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"}

// RetryHeaders are those by which whoever sends a request could make Envoy repeat it, in the place of what it is
// configured to do: they are stripped everywhere.
var RetryHeaders = []string{
	"x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes", "x-envoy-retriable-header-names",
	"x-envoy-hedge-on-per-try-timeout",
}
