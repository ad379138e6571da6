package tenantstore

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Validate returns every problem of the changed objects in themselves, and every reference in objects, which
// is the whole store as it would be, that names nothing.
func Validate(objects map[Key]*Object, changed []Key) Problems {
	all := newView(Snapshot{Objects: objects})
	return validate(all, changed, slices.Collect(maps.Keys(objects)))
}

// validate looks at what changed, and at the references of what did not where the change may have broken them: where
// something is gone that others name, or there is more of what must be unique.
func validate(on *view, changed, removed []Key) Problems {
	objects := on.objects
	v := &validation{objects: objects, tiers: Tiers(on.few)}
	v.names = slices.ContainsFunc(changed, func(key Key) bool {
		return key.Kind == KindWorkload || key.Kind == KindDependency || key.Kind == KindCell
	})
	for _, key := range changed {
		if object := objects[key]; object != nil {
			v.at = key
			v.object(object)
		}
	}
	look := map[Key]bool{}
	for _, key := range changed {
		look[key] = objects[key] != nil
	}
	of := func(keys []Key, kinds ...Kind) bool {
		return slices.ContainsFunc(keys, func(key Key) bool { return slices.Contains(kinds, key.Kind) })
	}
	if v.names || of(changed, KindTokenIssuer) || of(removed, KindTenant, KindWorkload, KindDependency) {
		for key := range on.few {
			look[key] = true
		}
	}
	if of(removed, KindCell, KindTier) { // tenants name nothing else
		for key := range objects {
			look[key] = true
		}
	}
	keys := slices.DeleteFunc(slices.SortedFunc(maps.Keys(look), compareKeys), func(key Key) bool { return !look[key] })
	v.unique = map[string]Key{}
	for _, key := range keys {
		v.at = key
		v.references(objects[key])
	}
	return v.problems
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

type validation struct {
	objects  map[Key]*Object
	tiers    map[string]policy.TierSpec
	unique   map[string]Key
	names    bool // what goes by a name in a proxy may have changed
	at       Key
	problems Problems
}

func (v *validation) add(path, format string, args ...any) {
	v.problems = append(v.problems, Problem{Object: v.at.String(), Path: path, Text: fmt.Sprintf(format, args...)})
}

// oneOf wants value to be one of the choices; "" counts as the default where it is among them.
func oneOf[T ~string](v *validation, path string, value T, choices ...T) {
	if !slices.Contains(choices, value) {
		names := make([]string, 0, len(choices))
		for _, choice := range choices {
			if choice != "" {
				names = append(names, string(choice))
			}
		}
		v.add(path, "must be one of %s (got %q)", strings.Join(names, ", "), value)
	}
}

func between[T cmp.Ordered](v *validation, path string, value, low, high T) {
	if value < low || value > high {
		v.add(path, "must be from %v to %v (got %v)", low, high, value)
	}
}

func (v *validation) object(o *Object) {
	if _, err := identity.ParseTenantID(o.Metadata.Name); err != nil {
		v.add("metadata.name", "must be 1 to %d lower-case letters, digits and '-' (got %q)", identity.MaxTenantID, o.Metadata.Name)
	}
	switch o.Kind {
	case KindCell:
		v.cell(o)
	case KindTier:
		v.limits("spec.limits", o.Tier.Limits)
		between(v, "spec.weight", o.Tier.Weight, 0, 1000)
		oneOf(v, "spec.isolation", o.Tier.Isolation, "", policy.Pooled, policy.DedicatedStore, policy.DedicatedCell)
		between(v, "spec.slo.availability", o.Tier.SLO.Availability, 0, 1)
		oneOf(v, "spec.failMode.limitsUnknown", o.Tier.FailMode.LimitsUnknown, "", policy.SafeDefaults, policy.RefuseUnknown)
	case KindTenant:
		v.required("spec.tier", o.Tenant.Tier)
		v.required("spec.region", o.Tenant.Region)
		oneOf(v, "spec.residency", o.Tenant.Residency, "", "eu")
		v.limits("spec.limits", o.Tenant.Limits)
		oneOf(v, "spec.audit", o.Tenant.Audit, "", policy.AuditAll)
	case KindWorkload:
		v.workload(o.Workload)
	case KindDependency:
		v.dependency(o.Dependency)
	case KindTokenIssuer:
		v.issuer(o.TokenIssuer)
	case KindAccessPolicy:
		v.fields(authz.CheckSpec(*o.AccessPolicy))
	case KindAccessGrant:
		v.grant(o.AccessGrant)
	case KindAccessInvariant:
		v.fields(analysis.CheckInvariant(o.AccessInvariant))
	case KindRoleBinding:
		v.roleBinding(o.RoleBinding)
	case KindTierPromotion:
		p := o.TierPromotion
		between(v, "spec.requestsPerSecond", p.RequestsPerSecond, 0, 1e6)
		between(v, "spec.refusedShare", p.RefusedShare, 0, 1)
		between(v, "spec.peakToMean", p.PeakToMean, 0, 60)
		oneOf(v, "spec.residency", p.Residency, "", "eu")
		if p.RequestsPerSecond == 0 && p.RefusedShare == 0 && p.PeakToMean == 0 && p.Residency == "" {
			v.add("spec", "must name at least one threshold (got none)")
		}
		if p.From == p.To {
			v.add("spec.to", "must be another tier than from (got %q)", p.To)
		}
	case KindMember, KindEndpoint, KindSignerKey, KindMove, KindPosition, KindAuditHead, KindRollout, KindRevocation:
	}
}

func (v *validation) fields(problems authz.FieldProblems) {
	for _, p := range problems {
		v.add("spec."+p.Field, "%s", p.Text)
	}
}

func (v *validation) required(path, value string) {
	if value == "" {
		v.add(path, `must be set (got "")`)
	}
}

func (v *validation) cell(o *Object) {
	if name := o.Metadata.Name; name == "-" || name == "move" {
		v.add("metadata.name", "must not be - or move, which are reserved (got %q)", name)
	}
	v.required("spec.region", o.Cell.Region)
	oneOf(v, "spec.residency", o.Cell.Residency, "", "eu")
	oneOf(v, "spec.pool", o.Cell.Pool, "", SharedPool, DedicatedPool)
	oneOf(v, "spec.state", o.Cell.State, "", CellActive, CellDraining)
	c := o.Cell.Capacity
	between(v, "spec.capacity.freeCpu", c.FreeCPU, 0, 1)
	between(v, "spec.capacity.utilization", c.Utilization, 0, 1)
	between(v, "spec.capacity.dbConnCap", c.DBConnCap, 0, 1_000_000)
	between(v, "spec.capacity.freeDbConn", c.FreeDBConn, 0, max(0, c.DBConnCap))
}

func (v *validation) limits(path string, l policy.Limits) {
	v.limit(path, policy.ClassLimit{RequestsPerSecond: l.RequestsPerSecond, Burst: l.Burst, Concurrency: l.Concurrency})
	if s := l.RetryShare; s != 0 && s != policy.Unlimited && (s < 0.001 || s > 100) {
		v.add(path+".retryShare", "must be from 0.001 to 100, or -1 for unlimited (got %v)", s)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Classes)) {
		if _, err := identity.ParseTenantID(name); err != nil {
			v.add(path+".classes."+name, "must be named with 1 to 63 lower-case letters, digits and '-' (got %q)", name)
		}
		v.limit(path+".classes."+name, l.Classes[name])
	}
}

