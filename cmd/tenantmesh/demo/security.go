package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
)

// cli runs a command as the operator of this machine, and returns what it prints. code is how it may end.
func (d *demo) cli(ctx context.Context, code int, args ...string) (string, error) {
	return d.cliAs(ctx, "", code, args...)
}

// cliAs runs a command as somebody who is elsewhere, and shows the admin API an SVID; as "" by its socket.
func (d *demo) cliAs(ctx context.Context, who string, code int, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "TENANTMESH_ADMIN="+d.adminSocket())
	if who != "" {
		cmd.Env = append(os.Environ(), "TENANTMESH_ADMIN=https://"+d.remote, "SPIFFE_ENDPOINT_SOCKET=unix://"+d.workloadAPI())
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		return "", err
	}
	if who != "" {
		id, err := identity.ParsePrincipal("spiffe://" + trustDomain + "/person/" + who)
		if err == nil {
			err = d.ca.Register(ctx, devca.Registration{ID: id, PID: cmd.Process.Pid, UID: os.Getuid()})
		}
		if err != nil {
			return "", errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != code {
		return "", fmt.Errorf("tenantmesh %s: %w: %s", strings.Join(args, " "), errors.Join(err, ctx.Err()), said.String())
	}
	return out.String(), nil
}

// showWhoCan asks who may act for acme at search: the policies of the mesh that runs answer.
func (d *demo) showWhoCan(ctx context.Context) (string, error) {
	text, err := d.cli(ctx, 0, "policy", "who-can", "--tenant", "acme", "--workload", "search", "-o", "json")
	if err != nil {
		return "", err
	}
	var answer struct {
		Allowed []struct {
			Rules      []string `json:"rules"`
			Principals struct {
				Of []string `json:"of"`
			} `json:"principals"`
		} `json:"allowed"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return "", err
	}
	var who []string
	for _, c := range answer.Allowed {
		who = append(who, strings.ReplaceAll(strings.Join(c.Principals.Of, " "), "spiffe://"+trustDomain, "")+" by "+strings.Join(c.Rules, " "))
	}
	found := strings.Join(who, ", ")
	if found != "/cell/*/workload/documents by documents-search, /gateway/* by gateways" {
		return "", fmt.Errorf("it says %q: %s", found, text)
	}
	return found, nil
}

// wider lets documents call httpbin for acme, too.
const wider = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: documents-httpbin}
spec:
  effect: Permit
  principals: ["spiffe://acmedocs.example/cell/*/workload/documents"]
  tenants: {names: [acme]}
  targets: [{workload: httpbin, methods: [GET], paths: [/headers]}]
`

// showDiff is a change of policy, as its reviewer sees it.
func (d *demo) showDiff(ctx context.Context) (string, error) {
	now := d.path("apps", "mesh.yaml")
	text, err := os.ReadFile(now)
	if err != nil {
		return "", err
	}
	changed := d.path("changed.yaml")
	if err := os.WriteFile(changed, append(text, wider...), 0o600); err != nil {
		return "", err
	}
	out, err := d.cli(ctx, int(command.Findings), "policy", "diff", now, changed)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, "documents-httpbin") && strings.Contains(out, "newly allowed") && !strings.Contains(out, "newly refused") {
			return "newly allowed: " + strings.Join(strings.Fields(strings.ReplaceAll(line, "spiffe://"+trustDomain, "")), " "), nil
		}
	}
	return "", fmt.Errorf("the change is not shown: %s", out)
}

// showGrant lets documents read from httpbin for acme, for an hour and for a reason, once somebody else than who asks for it
// says so; and reads the trail that this leaves.
func (d *demo) showGrant(ctx context.Context) (string, error) {
	const reason = "ticket 7"
	use := call{path: "/documents/debug/httpbin?reason=" + url.QueryEscape(reason), tenant: "acme"}
	ask := []string{
		"grant", "ask", "ticket-7", "--principal", "spiffe://" + trustDomain + "/cell/us-1/workload/documents",
		"--tenant", "acme", "--workload", "httpbin", "--reason", reason, "--for", "1h",
	}
	if _, err := d.cli(ctx, 0, ask...); err != nil {
		return "", err
	}
	r, err := d.request(ctx, use)
	if err != nil {
		return "", err
	}
	if err := expect(r, 403, "denied_by_policy"); err != nil {
		return "", fmt.Errorf("before it is approved: %w", err)
	}
	if _, err := d.cliAs(ctx, "carol", 0, "grant", "approve", "ticket-7"); err != nil {
		return "", err
	}
	if err := until(ctx, "the grant", func() error {
		r, err := d.request(ctx, use)
		if err == nil {
			err = expect(r, 200, "")
		}
		return err
	}); err != nil {
		return "", err
	}
	var report trail.Report
	if err := until(ctx, "the trail", func() error {
		text, err := d.cli(ctx, 0, "audit", "report", "--tenant", "acme", "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(text), &report)
		}
		if err == nil && (len(report.Grants) != 1 || len(report.Into) == 0) {
			err = fmt.Errorf("it has %d grants, and %d sorts of refusals", len(report.Grants), len(report.Into))
		}
		return err
	}); err != nil {
		return "", err
	}
	g := report.Grants[0]
	if !slices.Equal(g.Purposes, []string{reason}) || len(report.Gaps)+len(report.Problems) > 0 {
		return "", fmt.Errorf("the report says %+v", report)
	}
	refused := int64(0)
	for _, r := range report.Into {
		refused += r.Count
	}
	return fmt.Sprintf("403 until carol approves, then 200; acme's trail has %d x %q, %d refusals of what would have crossed, and no gap", g.Count, reason, refused), nil
}
