package tenantstore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
)

// APIVersion is the only version there is.
const APIVersion = "tenantmesh.dev/v1alpha1"

// Kind names a sort of object. The list is closed.
type Kind string

// Kinds that people write.
const (
	KindCell          Kind = "Cell"
	KindTier          Kind = "Tier"
	KindTenant        Kind = "Tenant"
	KindWorkload      Kind = "Workload"
	KindDependency    Kind = "Dependency"
	KindTokenIssuer   Kind = "TokenIssuer"
	KindAccessPolicy  Kind = "AccessPolicy"
	KindAccessGrant   Kind = "AccessGrant"
	KindTierPromotion Kind = "TierPromotion"

	KindAccessInvariant Kind = "AccessInvariant" // policies may not break it
	KindRoleBinding     Kind = "RoleBinding"     // who, without being an operator, may write what
)

// Kinds that the control plane writes for itself; the admin API only reads them.
const (
	KindMember    Kind = "Member"    // durable: a gateway or sidecar instance (design, section 8)
	KindEndpoint  Kind = "Endpoint"  // where a member's workload answers now; a lease
	KindSignerKey Kind = "SignerKey" // a public key that may sign tenant contexts
	KindMove      Kind = "Move"      // the last move of a tenant, by the tenant's name
	KindAuditHead Kind = "AuditHead" // the newest audit events of a member that were acknowledged
	KindPosition  Kind = "Position"  // what a member reports about a tenant that moves
	KindRollout   Kind = "Rollout"   // a change that a part of the tenants has already

	KindRevocation Kind = "Revocation" // a transaction that was revoked, by the txn of its contexts
)

// Key addresses one object.
type Key struct {
	Kind Kind
	Name string
}

func (k Key) String() string { return string(k.Kind) + "/" + k.Name }

// Metadata is what every object has.
type Metadata struct {
	Name     string            `json:"name"`          // lower-case letters, digits, '-'; 1 to 63; tenants as identity.TenantID
	UID      string            `json:"uid,omitempty"` // new for each incarnation, set by the store's writer
	Labels   map[string]string `json:"labels,omitempty"`
	Revision int64             `json:"revision,omitempty"` // of its last write, set by the store; the ETag
}

// Object is one object of any kind. Exactly one spec field is set, the one that Kind names.
type Object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       Kind     `json:"kind"`
	Metadata   Metadata `json:"metadata"`

	Cell          *CellSpec                `json:"-"`
	Tier          *policy.TierSpec         `json:"-"`
	Tenant        *TenantSpec              `json:"-"`
	Workload      *WorkloadSpec            `json:"-"`
	Dependency    *DependencySpec          `json:"-"`
	TokenIssuer   *TokenIssuerSpec         `json:"-"`
	AccessPolicy  *policy.AccessPolicySpec `json:"-"`
	AccessGrant   *policy.AccessGrantSpec  `json:"-"`
	TierPromotion *TierPromotionSpec       `json:"-"`
	Member        *MemberSpec              `json:"-"`
	Endpoint      *EndpointSpec            `json:"-"`
	SignerKey     *SignerKeySpec           `json:"-"`
	Move          *MoveSpec                `json:"-"`
	Position      *PositionSpec            `json:"-"`
	AuditHead     *AuditHeadSpec           `json:"-"`
	Rollout       *RolloutSpec             `json:"-"`

	AccessInvariant *policy.AccessInvariantSpec `json:"-"`
	RoleBinding     *RoleBindingSpec            `json:"-"`
	Revocation      *RevocationSpec             `json:"-"`

	Status Status `json:"status,omitzero"`
}

// Key is o's address.
func (o *Object) Key() Key { return Key{o.Kind, o.Metadata.Name} }

// Status is what the control plane says about an object.
type Status struct {
	Phase            Phase       `json:"phase,omitempty"`     // Tenant only
	Placement        *Placement  `json:"placement,omitempty"` // Tenant only
	Keys             *IssuerKeys `json:"keys,omitempty"`      // TokenIssuer only, with a URI: the last that were fetched
	Grant            *GrantState `json:"grant,omitempty"`     // AccessGrant only
	Conditions       []Condition `json:"conditions,omitempty"`
	ObservedRevision int64       `json:"observedRevision,omitempty"`
}