// limit checks one set of limits, in which 0 is "not said" and -1 is "unlimited".
func (v *validation) limit(path string, l policy.ClassLimit) {
	if r := l.RequestsPerSecond; r != 0 && r != policy.Unlimited && (r < 0.001 || r > 1e6) {
		v.add(path+".requestsPerSecond", "must be from 0.001 to 1000000, or -1 for unlimited (got %v)", r)
	}
	if b := l.Burst; b != 0 && (b < 1 || b > 1e6) {
		v.add(path+".burst", "must be from 1 to 1000000 (got %d)", b)
	}
	if c := l.Concurrency; c != 0 && c != policy.Unlimited && (c < 1 || c > 1e6) {
		v.add(path+".concurrency", "must be from 1 to 1000000, or -1 for unlimited (got %d)", c)
	}
}

func (v *validation) workload(w *WorkloadSpec) {
	cells := map[string]bool{}
	for i, id := range w.SPIFFEIDs {
		if cells[id.Cell] {
			v.add(fmt.Sprintf("spec.spiffeIDs[%d].cell", i), "must be listed once (got %q again)", id.Cell)
		}
		cells[id.Cell] = true
		if p, err := identity.ParsePrincipal(id.ID); err != nil {
			v.add(fmt.Sprintf("spec.spiffeIDs[%d].id", i), "must be a whole SPIFFE ID: %v", err)
		} else if identity.IsGateway(p) || p.Path() == "/control" {
			v.add(fmt.Sprintf("spec.spiffeIDs[%d].id", i), "must not be a gateway's or the control plane's (got %q)", id.ID)
		}
	}
	for i, caller := range w.Callers {
		if _, err := identity.ParsePrincipal(caller); err != nil {
			v.add(fmt.Sprintf("spec.callers[%d]", i), "must be a whole SPIFFE ID: %v", err)
		}
	}
	for i, name := range w.DependsOn {
		if slices.Contains(w.DependsOn[:i], name) {
			v.add(fmt.Sprintf("spec.dependsOn[%d]", i), "must be listed once (got %q again)", name)
		}
	}
	between(v, "spec.port", w.Port, 0, 65535)
	oneOf(v, "spec.protocol", w.Protocol, "", "http1", "http2", "grpc")
	oneOf(v, "spec.tenancy", w.Tenancy, "", Require, Observe, Untenanted)
	for i, expose := range w.Expose {
		at := fmt.Sprintf("spec.expose[%d]", i)
		pattern, err := authz.ParsePathPattern(expose.PathPrefix)
		if err != nil || strings.Contains(pattern.String(), "*") || (expose.PathPrefix != "/" && strings.HasSuffix(expose.PathPrefix, "/")) {
			v.add(at+".pathPrefix", "must be a path such as /documents, without * or a slash at its end (got %q)", expose.PathPrefix)
		}
		if strings.ContainsAny(expose.Host, "*/: ") || strings.ToLower(expose.Host) != expose.Host {
			v.add(at+".host", "must be an exact host name in lower case, without port (got %q)", expose.Host)
		}
	}
	for i, class := range w.Classes {
		at := fmt.Sprintf("spec.classes[%d]", i)
		v.required(at+".name", class.Name)
		_, problems := authz.NewClass(class.Name, class.Methods, class.Paths)
		for _, p := range problems {
			v.add(at+"."+p.Field, "%s", p.Text)
		}
		v.bulkhead(at, class, w.Classes[:i])
		oneOf(v, at+".priority", class.Priority, "", Interactive, Batch)
	}
	v.breaker(w.Breaker)
	v.admission(w.Admission)
	v.topics("spec.events.produces", w.Events.Produces)
	v.topics("spec.events.consumes", w.Events.Consumes)
	if d, err := time.ParseDuration(w.Events.Lifetime); w.Events.Lifetime != "" && (err != nil || d < time.Minute || d > 7*24*time.Hour) {
		v.add("spec.events.lifetime", "must be a duration from 1m to 168h (got %q)", w.Events.Lifetime)
	}
	if w.TenantData != nil {
		oneOf(v, "spec.tenantData.strategy", w.TenantData.Strategy, "", Fenced, CatchUp, DualWrite)
		for _, hook := range slices.Sorted(maps.Keys(w.TenantData.Hooks)) {
			oneOf(v, "spec.tenantData.hooks", hook, "export", "import", "digest", "delete")
			if path, _ := authz.SplitPath(w.TenantData.Hooks[hook]); path != w.TenantData.Hooks[hook] || !strings.HasPrefix(path, "/") {
				v.add("spec.tenantData.hooks."+hook, "must be a path such as /tenant-data/export (got %q)", w.TenantData.Hooks[hook])
			}
		}
		if w.TenantData.Commands && len(w.TenantData.Hooks) > 0 {
			v.add("spec.tenantData.hooks", "must not be given with commands: the sidecars' own configuration names the commands")
		}
		if w.TenantData.Commands && w.TenantData.Strategy != "" && w.TenantData.Strategy != Fenced {
			v.add("spec.tenantData.strategy", "must be fenced with commands (got %q)", w.TenantData.Strategy)
		}
		for _, hook := range []string{"export", "import", "digest"} {
			v.required("spec.tenantData.hooks."+hook, w.TenantData.Hook(hook))
		}
	}
}

