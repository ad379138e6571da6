// Package meshname answers HOW IT IS SPELLED: the names that the control plane, Envoy and the Go process
// beside it must write alike, so that neither room needs to import the other.
//
// It imports the standard library only: of it, what makes texts.
package meshname

import "time"

// Envoy's listeners. The control plane writes the well-known ports below; the Go process beside an Envoy
// replaces them by its own settings before it relays the listener.
const (
	ListenerGateway  = "gateway"
	ListenerInbound  = "inbound"
	ListenerOutbound = "outbound"
	ListenerCaptured = "captured" // of a sidecar with --capture: what the service calls by itself, and a rule of the kernel sent here
	PointEvents      = "events"   // no listener: where tokens of events are exchanged, in the Go processes
	ListenerEgress   = "egress"   // of a gateway: a Unix socket, by which its Go process reaches the cells

	PortGateway  = 8080
	PortInbound  = 15006
	PortOutbound = 15001
	PortAdmin    = 15000
	PortMetrics  = 15090
	PortHealth   = 15021
	PortCaptured = 15002
	PortMover    = 15008 // of a gateway: other gateways send it the writes of tenants that it moves
)

// Clusters of Envoy's bootstrap; all are the Go process, over its Unix sockets.
const (
	ClusterSidecar = "tenantmesh_sidecar" // gRPC: ADS, ext_authz, ratelimit, access log
	ClusterJWKS    = "tenantmesh_jwks"    // HTTP/1.1: GET /jwks/<issuer>
	ClusterMove    = "tenantmesh_move"    // HTTP/2: requests of tenants that move
	ClusterStreams = "tenantmesh_streams" // gRPC: ext_proc, one call as long as an upgrade is open; apart, so that they leave checks their room
)

// ClusterLocalService is the service beside this Envoy; its endpoint (EDS) is added by the Go process.
const ClusterLocalService = "local_service"

// ClusterPool names the cluster of the service beside this Envoy for a class of requests that has a bulkhead; its
// endpoint is added as that of [ClusterLocalService].
func ClusterPool(class string) string { return ClusterLocalService + "/" + class }

// ClusterWorkload names the cluster, and the EDS resource, of a workload in a cell.
func ClusterWorkload(cell, workload string) string { return "cell/" + cell + "/workload/" + workload }

// SDS secrets, all made by the Go process: those of the mesh from the SPIFFE Workload API.
const (
	SecretSVID   = "mesh/svid"    // own X.509-SVID and key
	SecretBundle = "mesh/bundle"  // trust bundle; clusters add the exact SPIFFE IDs they expect
	SecretPeers  = "mesh/peers"   // trust bundle and the exact SPIFFE IDs that may connect inbound
	SecretRoots  = "system/roots" // who the machine trusts, for Dependencies
)

// Route configurations and the ECDS filters.
const (
	RouteInbound    = "inbound"
	RouteOutbound   = "outbound"
	RouteCaptured   = "captured"
	RouteEgress     = "egress"
	ExtensionJWT    = "gateway/jwt_authn"
	ExtensionAccess = "inbound/rbac" // what access policies can never allow, refused by Envoy itself
	CellNone        = "-"            // reserved: no cell was decided yet
	CellMove        = "move"         // reserved: the request goes to the gateway's Go process
	MetadataJWT     = "envoy.filters.http.jwt_authn"
	MetadataJWTFail = "failure" // key under MetadataJWT that holds the failed status
)

// RouteGateway names the gateway's route configuration for a cell, or for [CellNone].
func RouteGateway(cell string) string { return "gateway/" + cell }

// MetadataJWTPayload is the key under [MetadataJWT] that holds the payload verified for an issuer.
func MetadataJWTPayload(issuer string) string { return "issuer/" + issuer }

// PathTenantData is where a sidecar answers, instead of its service, for a workload whose data moves by commands;
// what is below it is its own too. A service cannot have this path.
const PathTenantData = "/.tenantmesh/tenant-data"

// PathSidecarResources is where a sidecar asks the admin API for what cannot be pushed to it.
const PathSidecarResources = "/sidecar/resources"