// IssuerKeys is a key set as it was fetched. It outlives the control plane that fetched it.
type IssuerKeys struct {
	URI  string `json:"uri"`
	JWKS string `json:"jwks"`
}

// Condition is one observation about an object.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"` // True, False, Unknown
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Phase is where a tenant is in its life.
type Phase string

// The phases.
const (
	Provisioning Phase = "Provisioning"
	Active       Phase = "Active"
	Suspended    Phase = "Suspended"
	Deleting     Phase = "Deleting"
	Deleted      Phase = "Deleted"
)

// MoveState is the state of a tenant's placement (design, section 8).
type MoveState string

// The move states.
const (
	StateActive    MoveState = "ACTIVE"    // in Cell; nothing moves
	StateMigrating MoveState = "MIGRATING" // in Cell, which answers; to Target
	StateFencing   MoveState = "FENCING"   // Cell refuses writes: nobody owns them
	StateCutover   MoveState = "CUTOVER"   // Cell, the new one, answers; Target is where it was
	StateFinal     MoveState = "FINAL"     // as ACTIVE; while Target is set, that cell keeps a tombstone
)

// Moving reports whether requests of a tenant in this state take the way round by the gateway's Go process.
func (s MoveState) Moving() bool {
	return s == StateMigrating || s == StateFencing || s == StateCutover
}

// Placement says which cell owns a tenant, in which state, since which epoch.
type Placement struct {
	State  MoveState `json:"state"`
	Cell   string    `json:"cell"`             // the owner; in FENCING the one that was, and is again if the move fails
	Target string    `json:"target,omitempty"` // the other cell of a move
	Epoch  int64     `json:"epoch"`            // raised by every change of this; 1 is the first
	Since  int64     `json:"since,omitempty"`  // epoch at which Cell became the owner: a context of an older one is refused
	Sealed bool      `json:"sealed,omitempty"` // in FENCING: nothing that came by a gateway is open, and calls within the cell are refused too; in FINAL: the source's copy is deleted
	Copy   bool      `json:"copy,omitempty"`   // what could escape Mover has ended, so it copies: in MIGRATING what may follow, in FENCING, sealed, all that is left
	Shut   bool      `json:"shut,omitempty"`   // in FENCING, copied: reads are held too, so that nobody reads here what the new owner has changed
	Mover  string    `json:"mover,omitempty"`  // gateway that copies, and takes the writes that both cells must get
	Follow int64     `json:"follow,omitempty"` // epoch at which Mover was appointed in MIGRATING: what it has brought since is good; 0: it brings nothing before the seal
}

// CellSpec is the spec of kind Cell.
type CellSpec struct {
	Region    string    `json:"region"`
	Residency string    `json:"residency,omitempty"` // "eu": EU-resident tenants only may need it; empty: none
	Pool      Pool      `json:"pool,omitempty"`      // default Shared
	State     CellState `json:"state,omitempty"`     // default CellActive
	Capacity  Capacity  `json:"capacity,omitempty"`
}

// Pool says whether a cell is shared.
type Pool string

// The pools; empty means [SharedPool].
const (
	SharedPool    Pool = "shared"
	DedicatedPool Pool = "dedicated"
)

// CellState says whether a cell takes new tenants.
type CellState string

// The cell states; empty means [CellActive].
const (
	CellActive   CellState = "Active"
	CellDraining CellState = "Draining"
)

// Capacity is a cell's capacity and load, as its operator or autoscaler reports it.
type Capacity struct {
	FreeCPU     float64 `json:"freeCpu,omitempty"`     // share, 0 to 1
	FreeDBConn  int     `json:"freeDbConn,omitempty"`  // connections
	DBConnCap   int     `json:"dbConnCap,omitempty"`   // connections
	Utilization float64 `json:"utilization,omitempty"` // share, 0 to 1
}

// TenantSpec is the spec of kind Tenant.
type TenantSpec struct {
	Tier      string        `json:"tier"`
	Region    string        `json:"region"`
	Residency string        `json:"residency,omitempty"` // "eu", or none
	Limits    policy.Limits `json:"limits,omitzero"`     // over the tier's
	Spiky     bool          `json:"spiky,omitempty"`
	Suspended bool          `json:"suspended,omitempty"`
	Audit     policy.Audit  `json:"audit,omitempty"` // which decisions about it leave audit events
}