func (v *validation) topics(field string, topics []string) {
	for i, topic := range topics {
		at := fmt.Sprintf("%s[%d]", field, i)
		if topic == "" || len(topic) > MaxTopic || strings.ContainsFunc(topic, func(r rune) bool { return r <= ' ' || r > '~' }) {
			v.add(at, "must be the name of a topic, 1 to %d printable characters of ASCII (got %q)", MaxTopic, topic)
		}
		if slices.Contains(topics[:i], topic) {
			v.add(at, "must be listed once (got %q again)", topic)
		}
	}
}

// minAnswerTime is the least that a Dependency may be given for an answer.
const minAnswerTime = 10 * time.Millisecond

func (v *validation) dependency(d *DependencySpec) {
	if len(d.Hosts) == 0 {
		v.add("spec.hosts", "must name at least one host (got none)")
	}
	for i, host := range d.Hosts {
		if host == "" || strings.ContainsAny(host, "*/: ") {
			v.add(fmt.Sprintf("spec.hosts[%d]", i), "must be an exact DNS name or an IPv4 address (got %q)", host)
		}
		if _, err := netip.ParseAddr(host); err == nil && d.Protocol == ProtocolTLS {
			v.add(fmt.Sprintf("spec.hosts[%d]", i), "must be a DNS name with protocol tls, which tells hosts by their names (got %q)", host)
		}
		if slices.ContainsFunc(d.Hosts[:i], func(other string) bool { return strings.EqualFold(other, host) }) {
			v.add(fmt.Sprintf("spec.hosts[%d]", i), "must be listed once (got %q again)", host)
		}
	}
	oneOf(v, "spec.protocol", d.Protocol, "", ProtocolHTTP, ProtocolTLS, ProtocolTCP)
	if d.Protocol == ProtocolTLS && d.TLS {
		v.add("spec.tls", "must not be set with protocol tls, which is the service's own (got true)")
	}
	if d.Streams() && d.Timeout != "" {
		v.add("spec.timeout", "must not be set with protocol %s, which has no answers (got %q)", d.Protocol, d.Timeout)
	}
	v.breaker(d.Breaker)
	v.duration("spec.timeout", d.Timeout, minAnswerTime, meshname.ResponseTime)
	between(v, "spec.port", d.Port, 1, 65535)
	oneOf(v, "spec.tenancy", d.Tenancy, "", Require, Observe, Untenanted)
}

