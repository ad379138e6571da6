package translator

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

// enforcement is what the Go processes need: policies, keys, issuers, and what each of them is.
func enforcement(mesh *ir.Mesh) []Resource {
	var resources []Resource
	resources = append(resources, accessPolicies(mesh)...)
	for _, k := range mesh.Keys {
		resources = append(resources, Resource{meshname.TypeSignerKey, k.KID, AudienceAll, &api.SignerKey{
			Kid: k.KID, Principal: k.Spec.Principal, PublicKey: k.Public, Role: string(k.Spec.Role),
			Cell: k.Spec.Cell, Tenant: k.Spec.Tenant, NotAfter: timestamppb.New(k.NotAfter), Member: k.Spec.Member,
		}})
	}
	for _, r := range mesh.Revoked {
		resources = append(resources, Resource{meshname.TypeRevocation, r.Txn, AudienceAll, &api.Revocation{Txn: r.Txn, Until: timestamppb.New(r.Until)}})
	}
	for _, i := range mesh.Issuers {
		claim := i.Spec.TenantClaim
		if claim == "" {
			claim = "tenant"
		}
		resources = append(resources, Resource{meshname.TypeTokenIssuer, i.Name, AudienceGateway, &api.TokenIssuer{
			Name: i.Name, Issuer: i.Spec.Issuer, Audiences: i.Spec.Audiences, Jwks: i.JWKS, TenantClaim: claim,
			Tenants: i.Spec.Tenants, Algorithms: i.Spec.Algorithms,
		}})
	}
	cells := map[string]string{}
	for _, c := range mesh.Cells {
		cells[c.Name] = c.Residency
	}
	gateways := &api.ProxyConfig{Role: "gateway", TrustDomain: mesh.TrustDomain, Cells: cells, Control: mesh.Control.String(), Movers: movers(mesh), Fenced: mesh.Fenced}
	for _, id := range mesh.Gateways {
		gateways.Peers = append(gateways.Peers, id.String())
	}
	for i := range mesh.Workloads {
		gateways.HideLimits = append(gateways.HideLimits, hideLimits(&mesh.Workloads[i])...)
		gateways.Streams = append(gateways.Streams, streams(&mesh.Workloads[i])...)
		gateways.TenantData = append(gateways.TenantData, tenantData(&mesh.Workloads[i])...)
	}
	for i := range mesh.Workloads {
		if own := events(&mesh.Workloads[i]); own != nil {
			for _, instance := range mesh.Workloads[i].Instances {
				gateways.EventPeers = append(gateways.EventPeers, &api.EventPeer{Principal: instance.ID.String(), Cell: instance.Cell, Events: own})
			}
		}
	}
	groups := []string{meshname.GroupGateways}
	for _, w := range mesh.Workloads {
		if name := meshname.GroupTenant(w.Spec.BoundTenant); w.Spec.BoundTenant != "" && !slices.Contains(groups, name) {
			groups = append(groups, name)
		}
	}
	gateways.ShareGroups = shareGroups(mesh, groups...)
	resources = append(resources, Resource{meshname.TypeProxyConfig, meshname.ProxyConfigName, AudienceGateway, gateways})
	for i := range mesh.Workloads {
		for _, instance := range mesh.Workloads[i].Instances {
			resources = append(resources, proxyConfig(mesh, &mesh.Workloads[i], instance, cells[instance.Cell]))
		}
	}
	return resources
}

// accessPolicies are one resource a policy, also of one that is in a rollout. Each goes to the workloads that it names;
// in a rollout to those that either of its versions names, because neither decides without the other.
func accessPolicies(mesh *ir.Mesh) (resources []Resource) {
	messages, audiences := map[string]*api.AccessPolicy{}, map[string][]string{}
	for i := range mesh.Policies {
		p := &mesh.Policies[i]
		message, name := accessPolicy(p), p.Name
		if c := p.Change; c != nil { // after the policy itself
			name = c.Of
			messages[name] = &api.AccessPolicy{Name: name, Canary: &api.Canary{Before: messages[name], After: message, Shadow: true, Removes: c.Removes}}
		} else if c := p.Canary; c != nil {
			name = strings.TrimSuffix(name, policy.CanarySuffix)
			if messages[name] == nil {
				messages[name] = &api.AccessPolicy{Name: name, Canary: &api.Canary{Seed: c.Seed, Percent: c.Percent, Names: c.Names}}
			}
			if c.Others {
				messages[name].Canary.Before = message
			} else {
				messages[name].Canary.After = message
			}
		} else {
			messages[name] = message
		}
		audiences[name] = append(audiences[name], policyAudiences(p)...)
	}
	for _, name := range sortedKeys(messages) {
		for _, audience := range onlyOnce(audiences[name]) {
			resources = append(resources, Resource{meshname.TypeAccessPolicy, name, audience, messages[name]})
		}
	}
	return resources
}

