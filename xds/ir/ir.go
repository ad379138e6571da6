// Package ir answers WHAT SHOULD BE, before anyone asks how Envoy spells it: the mesh as one value, computed from a
// snapshot of the store.
//
// It is pure: it imports tenantstore, policy, identity and the standard library; no grpc, protobuf, net or clock.
package ir

import (
	"cmp"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Options say what the snapshot does not.
type Options struct {
	TrustDomain string
	JWKS        map[string]string // by TokenIssuer: key sets that were fetched from its URI
}

// Mesh is the mesh. Every list is sorted by name.
type Mesh struct {
	TrustDomain  string
	Revision     int64
	Control      identity.Principal
	Cells        []Cell
	Gateways     []identity.Principal
	Fenced       []string            // SHA-256 of certificates of members that were shut out, hexadecimal
	Movers       map[string]Endpoint // by member: where a gateway takes the writes of tenants that it moves
	Groups       map[string]tenantstore.Group
	Workloads    []Workload
	Dependencies []Dependency
	Issuers      []Issuer
	Policies     []Policy // of one in a rollout two, the second for the canary
	Keys         []Key
	Tenants      []Tenant
	Bound        map[identity.Principal]string // workloads' principals that are bound to a tenant, and to which
	Revoked      []Revocation
}

// Policy is an access policy, or a grant as one.
type Policy = authz.Policy

// Cell is a cell.
type Cell struct{ Name, Residency string }

// Workload is one logical service and where it is.
type Workload struct {
	Name      string
	Spec      *tenantstore.WorkloadSpec
	Instances []Instance // one a cell, in the cells' order
}

// Instance is a workload in one cell.
type Instance struct {
	Cell      string
	ID        identity.Principal
	Endpoints []Endpoint           // of sidecars that are ready
	Peers     []identity.Principal // who may connect
}

// Endpoint is where a sidecar's inbound listener answers.
type Endpoint struct {
	Address string
	Port    int
}

// Dependency is an external host.
type Dependency struct {
	Name string
	Spec *tenantstore.DependencySpec
}

// Issuer is a token issuer whose keys are known.
type Issuer struct {
	Name string
	Spec *tenantstore.TokenIssuerSpec
	JWKS string
}

// Revocation is a transaction that was revoked.
type Revocation struct {
	Txn   string
	Until time.Time
}

// Key is a signer's key.
type Key struct {
	KID      string
	Spec     *tenantstore.SignerKeySpec
	Public   []byte
	NotAfter time.Time
}

// Tenant is what sidecars need to know of a tenant.
type Tenant struct {
	Name      string
	UID       string
	Spec      *tenantstore.TenantSpec
	Labels    map[string]string
	Phase     tenantstore.Phase
	Placement tenantstore.Placement
	Limits    policy.Limits
	Weight    int
	FailMode  policy.FailMode
	Hold      float64 // seconds, of its move
	Pause     float64 // seconds, of its move
	Revision  int64
}

// noKeys is the key set for an issuer whose own nobody has fetched yet: it verifies nothing.
const noKeys = `{"keys":[]}`

// keptKeys are what some control plane fetched from the URI that the issuer names, "" for none.
func keptKeys(issuer *tenantstore.Object) string {
	if kept := issuer.Status.Keys; kept != nil && kept.URI == issuer.TokenIssuer.JWKS.URI {
		return kept.JWKS
	}
	return ""
}

// Build computes the mesh. An object that is not whole (a key that does not parse) is left out.
func Build(snapshot tenantstore.Snapshot, options Options) *Mesh {
	mesh := &Mesh{TrustDomain: options.TrustDomain, Revision: snapshot.Revision, Movers: map[string]Endpoint{}, Bound: map[identity.Principal]string{}}
	mesh.Control, _ = identity.ControlID(options.TrustDomain)
	objects := snapshot.Objects
	mesh.Groups = tenantstore.Groups(objects)
	tiers := tenantstore.Tiers(objects)
	for _, key := range slices.SortedFunc(maps.Keys(objects), func(a, b tenantstore.Key) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	}) {
		o := objects[key]
		switch key.Kind {
		case tenantstore.KindCell:
			mesh.Cells = append(mesh.Cells, Cell{key.Name, o.Cell.Residency})
		case tenantstore.KindTenant:
			mesh.Tenants = append(mesh.Tenants, buildTenant(tenantstore.TiersFor(objects, tiers, o), o, objects[tenantstore.Key{Kind: tenantstore.KindMove, Name: key.Name}]))
		case tenantstore.KindWorkload:
			mesh.Workloads = append(mesh.Workloads, Workload{Name: key.Name, Spec: o.Workload})
		case tenantstore.KindDependency:
			mesh.Dependencies = append(mesh.Dependencies, Dependency{key.Name, o.Dependency})
		case tenantstore.KindTokenIssuer:
			jwks := cmp.Or(o.TokenIssuer.JWKS.Inline, options.JWKS[key.Name], keptKeys(o), noKeys)
			mesh.Issuers = append(mesh.Issuers, Issuer{key.Name, o.TokenIssuer, restrict(jwks, o.TokenIssuer)})
		case tenantstore.KindAccessPolicy, tenantstore.KindAccessGrant, tenantstore.KindRollout:
			if p, ok := tenantstore.PolicyOf(objects, o); ok && (key.Kind != tenantstore.KindAccessGrant || tenantstore.GrantInForce(o)) {
				mesh.Policies = append(mesh.Policies, p)
			}
		case tenantstore.KindMember:
			for _, c := range o.Member.Certificates {
				if o.Member.Fenced {
					mesh.Fenced = append(mesh.Fenced, c.SHA256)
				}
			}
			if id, err := identity.ParsePrincipal(o.Member.Principal); err == nil && o.Member.Role == tenantstore.RoleGateway && !o.Member.Left && !o.Member.Fenced && !slices.Contains(mesh.Gateways, id) {
				mesh.Gateways = append(mesh.Gateways, id)
			}
		case tenantstore.KindSignerKey:
			public, err := base64.RawURLEncoding.DecodeString(o.SignerKey.PublicKey)
			notAfter, err2 := time.Parse(time.RFC3339, o.SignerKey.NotAfter)
			if err == nil && err2 == nil {
				mesh.Keys = append(mesh.Keys, Key{key.Name, o.SignerKey, public, notAfter})
			}
		case tenantstore.KindRevocation:
			mesh.Revoked = append(mesh.Revoked, Revocation{key.Name, o.Revocation.Until})
		case tenantstore.KindEndpoint:
			if o.Endpoint.Workload == "" && o.Endpoint.Ready {
				mesh.Movers[key.Name] = Endpoint{o.Endpoint.Address, o.Endpoint.Port}
			}
		case tenantstore.KindTier, tenantstore.KindTierPromotion, tenantstore.KindAccessInvariant, tenantstore.KindRoleBinding, tenantstore.KindMove, tenantstore.KindPosition, tenantstore.KindAuditHead:
		}
	}
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		w.Instances = mesh.instances(objects, w)
		for _, instance := range w.Instances {
			if w.Spec.BoundTenant != "" {
				mesh.Bound[instance.ID] = w.Spec.BoundTenant
			}
		}
	}
	mesh.scopeKeys()
	for i := range mesh.Workloads {
		for j := range mesh.Workloads[i].Instances {
			mesh.Workloads[i].Instances[j].Peers = mesh.peers(&mesh.Workloads[i], mesh.Workloads[i].Instances[j].Cell)
		}
	}
	return mesh
}