// Algorithms that a TokenIssuer may name, the first three by default.
var algorithms = []string{"RS256", "ES256", "EdDSA", "RS384", "RS512", "ES384", "ES512", "PS256", "PS384", "PS512"}

func (v *validation) issuer(i *TokenIssuerSpec) {
	v.required("spec.issuer", i.Issuer)
	if len(i.Audiences) == 0 {
		v.add("spec.audiences", "must name at least one audience (got none)")
	}
	for n, algorithm := range i.Algorithms {
		oneOf(v, fmt.Sprintf("spec.algorithms[%d]", n), algorithm, algorithms...)
	}
	if len(i.Tenants) == 0 {
		v.add("spec.tenants", `must list the tenants that it may speak for, or "*" (got none)`)
	}
	set := 0
	for _, source := range []string{i.JWKS.Inline, i.JWKS.File, i.JWKS.URI} {
		if source != "" {
			set++
		}
	}
	switch {
	case set != 1:
		v.add("spec.jwks", "must set exactly one of inline, file and uri (got %d)", set)
	case i.JWKS.File != "":
		v.add("spec.jwks.file", "must be read by the command line before it is applied (got %q)", i.JWKS.File)
	case i.JWKS.Inline != "":
		if err := CheckJWKS(i.JWKS.Inline); err != nil {
			v.add("spec.jwks.inline", "%v", err)
		}
	default:
		if u, err := url.Parse(i.JWKS.URI); err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") {
			v.add("spec.jwks.uri", "must be an http or https URL without user (got %q)", i.JWKS.URI)
		}
	}
}

