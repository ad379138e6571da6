package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// DevConfig says how one service of a team's runs in a mesh of this machine's own.
type DevConfig struct {
	Data        string
	GatewayPort int // 0: a free one
	Workload    string
	Port        int               // where the service listens on 127.0.0.1; 0: the Workload's, or 5000
	Files       []string          // of the mesh: Workloads, AccessPolicies and so on
	Tenants     []string          // "name" or "name:tier", over those of Files
	Beside      map[string]string // other Workloads that run on this machine, and their ports
	Program     []string          // and its arguments
	Out         io.Writer
}

// devPort is where "flask run" listens.
const devPort = 5000

// Dev runs a service, its program, between a sidecar and a gateway until it ends or ctx does, and prints each decision.
func Dev(ctx context.Context, config DevConfig) error {
	m, err := config.mesh()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(config.Program[0]); err != nil {
		return command.Fail(command.Usage, "say the program and its arguments after --", "%w", err)
	}
	d := &demo{
		Config: Config{Data: config.Data, GatewayPort: config.GatewayPort, SVIDTTL: time.Hour, Out: &lines{to: config.Out}, Capture: CaptureOff},
		domain: m.domain, http: newClient(),
	}
	stop, err := d.open()
	if err != nil {
		return err
	}
	defer stop()
	if err := d.starting(ctx, func(ctx context.Context) error { return d.startDev(ctx, m) }); err != nil || ctx.Err() != nil {
		return err
	}
	service, err := d.startService(m)
	if err != nil {
		return err
	}
	go d.watchPort(ctx, m)
	unfollow := d.follow(m)
	d.devHints(m)
	select {
	case <-ctx.Done():
	case <-service.done:
		err = ended(service)
	case err = <-d.processes.died:
	}
	d.processes.StopAll(grace)
	unfollow() // they have told all
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ended is how a program ended, as this one's own end.
func ended(p *process) error {
	state := p.cmd.ProcessState
	code := state.ExitCode()
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal()) // as shells do
	}
	if code == 0 {
		return nil
	}
	return command.Fail(code, "", "%s: %s", p.Path, state)
}

// devMesh is the mesh around a service.
type devMesh struct {
	DevConfig
	domain  string
	cell    string
	objects []*tenantstore.Object
	tenants []string
	ports   map[string]int // of the workloads that run here
	proxy   int            // port
	prefix  string         // of the workload's paths at the gateway
}

const devDefaults = `
apiVersion: tenantmesh.dev/v1alpha1
kind: TokenIssuer
metadata: {name: login}
spec: {issuer: "` + issuerName + `", audiences: [` + issuerAudience + `], jwks: {uri: "http://127.0.0.1/jwks.json"}, tenants: ["*"]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: local}
spec: {region: local, capacity: {freeCpu: 0.9, freeDbConn: 500, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: service}
spec: {expose: [{pathPrefix: /}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://dev.example/gateway/*"], targets: [{workload: service}]}
`