// WorkloadSpec is the spec of kind Workload: one logical service, present in each cell where an instance registered.
type WorkloadSpec struct {
	// SPIFFEIDs by cell. A cell that is not listed uses identity.WorkloadID(trust domain, cell, name).
	SPIFFEIDs            []WorkloadIdentity `json:"spiffeIDs,omitempty"`
	Port                 int                `json:"port,omitempty"`     // where the service listens, 1 to 65535; an instance's flag may replace it
	Protocol             string             `json:"protocol,omitempty"` // "http1" (default), "http2", "grpc"
	Expose               []Expose           `json:"expose,omitempty"`
	Classes              []Class            `json:"classes,omitempty"`   // first match wins
	DependsOn            []string           `json:"dependsOn,omitempty"` // Workload or Dependency names it may call
	Tenancy              Tenancy            `json:"tenancy,omitempty"`   // default Require
	BoundTenant          string             `json:"boundTenant,omitempty"`
	Callers              []string           `json:"callers,omitempty"`              // SPIFFE IDs of other trust domains that may connect; they bring no tenant
	DeliverContext       bool               `json:"deliverContext,omitempty"`       // hand Txn-Token to the service
	ForwardAuthorization bool               `json:"forwardAuthorization,omitempty"` // let the client's Authorization pass the gateway
	TenantData           *TenantData        `json:"tenantData,omitempty"`
	Breaker              policy.Breaker     `json:"breaker,omitzero"` // of the calls of others to it
	Admission            Admission          `json:"admission,omitzero"`
	HideLimits           bool               `json:"hideLimits,omitempty"` // answers do not tell of limits (RateLimit, RateLimit-Policy), but when to come again
	Events               Events             `json:"events,omitzero"`
}

// Events says for which topics the workload gets tokens of events, and contexts for such tokens (docs/optin.md). A topic is a name, at most
// [MaxTopic] bytes.
type Events struct {
	Produces []string `json:"produces,omitempty"`
	Consumes []string `json:"consumes,omitempty"`
	Lifetime string   `json:"lifetime,omitempty"` // of the tokens of what it produces; a Go duration, 1m to 168h, default 24h
}

// MaxTopic is the longest name of a topic, in bytes: Kafka's.
const MaxTopic = 249

// Admission says how many requests the service may hold open, at each of its sidecars, before tenants have shares of it. Within the
// bounds the sidecar finds the limit by the latency of the service's answers.
type Admission struct {
	Mode AdmissionMode `json:"mode,omitempty"` // default AdmissionAdaptive
	Min  int           `json:"min,omitempty"`  // 1 to 1e6; default 10
	Max  int           `json:"max,omitempty"`  // 1 to 1e6; default 1000, or min when that is more
}

// AdmissionMode says whether the service's open requests are bounded.
type AdmissionMode string

// The modes; empty means [AdmissionAdaptive].
const (
	AdmissionAdaptive AdmissionMode = "adaptive"
	AdmissionOff      AdmissionMode = "off"
)

// WorkloadIdentity is a workload's SPIFFE ID in one cell.
type WorkloadIdentity struct {
	Cell string `json:"cell"`
	ID   string `json:"id"`
}

// Expose publishes a workload at the gateway.
type Expose struct {
	Host        string `json:"host,omitempty"`        // exact host name; empty: any
	PathPrefix  string `json:"pathPrefix"`            // "/documents": that path and what is below it
	StripPrefix bool   `json:"stripPrefix,omitempty"` // the service sees the path without the prefix
}

// Class names a sort of expensive request, for class limits.
type Class struct {
	Name    string   `json:"name"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"` // as policy.Target's
	// Priority says who comes first of a tenant's requests when the service is full.
	Priority Priority `json:"priority,omitempty"` // default Interactive
	// Streaming lets them last as long as they are used, as upgrades do; they are ended when they may not go on.
	Streaming bool      `json:"streaming,omitempty"`
	Bulkhead  *Bulkhead `json:"bulkhead,omitempty"` // connections of its own; nil: it shares those of all other requests
}

