package meshname

import "time"

// How long a request may last, as every Envoy of the mesh is told. What is known of a request (its lease, that it is
// open) outlives it, or the end of a drain would be a lie.
const (
	ReceiptTime  = 60 * time.Second                      // until the request is there whole, or its answer begins
	ResponseTime = 60 * time.Second                      // from then until the answer is there whole
	HoldTime     = 30 * time.Second                      // how much longer a gateway may hold a request of a tenant that moves
	StreamTime   = ReceiptTime + ResponseTime + HoldTime // all of it, but for upgrades, which last as long as they are used
	RenewalTime  = 30 * time.Second                      // how often an open stream says that it is
	LeaseTime    = StreamTime + RenewalTime              // after which a stream that has not said so has ended
)

// How long what was pushed counts at a sidecar that is cut off from the control plane, unless its flags say otherwise, and
// how long a context holds.
const (
	GrantTime   = 5 * time.Minute  // AccessGrants, and Forbids in Shadow mode as mere observers
	IssuerTime  = 24 * time.Hour   // token issuers' keys
	ContextTime = 16 * time.Minute // after it no context that was signed before holds anywhere: the longest life that is accepted, and clocks that differ
)

// MaxOpen is how many requests may be open at once at one Envoy.
const MaxOpen = 100_000