// BuildTenant computes one tenant, without looking at any other; false when there is none.
func BuildTenant(objects map[tenantstore.Key]*tenantstore.Object, tiers map[string]policy.TierSpec, name string) (Tenant, bool) {
	o := objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}]
	if o == nil {
		return Tenant{}, false
	}
	return buildTenant(tenantstore.TiersFor(objects, tiers, o), o, objects[tenantstore.Key{Kind: tenantstore.KindMove, Name: name}]), true
}

func buildTenant(tiers map[string]policy.TierSpec, o, move *tenantstore.Object) Tenant {
	t := Tenant{
		Name: o.Metadata.Name, UID: o.Metadata.UID, Spec: o.Tenant, Labels: o.Metadata.Labels, Phase: o.Status.Phase,
		Limits: tenantstore.EffectiveLimits(tiers, o.Tenant), Weight: max(1, tiers[o.Tenant.Tier].Weight), FailMode: tiers[o.Tenant.Tier].FailMode, Revision: o.Metadata.Revision,
	}
	if o.Status.Placement != nil {
		t.Placement = *o.Status.Placement
	}
	if t.Placement.State.Moving() && move != nil {
		t.Hold, t.Pause = move.Move.Hold, cmp.Or(move.Move.Pause, tenantstore.DefaultPause)
	}
	return t
}