// Bulkhead bounds what the requests of one class take of each instance of a service: they have connections of their own,
// and what does not fit is refused. A zero field is as for all other requests.
type Bulkhead struct {
	MaxConnections     int `json:"maxConnections,omitempty"`     // 1 to 65,535; with HTTP/1.1 as many requests at once; default 1024
	MaxPendingRequests int `json:"maxPendingRequests,omitempty"` // that wait for a connection; 1 to 65,535, default 1024
	MaxRequests        int `json:"maxRequests,omitempty"`        // at once; 1 to 65,535, default 4096
}

// Priority is a class's place among a tenant's requests.
type Priority string

// The priorities; empty means [Interactive].
const (
	Interactive Priority = "interactive"
	Batch       Priority = "batch" // it gets what the tenant's interactive requests leave of its share
)

// Tenancy says what a workload does about calls without a proven tenant.
type Tenancy string

// The tenancies; empty means [Require].
const (
	Require    Tenancy = "require"
	Observe    Tenancy = "observe"
	Untenanted Tenancy = "untenanted"
)

// TenantData says how a workload's data of one tenant moves (design, section 8).
type TenantData struct {
	Strategy Strategy          `json:"strategy,omitempty"` // default Fenced
	Hooks    map[string]string `json:"hooks,omitempty"`    // export (GET), import (PUT, PATCH), digest (GET), delete (DELETE) -> a path of the service
	Commands bool              `json:"commands,omitempty"` // instead of Hooks: the sidecars run commands that their own configuration names
}

// Strategy is how the data of a workload follows a tenant that moves.
type Strategy string

// The strategies; empty means [Fenced].
const (
	Fenced    Strategy = "fenced"    // nothing flows until the fence
	CatchUp   Strategy = "catchUp"   // changes are imported by cursor until the rest is small, then the fence
	DualWrite Strategy = "dualWrite" // the mover repeats each write at the other cell, in order
)

// Follows reports whether the other cell follows before the fence.
func (d *TenantData) Follows() bool { return d.Strategy == CatchUp || d.Strategy == DualWrite }

// Hook is the path of one hook, "" for none.
func (d *TenantData) Hook(name string) string {
	if d.Commands {
		return commandHooks[name]
	}
	return d.Hooks[name]
}

// commandHooks are the paths at which a sidecar answers for its workload's commands.
var commandHooks = map[string]string{
	"export": meshname.PathTenantData, "import": meshname.PathTenantData, "delete": meshname.PathTenantData, "digest": meshname.PathTenantData + "/digest",
}

// DependencySpec is the spec of kind Dependency: an external host that a workload may call.
type DependencySpec struct {
	Hosts []string `json:"hosts"` // exact DNS names or IP addresses
	Port  int      `json:"port"`
	TLS   bool     `json:"tls,omitempty"`
	// Protocol: "http" (default); or, for captured services, "tls", which the service speaks itself and Envoy passes on to the host
	// that its SNI names, or "tcp". By the latter two a connection carries no tenant: it is the boundTenant's, or refused.
	Protocol string  `json:"protocol,omitempty"`
	Tenancy  Tenancy `json:"tenancy,omitempty"` // default Require
	Timeout  string  `json:"timeout,omitempty"` // until an answer is there whole: a Go duration, 10ms to 60s, default 60s

	Breaker policy.Breaker `json:"breaker,omitzero"`
}

// The protocols of Dependencies; empty means [ProtocolHTTP].
const (
	ProtocolHTTP = "http"
	ProtocolTLS  = "tls"
	ProtocolTCP  = "tcp"
)

// Streams reports whether it is called by connections in which no requests are told apart.
func (d *DependencySpec) Streams() bool {
	return d.Protocol == ProtocolTLS || d.Protocol == ProtocolTCP
}

// AnswerTime is how long an answer may take.
func (d *DependencySpec) AnswerTime() time.Duration {
	if t, err := time.ParseDuration(d.Timeout); err == nil {
		return t
	}
	return meshname.ResponseTime
}