// CheckJWKS returns why text is not a JWK Set of public keys (RFC 7517, section 5), nil when it is one.
func CheckJWKS(text string) error {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return fmt.Errorf("must be a JWK Set: %w", err)
	}
	if len(set.Keys) == 0 {
		return fmt.Errorf("must be a JWK Set with at least one key (got none)")
	}
	for i, key := range set.Keys {
		if !key.Valid() || !key.IsPublic() {
			return fmt.Errorf("must hold public keys only (keys[%d], kid %q, is none)", i, key.KeyID)
		}
	}
	return nil
}

func (v *validation) grant(g *policy.AccessGrantSpec) {
	if _, err := identity.ParsePrincipal(g.Principal); err != nil {
		v.add("spec.principal", "must be a whole SPIFFE ID: %v", err)
	}
	v.fields(authz.CheckSpec(authz.AsPolicy("", policy.AccessGrantSpec{Principal: "spiffe://x/y", Tenants: g.Tenants, Targets: g.Targets}, 0).Spec))
	if g.Approver != "" && g.Approver == g.Principal {
		v.add("spec.approver", "must be another than the principal (got %q)", g.Approver)
	}
	if n := len(g.Reason); n < 1 || n > 500 {
		v.add("spec.reason", "must have 1 to 500 characters (got %d)", n)
	}
	if g.NotAfter.IsZero() {
		v.add("spec.notAfter", "must be set: a grant ends (got nothing)")
	}
	if g.Tenants.Own {
		v.add("spec.tenants.own", "must not be set: a grant is for tenants that are not the principal's own (got true)")
	} else if len(g.Tenants.Names)+len(g.Tenants.Tiers)+len(g.Tenants.Residency)+len(g.Tenants.Labels) == 0 {
		v.add("spec.tenants", "must select tenants by name, tier, residency or label (got all)")
	}
}