// policyAudiences are who may meet a request that the policy is about: only the sidecar of what is called judges it.
func policyAudiences(p *ir.Policy) (audiences []string) {
	for _, target := range p.Spec.Targets {
		if target.Workload == "*" {
			audiences = append(audiences, AudienceAll)
		} else {
			audiences = append(audiences, AudienceWorkloads(target.Workload))
		}
	}
	return audiences
}

// onlyOnce sorts audiences; who is among all is not named again.
func onlyOnce(audiences []string) []string {
	if slices.Contains(audiences, AudienceAll) {
		return []string{AudienceAll}
	}
	slices.Sort(audiences)
	return slices.Compact(audiences)
}

func accessPolicy(p *ir.Policy) *api.AccessPolicy {
	tenants := &p.Spec.Tenants
	message := &api.AccessPolicy{
		Name: p.Name, Effect: string(p.Spec.Effect), Mode: string(p.Spec.Mode), Principals: p.Spec.Principals,
		Tenants: &api.TenantSelector{Names: tenants.Names, Tiers: tenants.Tiers, Residency: tenants.Residency, Labels: tenants.Labels, Own: tenants.Own},
		When:    p.Spec.When, Revision: p.Revision, AuditAll: p.Spec.Audit == policy.AuditAll, BreakGlass: p.Unproven,
	}
	if tenants.Own || tenants.Residency != "" {
		message.Effect, message.KnownEffect = "", message.Effect
	}
	for _, t := range p.Spec.Plain().Targets {
		message.Targets = append(message.Targets, &api.Target{Workload: t.Workload, Methods: t.Methods, Paths: t.Paths})
	}
	if !p.NotAfter.IsZero() {
		message.NotAfter = timestamppb.New(p.NotAfter)
	}
	return message
}

// events are a workload's topics, nil for none.
func events(w *ir.Workload) *api.Events {
	e := w.Spec.Events
	if len(e.Produces)+len(e.Consumes) == 0 {
		return nil
	}
	lifetime, err := time.ParseDuration(e.Lifetime)
	if err != nil { // it says none
		lifetime = tenanttoken.EventLifetime
	}
	return &api.Events{Produces: e.Produces, Consumes: e.Consumes, Lifetime: durationpb.New(lifetime)}
}

// movers are where gateways answer other members, by their own.
func movers(mesh *ir.Mesh) map[string]string {
	at := make(map[string]string, len(mesh.Movers))
	for member, endpoint := range mesh.Movers {
		at[member] = net.JoinHostPort(endpoint.Address, strconv.Itoa(endpoint.Port))
	}
	return at
}

func proxyConfig(mesh *ir.Mesh, w *ir.Workload, instance ir.Instance, residency string) Resource {
	config := &api.ProxyConfig{
		Role: "sidecar", TrustDomain: mesh.TrustDomain, Principal: instance.ID.String(), Cell: instance.Cell, CellResidency: residency,
		Workload: w.Name, ServicePort: uint32(w.Spec.Port), Tenancy: string(w.Spec.Tenancy), BoundTenant: w.Spec.BoundTenant,
		DeliverContext: w.Spec.DeliverContext, Addresses: virtualAddresses(mesh, w, instance), Control: mesh.Control.String(), TenantData: tenantData(w), Fenced: mesh.Fenced, HideLimits: hideLimits(w),
	}
	if config.Events = events(w); config.Events != nil {
		config.Movers = movers(mesh)
	}
	if a := w.Spec.Admission; a.Mode != "" || a.Min > 0 || a.Max > 0 {
		config.Admission = &api.Admission{Off: a.Mode == "off", Min: int32(a.Min), Max: int32(a.Max)}
	}
	config.ShareGroups = shareGroups(mesh, meshname.GroupWorkload(instance.Cell, w.Name))
	if w.Spec.BoundTenant != "" {
		config.ShareGroups = append(config.ShareGroups, shareGroups(mesh, meshname.GroupTenant(w.Spec.BoundTenant))...)
	}
	for _, class := range w.Spec.Classes {
		config.Classes = append(config.Classes, &api.Class{Name: class.Name, Methods: class.Methods, Paths: class.Paths, Bulkhead: class.Bulkhead != nil, Priority: string(class.Priority), Streaming: class.Streaming})
	}
	for _, peer := range instance.Peers {
		config.Peers = append(config.Peers, peer.String())
		if tenant := mesh.Bound[peer]; tenant != "" {
			if config.BoundPeers == nil {
				config.BoundPeers = map[string]string{}
			}
			config.BoundPeers[peer.String()] = tenant
		}
	}
	for _, name := range w.Spec.DependsOn {
		dependency := &api.Dependency{Kind: "workload", Name: name}
		if other := mesh.Workload(name); other != nil {
			dependency.Tenancy, dependency.Breaker = string(other.Spec.Tenancy), breaker(other.Spec.Breaker)
		}
		for _, d := range mesh.Dependencies {
			if d.Name == name {
				dependency.Kind, dependency.Tenancy, dependency.Breaker = "dependency", string(d.Spec.Tenancy), breaker(d.Spec.Breaker)
			}
		}
		config.DependsOn = append(config.DependsOn, dependency)
	}
	return Resource{meshname.TypeProxyConfig, meshname.ProxyConfigName, AudienceWorkload(instance.Cell, w.Name), config}
}