// TokenIssuerSpec is the spec of kind TokenIssuer.
type TokenIssuerSpec struct {
	Issuer      string   `json:"issuer"` // the "iss" claim, exact
	Audiences   []string `json:"audiences"`
	JWKS        JWKS     `json:"jwks"`
	TenantClaim string   `json:"tenantClaim,omitempty"` // default "tenant"
	Algorithms  []string `json:"algorithms,omitempty"`  // default RS256, ES256, EdDSA; never none or HMAC
	Tenants     []string `json:"tenants"`               // that it may speak for; "*" only when written
	// WithdrawnKeys are the "kid" of keys that count no more, whatever the JWKS says.
	WithdrawnKeys []string `json:"withdrawnKeys,omitempty"`
}

// KIDs are the "kid" of the keys that a TokenIssuer has, as they are in the store: said, or fetched last.
func (o *Object) KIDs() (kids []string) {
	text := o.TokenIssuer.JWKS.Inline
	if k := o.Status.Keys; k != nil && k.URI == o.TokenIssuer.JWKS.URI {
		text = k.JWKS
	}
	var set struct {
		Keys []struct {
			KID string `json:"kid"`
		} `json:"keys"`
	}
	if json.Unmarshal([]byte(text), &set) != nil {
		return nil
	}
	for _, key := range set.Keys {
		if key.KID != "" {
			kids = append(kids, key.KID)
		}
	}
	return kids
}

// JWKS is where an issuer's keys are: exactly one field is set. A file is read by the command line
// before it applies the object (the store holds Inline); a URI is fetched by the control plane.
type JWKS struct {
	Inline string `json:"inline,omitempty"`
	File   string `json:"file,omitempty"`
	URI    string `json:"uri,omitempty"`
}

// TierPromotionSpec is the spec of kind TierPromotion: when a tenant of one tier should be thought of for another.
// Every threshold that is said must be met, over the last hour. It only suggests: an operator decides.
type TierPromotionSpec struct {
	From              string  `json:"from"`                        // tier
	To                string  `json:"to"`                          // tier
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"` // mean, refused ones too
	RefusedShare      float64 `json:"refusedShare,omitempty"`      // of its requests at the gateway, 0 to 1
	PeakToMean        float64 `json:"peakToMean,omitempty"`        // of its requests a minute
	Residency         string  `json:"residency,omitempty"`         // the tenant's
}

// MemberSpec is the spec of kind Member. Its name is the member's ID, kept on the member's disk.
type MemberSpec struct {
	Principal string `json:"principal"`
	Role      Role   `json:"role"`
	Cell      string `json:"cell,omitempty"`
	Workload  string `json:"workload,omitempty"`
	Version   string `json:"version,omitempty"`
	Envoy     string `json:"envoy,omitempty"`
	Control   string `json:"control,omitempty"` // control plane that it reported to last
	Left      bool   `json:"left,omitempty"`    // left by a clean drain
	Fenced    bool   `json:"fenced,omitempty"`  // by an operator: it may never come back
	// Ages bound how long what was pushed counts there without the control plane, where they are not the defaults.
	GrantAge  float64 `json:"grantAge,omitempty"`  // seconds, of AccessGrants
	IssuerAge float64 `json:"issuerAge,omitempty"` // seconds, of token issuers' keys
	// Counted are the groups in which its part of shared limits is its own: every other member there knows of it.
	Counted []string `json:"counted,omitempty"`
	// Certificates are the last ones that it showed its peers, which refuse them once it is fenced.
	Certificates []Certificate `json:"certificates,omitempty"`
}

// Certificate is one that a member showed.
type Certificate struct {
	SHA256   string    `json:"sha256"` // of its DER form, hexadecimal
	NotAfter time.Time `json:"notAfter"`
}

// MoveSpec is the spec of kind Move, whose name is the tenant's.
type MoveSpec struct {
	UID      string    `json:"uid"` // of the tenant's incarnation
	From     string    `json:"from"`
	To       string    `json:"to"`
	Actor    string    `json:"actor"` // who asked for it
	Began    time.Time `json:"began"`
	Changed  time.Time `json:"changed"`           // of the last transition
	Hold     float64   `json:"hold"`              // seconds that a gateway holds writes in FENCING
	Grace    float64   `json:"grace"`             // seconds that the source keeps its tombstone, and its copy
	Pause    float64   `json:"pause,omitempty"`   // seconds that a step of the fence may take; 0: DefaultPause
	Fences   int       `json:"fences"`            // how often the fence was tried
	Trouble  string    `json:"trouble,omitempty"` // what the last fence waited for in vain
	Rollback bool      `json:"rollback,omitempty"`
	Aborted  bool      `json:"aborted,omitempty"` // it was given up; while it is open, what it brought to To is deleted
	Outcome  Outcome   `json:"outcome,omitempty"`
}