func (m *Mesh) instances(objects map[tenantstore.Key]*tenantstore.Object, w *Workload) []Instance {
	list := make([]Instance, 0, len(m.Cells))
	for _, cell := range m.Cells {
		id, err := identity.WorkloadID(m.TrustDomain, cell.Name, w.Name)
		for _, listed := range w.Spec.SPIFFEIDs {
			if listed.Cell == cell.Name {
				id, err = identity.ParsePrincipal(listed.ID)
			}
		}
		if err == nil {
			list = append(list, Instance{Cell: cell.Name, ID: id})
		}
	}
	for _, o := range objects {
		if o.Kind != tenantstore.KindEndpoint || o.Endpoint.Workload != w.Name || !o.Endpoint.Ready {
			continue
		}
		for i := range list {
			if list[i].Cell == o.Endpoint.Cell {
				list[i].Endpoints = append(list[i].Endpoints, Endpoint{o.Endpoint.Address, o.Endpoint.Port})
			}
		}
	}
	for i := range list {
		slices.SortFunc(list[i].Endpoints, func(a, b Endpoint) int {
			return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
		})
	}
	return list
}

// scopeKeys gives each sidecar's key the scope that its workload has now, whatever it was when the key was published. A
// key of a principal that is no workload, or of one that is bound to no tenant, may sign nothing: it is left out.
func (m *Mesh) scopeKeys() {
	bound := map[string]tenantstore.SignerKeySpec{}
	for _, w := range m.Workloads {
		for _, instance := range w.Instances {
			if w.Spec.BoundTenant != "" {
				bound[instance.ID.String()] = tenantstore.SignerKeySpec{Cell: instance.Cell, Tenant: w.Spec.BoundTenant}
			}
		}
	}
	m.Keys = slices.DeleteFunc(m.Keys, func(k Key) bool {
		_, ok := bound[k.Spec.Principal]
		return k.Spec.Role != tenantstore.RoleGateway && !ok
	})
	for i, k := range m.Keys {
		if scope, ok := bound[k.Spec.Principal]; ok && k.Spec.Role != tenantstore.RoleGateway {
			spec := *k.Spec
			spec.Cell, spec.Tenant = scope.Cell, scope.Tenant
			m.Keys[i].Spec = &spec
		}
	}
}

// peers are the gateways, when the workload is exposed, the workloads of its cell that depend on it, and callers of other
// trust domains.
func (m *Mesh) peers(w *Workload, cell string) []identity.Principal {
	var peers []identity.Principal
	if w.Reached() {
		peers = append(peers, m.Gateways...)
	}
	for _, other := range m.Workloads {
		if !slices.Contains(other.Spec.DependsOn, w.Name) {
			continue
		}
		if instance, ok := other.In(cell); ok {
			peers = append(peers, instance.ID)
		}
	}
	for _, caller := range w.Spec.Callers {
		if id, err := identity.ParsePrincipal(caller); err == nil && id.TrustDomain() != m.TrustDomain { // its own are known by what they depend on
			peers = append(peers, id)
		}
	}
	slices.SortFunc(peers, func(a, b identity.Principal) int { return strings.Compare(a.String(), b.String()) })
	return peers
}

// Reached reports whether gateways call the workload: it is exposed, or they move its tenants' data.
func (w *Workload) Reached() bool { return len(w.Spec.Expose) > 0 || w.Spec.TenantData != nil }

// In returns the workload's instance in a cell.
func (w *Workload) In(cell string) (Instance, bool) {
	for _, instance := range w.Instances {
		if instance.Cell == cell {
			return instance, true
		}
	}
	return Instance{}, false
}

// Workload returns the workload of that name, nil for none.
func (m *Mesh) Workload(name string) *Workload {
	for i := range m.Workloads {
		if m.Workloads[i].Name == name {
			return &m.Workloads[i]
		}
	}
	return nil
}