// shareGroups are groups by name, also those that are empty.
func shareGroups(mesh *ir.Mesh, names ...string) (groups []*api.ShareGroup) {
	for _, name := range names {
		group := mesh.Groups[name]
		groups = append(groups, &api.ShareGroup{Name: name, Members: group.Members, Counted: group.Counted})
	}
	return groups
}

// Tenant returns the resources of one tenant: for every gateway, and for the cell that owns it.
func Tenant(t ir.Tenant) []Resource {
	message := &api.TenantPolicy{
		Tenant: t.Name, Uid: t.UID, Tier: t.Spec.Tier, Labels: t.Labels, Residency: t.Spec.Residency, Phase: string(t.Phase),
		Placement: &api.Placement{State: string(t.Placement.State), Cell: t.Placement.Cell, Target: t.Placement.Target, Epoch: t.Placement.Epoch, Since: t.Placement.Since, Sealed: t.Placement.Sealed, Shut: t.Placement.Shut, Mover: t.Placement.Mover,
			Follow: t.Placement.Follow, Copy: t.Placement.Copy},
		Limits: limits(t.Limits), Weight: int32(t.Weight), Revision: t.Revision, AuditAll: t.Spec.Audit == policy.AuditAll,
	}
	if t.FailMode != (policy.FailMode{}) {
		message.FailMode = &api.FailMode{LimitsUnknown: string(t.FailMode.LimitsUnknown)}
	}
	if t.Hold > 0 {
		message.Placement.Hold = durationpb.New(time.Duration(t.Hold * float64(time.Second)))
	}
	if t.Pause > 0 {
		message.Placement.Pause = durationpb.New(time.Duration(t.Pause * float64(time.Second)))
	}
	resources := []Resource{{meshname.TypeTenantPolicy, t.Name, AudienceGateway, message}}
	for _, cell := range []string{t.Placement.Cell, t.Placement.Target} {
		if cell != "" {
			resources = append(resources, Resource{meshname.TypeTenantPolicy, t.Name, AudienceCell(cell), message})
		}
	}
	return resources
}

func tenantData(w *ir.Workload) []*api.TenantData {
	d := w.Spec.TenantData
	if d == nil {
		return nil
	}
	return []*api.TenantData{{
		Workload: w.Name, Strategy: string(d.Strategy), Commands: d.Commands,
		Export: d.Hook("export"), Import: d.Hook("import"), Digest: d.Hook("digest"), Delete: d.Hook("delete"),
	}}
}

// hideLimits names the workload if its callers are not to know of limits.
func hideLimits(w *ir.Workload) []string {
	if w.Spec.HideLimits {
		return []string{w.Name}
	}
	return nil
}

func limits(l policy.Limits) *api.Limits {
	message := &api.Limits{RequestsPerSecond: l.RequestsPerSecond, Burst: int64(l.Burst), Concurrency: int64(l.Concurrency), Classes: map[string]*api.ClassLimit{}, RetryShare: l.RetryShare}
	for name, class := range l.Classes {
		message.Classes[name] = &api.ClassLimit{RequestsPerSecond: class.RequestsPerSecond, Burst: int64(class.Burst), Concurrency: int64(class.Concurrency)}
	}
	return message
}
