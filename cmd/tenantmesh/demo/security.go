package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/tenantmesh/tenantmesh/internal/command"
)

// cli runs a command as an auditor would, and returns what it prints. code is how it may end.
func (d *demo) cli(ctx context.Context, code int, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "TENANTMESH_ADMIN="+d.adminSocket())
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
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