// Keys of ext_authz's context_extensions, written per virtual host.
const (
	ExtensionListener             = "listener"              // one of the Listener constants
	ExtensionTarget               = "target"                // outbound: "workload/<name>" or "dependency/<name>"; absent: not listed
	ExtensionForwardAuthorization = "forward_authorization" // "true": the client's Authorization passes the gateway
)

// DomainConnections is the domain of the rate limit calls by which an Envoy asks whether a captured connection may be made:
// the one filter that asks before anything is connected. Their descriptor has one entry, of [ExtensionTarget].
const DomainConnections = "tenantmesh/connections"

// TargetForeign begins the target of a captured call whose host is declared and whose address is not that host's.
const TargetForeign = "foreign/"

// Paths below the Go process's run directory.
const (
	SocketSidecar = "sidecar.sock" // gRPC for Envoy
	SocketJWKS    = "jwks.sock"    // HTTP for Envoy's remote_jwks
	SocketStreams = "streams.sock" // gRPC for Envoy: calls that stay open, which would take the workers of checks
	SocketMove    = "move.sock"    // HTTP/2 for requests of tenants that move; at a sidecar, for the commands that move data
	SocketEgress  = "egress.sock"  // Envoy's, for the Go process
)

// Type URLs of the resources that travel to the Go process on delta ADS. Each is a message of
// api/tenantmesh/v1alpha1.
const (
	typePrefix       = "type.googleapis.com/tenantmesh.v1alpha1."
	TypeTenantPolicy = typePrefix + "TenantPolicy"
	TypeAccessPolicy = typePrefix + "AccessPolicy"
	TypeSignerKey    = typePrefix + "SignerKey"
	TypeTokenIssuer  = typePrefix + "TokenIssuer"
	TypeRevocation   = typePrefix + "Revocation"
	TypeProxyConfig  = typePrefix + "ProxyConfig" // one, named "self": what this sidecar is
)

// GroupGateways is the group of members that enforce tenants' own limits together: the gateways. A tenant to whom workloads
// are bound has a group of its own, of the gateways and those workloads' members; limits of classes have one at each workload.
const GroupGateways = "gateways"

// GroupWorkload is the group of a workload's members in a cell.
func GroupWorkload(cell, workload string) string { return "workload/" + cell + "/" + workload }

// GroupTenant is the group of a tenant to whom workloads are bound.
func GroupTenant(tenant string) string { return "tenant/" + tenant }

// The quota protocol (envoy.service.rate_limit_quota.v3) as it is spoken between a member and the control plane: its
// domain, and the keys of its bucket IDs. A report begins with a bucket of [QuotaReport], and after a bucket of
// [QuotaMember] alone nothing follows until the control plane has answered with one of [QuotaAllocator].
const (
	QuotaDomain    = "tenantmesh"
	QuotaMember    = "member"    // member ID
	QuotaAllocator = "allocator" // who divides
	QuotaReport    = "report"    // number of a report; in a response, of the newest that it answers
	QuotaResponse  = "response"  // number of a response; in a report, of the newest that the member has
	QuotaLends     = "lends"     // "all", or "rate": of what its part is, nobody else has lent that to somebody
	QuotaGroup     = "group"
	QuotaRank      = "rank" // of the member in the group, from 0
	QuotaOf        = "of"   // members of the group
	QuotaDigest    = "digest"
	QuotaCounted   = "counted" // "true": the part is the member's own
	QuotaTenant    = "tenant"
	QuotaUID       = "uid"
	QuotaClass     = "class"
	QuotaGrant     = "grant" // number of a grant
	QuotaStanding  = "standing"
	QuotaKind      = "kind" // QuotaOpen, or absent for a rate; QuotaStanding of a part that something is standing of
	QuotaOpen      = "concurrency"
)

// QuotaRateUnit is the fill interval of granted rates.
const QuotaRateUnit = 1000 * time.Second

// MetadataRevision is the gRPC metadata by which a sidecar tells a control plane which revision it has.
const MetadataRevision = "tenantmesh-revision"

// ProxyConfigName is the name of the only resource of [TypeProxyConfig].
const ProxyConfigName = "self"