// references checks what o names, and what must be unique over all objects.
func (v *validation) references(o *Object) {
	switch o.Kind {
	case KindTenant:
		if _, ok := v.tiers[o.Tenant.Tier]; o.Tenant.Tier != "" && !ok {
			v.add("spec.tier", "must be one of %s (got %q)", strings.Join(slices.Sorted(maps.Keys(v.tiers)), ", "), o.Tenant.Tier)
		}
		if p := o.Status.Placement; p != nil {
			v.exists("status.placement.cell", KindCell, p.Cell)
			if p.Target != "" {
				v.exists("status.placement.target", KindCell, p.Target)
			}
		}
	case KindWorkload:
		for i, id := range o.Workload.SPIFFEIDs {
			v.exists(fmt.Sprintf("spec.spiffeIDs[%d].cell", i), KindCell, id.Cell)
			v.only(fmt.Sprintf("spec.spiffeIDs[%d].id", i), "SPIFFE ID", id.ID)
		}
		for i, expose := range o.Workload.Expose {
			v.only(fmt.Sprintf("spec.expose[%d]", i), "host and path prefix", expose.Host+" "+expose.PathPrefix)
		}
		for i, name := range o.Workload.DependsOn {
			if v.objects[Key{KindDependency, name}] == nil {
				v.exists(fmt.Sprintf("spec.dependsOn[%d]", i), KindWorkload, name)
			}
		}
		if v.names {
			v.identities(o.Metadata.Name, o.Workload)
			v.hosts(o.Workload)
		}
		if o.Workload.BoundTenant != "" {
			v.exists("spec.boundTenant", KindTenant, o.Workload.BoundTenant)
		}
	case KindTokenIssuer:
		v.only("spec.issuer", "issuer", o.TokenIssuer.Issuer)
		for i, name := range o.TokenIssuer.Tenants {
			if name != "*" {
				v.exists(fmt.Sprintf("spec.tenants[%d]", i), KindTenant, name)
			}
		}
	case KindTierPromotion:
		for field, name := range map[string]string{"from": o.TierPromotion.From, "to": o.TierPromotion.To} {
			if _, ok := v.tiers[name]; !ok {
				v.add("spec."+field, "must name a tier that exists (got %q)", name)
			}
		}
	case KindAccessPolicy:
		v.selected(o.AccessPolicy.Tenants, o.AccessPolicy.Targets)
	case KindAccessGrant:
		v.selected(o.AccessGrant.Tenants, o.AccessGrant.Targets)
	case KindAccessInvariant:
		if name := o.AccessInvariant.Workload; name != "" {
			v.exists("spec.workload", KindWorkload, name)
		}
		if name := o.AccessInvariant.Tenant; name != "" {
			v.exists("spec.tenant", KindTenant, name)
		}
	case KindRoleBinding:
		for i, name := range o.RoleBinding.Workloads {
			v.exists(fmt.Sprintf("spec.workloads[%d]", i), KindWorkload, name)
		}
		for i, name := range o.RoleBinding.Tenants {
			v.exists(fmt.Sprintf("spec.tenants[%d]", i), KindTenant, name)
		}
	case KindDependency:
		if v.names {
			v.callable(o.Metadata.Name, o.Dependency)
		}
	case KindRollout:
		if candidate := o.Rollout.Candidate; candidate.Kind == KindAccessPolicy {
			v.selected(candidate.AccessPolicy.Tenants, candidate.AccessPolicy.Targets)
		}
	case KindCell, KindTier, KindMember, KindEndpoint, KindSignerKey, KindMove, KindPosition, KindAuditHead, KindRevocation:
	}
}

func (v *validation) selected(tenants policy.TenantSelector, targets []policy.Target) {
	oneOf(v, "spec.tenants.residency", tenants.Residency, "", "eu")
	for i, name := range tenants.Names {
		v.exists(fmt.Sprintf("spec.tenants.names[%d]", i), KindTenant, name)
	}
	for i, name := range tenants.Tiers {
		if _, ok := v.tiers[name]; !ok {
			v.add(fmt.Sprintf("spec.tenants.tiers[%d]", i), "must name a tier that exists (got %q)", name)
		}
	}
	for i, target := range targets {
		if target.Workload != "*" && target.Workload != "" {
			v.exists(fmt.Sprintf("spec.targets[%d].workload", i), KindWorkload, target.Workload)
		}
	}
}

func (v *validation) exists(path string, kind Kind, name string) {
	if v.objects[Key{kind, name}] == nil {
		v.add(path, "must name a %s that exists (got %q)", kind, name)
	}
}

func (v *validation) only(path, what, value string) {
	if other, ok := v.unique[what+value]; ok {
		v.add(path, "must be the only %s of its value; %v has it too (got %q)", what, other, value)
		return
	}
	v.unique[what+value] = v.at
}