// mesh is what is applied: what the files say of workloads, dependencies and policies; their tenants or pretend ones, all in the one cell
// that there is; and an issuer of this machine. Every problem of the configuration is told at once.
func (c DevConfig) mesh() (*devMesh, error) {
	m := &devMesh{DevConfig: c, ports: map[string]int{}}
	var problems []error
	given := map[tenantstore.Kind]map[string]*tenantstore.Object{}
	for _, name := range c.Files {
		file, err := os.Open(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		documents, err := tenantstore.DecodeYAML(name, file)
		problems = append(problems, err, file.Close())
		for _, document := range documents {
			o := document.Object
			if given[o.Kind] == nil {
				given[o.Kind] = map[string]*tenantstore.Object{}
			}
			if o.Kind == tenantstore.KindCell && len(given[o.Kind]) > 0 {
				continue // the first one is that of this machine
			}
			given[o.Kind][o.Metadata.Name] = o
		}
	}
	defaults, err := tenantstore.DecodeYAML("", strings.NewReader(devDefaults))
	if err != nil {
		return nil, err
	}
	issuer, cell, workload, permit := defaults[0].Object, defaults[1].Object, defaults[2].Object, defaults[3].Object
	for _, o := range given[tenantstore.KindCell] {
		cell = o
	}
	cell.Cell.Residency, cell.Cell.Pool = "", ""
	m.cell, m.domain = cell.Metadata.Name, "dev.example"
	for _, o := range given[tenantstore.KindAccessPolicy] {
		for _, text := range o.AccessPolicy.Principals {
			if rest, ok := strings.CutPrefix(text, "spiffe://"); ok {
				m.domain, _, _ = strings.Cut(rest, "/")
			}
		}
	}
	if o := given[tenantstore.KindWorkload][c.Workload]; o != nil {
		workload = o
	}
	workload.Metadata.Name = c.Workload
	for _, e := range workload.Workload.Expose {
		m.prefix = strings.TrimSuffix(e.PathPrefix, "/")
	}
	m.objects = append(m.objects, issuer, cell, workload)
	for _, kind := range []tenantstore.Kind{tenantstore.KindTier, tenantstore.KindWorkload, tenantstore.KindDependency, tenantstore.KindAccessPolicy, tenantstore.KindAccessInvariant} {
		for _, o := range given[kind] {
			if o != workload {
				m.objects = append(m.objects, o)
			}
		}
	}
	if len(given[tenantstore.KindAccessPolicy]) == 0 {
		permit.AccessPolicy.Principals = []string{"spiffe://" + m.domain + "/gateway/*"}
		permit.AccessPolicy.Targets = []policy.Target{{Workload: c.Workload}}
		m.objects = append(m.objects, permit)
	}
	tenants := c.Tenants
	for name, o := range given[tenantstore.KindTenant] {
		tenants = append(tenants, name+":"+o.Tenant.Tier)
	}
	if len(tenants) == 0 {
		tenants = []string{"acme:gold", "globex:bronze"}
	}
	for _, text := range tenants {
		o, err := devTenant(text, cell.Cell.Region, given[tenantstore.KindTenant])
		if err != nil {
			problems = append(problems, err)
		} else if !slices.Contains(m.tenants, o.Metadata.Name) {
			m.objects, m.tenants = append(m.objects, o), append(m.tenants, o.Metadata.Name)
		}
	}
	slices.Sort(m.tenants)
	issuer.TokenIssuer.Tenants = m.tenants
	m.ports[c.Workload] = c.Port
	if c.Port == 0 {
		m.ports[c.Workload] = max(workload.Workload.Port, 0)
	}
	if m.ports[c.Workload] == 0 {
		m.ports[c.Workload] = devPort
	}
	for name, text := range c.Beside {
		port, err := strconv.Atoi(text)
		if err != nil || port < 1 || port > 65535 {
			problems = append(problems, fmt.Errorf("--beside %s must name a port, 1 to 65535 (got %q)", name, text))
		}
		if given[tenantstore.KindWorkload][name] == nil {
			problems = append(problems, fmt.Errorf("--beside %s must be a Workload of a file (-f)", name))
		}
		m.ports[name] = port
	}
	if _, err := identity.WorkloadID(m.domain, m.cell, c.Workload); err != nil {
		problems = append(problems, fmt.Errorf("--workload: %w", err))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, command.Fail(command.BadData, "", "%w", err)
	}
	return m, nil
}

// devTenant is a tenant that this machine's one cell can have.
func devTenant(text, region string, given map[string]*tenantstore.Object) (*tenantstore.Object, error) {
	name, tier, ok := strings.Cut(text, ":")
	if _, err := identity.ParseTenantID(name); err != nil {
		return nil, fmt.Errorf("--tenant: %w", err)
	}
	if !ok {
		tier = "gold"
	}
	o := given[name]
	if o == nil {
		o = &tenantstore.Object{APIVersion: tenantstore.APIVersion, Kind: tenantstore.KindTenant, Metadata: tenantstore.Metadata{Name: name}, Tenant: &tenantstore.TenantSpec{}}
	}
	if o.Tenant.Tier = tier; tier == "platinum" { // it would need a cell of its own
		o.Tenant.Tier = "gold"
	}
	o.Tenant.Region, o.Tenant.Residency = region, ""
	return o, nil
}

// startDev starts the mesh around the service.
func (d *demo) startDev(ctx context.Context, m *devMesh) error {
	if err := d.startBase(ctx, 4+6*len(m.ports)); err != nil {
		return err
	}
	for _, o := range m.objects {
		if o.TokenIssuer != nil {
			o.TokenIssuer.JWKS = tenantstore.JWKS{URI: d.issuer}
		}
	}
	if _, err := d.admin.Apply(ctx, m.objects, false); err != nil {
		return err
	}
	d.progress("starting the gateway, and the sidecar of %s", m.Workload)
	if err := d.startGateway(ctx); err != nil {
		return err
	}
	for name, port := range m.ports {
		w, err := d.at(ctx, m.cell, name, d.sidecar)
		if err != nil {
			return err
		}
		if w.service = port; name == m.Workload {
			m.proxy = w.outbound
		}
		if err := d.startSidecar(ctx, m.cell, name, w); err != nil {
			return err
		}
	}
	return d.untilReady(ctx)
}

// startService starts the program.
func (d *demo) startService(m *devMesh) (*process, error) {
	path, err := exec.LookPath(m.Program[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, err
	}
	return d.processes.Start(spec{
		Name: m.Workload, Role: "service", Path: path, Args: m.Program[1:], Out: d.Out, Forks: true,
		Env: []string{"http_proxy=http://" + loopback(m.proxy), "PORT=" + strconv.Itoa(m.ports[m.Workload])},
	})
}

// watchPort says so when nothing listens where the service should.
func (d *demo) watchPort(ctx context.Context, m *devMesh) {
	for name, port := range m.ports {
		for tries := 0; ; tries++ {
			conn, err := net.DialTimeout("tcp", loopback(port), time.Second)
			if err == nil {
				_ = conn.Close()
				break
			}
			if tries == 50 {
				d.progress("%s must listen at %s, and nothing does yet: name its port by --port, or --beside", name, loopback(port))
			}
			if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
				return
			}
		}
	}
}

// devHints prints what to do with it.
func (d *demo) devHints(m *devMesh) {
	d.progress("\n%s is in a mesh of its own, behind %s%s. Its tenants are pretended:\n", m.Workload, d.gateway(), m.prefix)
	for _, tenant := range m.tenants {
		d.progress("  %s=$(%s demo token --data %s --tenant %s)", strings.ToUpper(strings.ReplaceAll(tenant, "-", "_")), os.Args[0], d.Data, tenant)
	}
	first := strings.ToUpper(strings.ReplaceAll(m.tenants[0], "-", "_"))
	d.progress(`  curl -i -H "Authorization: Bearer $%s" %s%s/
  export TENANTMESH_ADMIN=%s     # for tenantmesh explain, get, apply, coverage

Each decision is a line here. Ctrl-C stops everything.
`, first, d.gateway(), m.prefix, d.adminSocket())
}