// Outcome is how a move ended.
type Outcome string

// The outcomes; empty while it goes on.
const (
	MoveDone    Outcome = "Done"
	MoveAborted Outcome = "Aborted"
)

// PositionSpec is the spec of kind Position: the epoch of a tenant that a member has applied and keeps on its disk.
type PositionSpec struct {
	Member  string `json:"member"`
	Tenant  string `json:"tenant"`
	UID     string `json:"uid"`
	Epoch   int64  `json:"epoch"`
	Drained bool   `json:"drained"` // no request of an older epoch is open there
	Copies  []Copy `json:"copies,omitempty"`
}

// Copy is what became of one workload's data of a tenant, as the mover reports it.
type Copy struct {
	Workload   string `json:"workload"`
	Bytes      int64  `json:"bytes,omitempty"`
	Passes     int64  `json:"passes,omitempty"`  // exports that were imported
	Journal    int64  `json:"journal,omitempty"` // writes that the owner has taken, and the other cell not yet
	Resyncs    int64  `json:"resyncs,omitempty"` // how often it began again, because a write's outcome was not clear
	Caught     bool   `json:"caught,omitempty"`  // in MIGRATING: little enough is left for the fence
	DigestFrom string `json:"digestFrom,omitempty"`
	DigestTo   string `json:"digestTo,omitempty"`
	Deleted    bool   `json:"deleted,omitempty"`
	Error      string `json:"error,omitempty"`
}

// Role is what a sidecar is.
type Role string

// The roles.
const (
	RoleGateway Role = "gateway"
	RoleSidecar Role = "sidecar"
)

// EndpointSpec is the spec of kind Endpoint. Its name is the member's ID.
type EndpointSpec struct {
	Cell     string `json:"cell"`     // "" for a gateway, which answers other gateways for the tenants that it moves
	Workload string `json:"workload"` // "" for a gateway
	Address  string `json:"address"`  // IP address of the sidecar's inbound listener
	Port     int    `json:"port"`
	Ready    bool   `json:"ready"`
	Control  string `json:"control,omitempty"` // control plane that the member reports to
}

// SignerKeySpec is the spec of kind SignerKey. Its name is "<kid>".
type SignerKeySpec struct {
	Principal string `json:"principal"`        // the signer; "iss" must match
	Member    string `json:"member,omitempty"` // the instance that holds it
	PublicKey string `json:"publicKey"`        // Ed25519, base64url without padding, 32 bytes
	Role      Role   `json:"role"`
	Cell      string `json:"cell,omitempty"`   // scope of a sidecar's key
	Tenant    string `json:"tenant,omitempty"` // scope of a sidecar's key
	NotAfter  string `json:"notAfter"`         // RFC 3339; contexts under it end before
}

// Problem is one thing wrong with input.
type Problem struct {
	File   string `json:"file,omitempty"`   // "" when the input has no name
	Line   int    `json:"line,omitempty"`   // 1-based, 0 when unknown
	Object string `json:"object,omitempty"` // "Tenant/acme", "" when unknown
	Path   string `json:"path,omitempty"`   // "spec.limits.burst"
	Text   string `json:"text"`             // "must be from 1 to 1000000 (got 0)"
}

func (p Problem) String() string {
	at := p.Text
	if p.Path != "" {
		at = p.Path + ": " + at
	}
	if p.Object != "" {
		at = p.Object + ": " + at
	}
	if p.Line > 0 {
		at = fmt.Sprintf("%d: %s", p.Line, at)
	}
	if p.File != "" && p.Line == 0 {
		at = p.File + ": " + at
	} else if p.File != "" {
		at = p.File + ":" + at
	}
	return at
}

// Problems is every problem of an input; as an error it prints one a line.
type Problems []Problem

func (ps Problems) Error() string {
	text := ""
	for i, p := range ps {
		if i > 0 {
			text += "\n"
		}
		text += p.String()
	}
	return text
}
