package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// mesh is the demo, as `tenantmesh demo` runs it: real Envoys, real services.
type mesh struct {
	program string
	data    string
	gateway string
	admin   string // its socket
	cmd     *exec.Cmd
	log     *os.File
	tokens  map[string]string
}

// startTime bounds how long the demo may take to be ready.
const startTime = 2 * time.Minute

// start starts the demo with its data in dir.
func start(ctx context.Context, program, dir string) (*mesh, error) {
	log, err := os.Create(filepath.Join(dir, "demo.log"))
	if err != nil {
		return nil, err
	}
	m := &mesh{program: program, data: filepath.Join(dir, "demo"), log: log, tokens: map[string]string{}}
	ready := filepath.Join(dir, "ready.json")
	m.cmd = exec.Command(program, "demo", "--capture", "off", "--gateway-port", "0", "--data", m.data, "--ready-file", ready)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		text, err := os.ReadFile(ready)
		if err == nil {
			var said struct {
				Gateway string `json:"gateway"`
				Admin   string `json:"admin"`
			}
			if err := json.Unmarshal(text, &said); err != nil {
				return nil, errors.Join(err, m.stop())
			}
			m.gateway, m.admin = said.Gateway, said.Admin
			return m, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the demo is not ready; its log is %s: %w", log.Name(), ctx.Err()), m.stop())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (m *mesh) stop() error {
	err := m.cmd.Process.Signal(syscall.SIGINT)
	return errors.Join(err, m.cmd.Wait(), m.log.Close())
}

// run runs a command of the program against the demo.
func (m *mesh) run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.program, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("tenantmesh %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return out.String(), nil
}

// apply applies objects, and waits until all sidecars have them.
func (m *mesh) apply(ctx context.Context, objects string) error {
	_, err := m.run(ctx, objects, "apply", "--admin", m.admin, "--wait", "-f", "-")
	return err
}

// token is a token of the tenant's.
func (m *mesh) token(ctx context.Context, tenant string) (string, error) {
	if token := m.tokens[tenant]; token != "" {
		return token, nil
	}
	token, err := m.run(ctx, "", "demo", "token", "--data", m.data, "--tenant", tenant, "--ttl", "2h")
	m.tokens[tenant] = strings.TrimSpace(token)
	return m.tokens[tenant], err
}

// edit changes the spec of an object.
func (m *mesh) edit(ctx context.Context, kind, name string, change func(spec map[string]any)) (string, error) {
	text, err := m.run(ctx, "", "get", kind, name, "--admin", m.admin, "-o", "json")
	if err != nil {
		return "", err
	}
	var object struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		return "", err
	}
	change(object.Spec)
	object.Metadata = map[string]any{"name": name}
	changed, err := json.Marshal(object)
	return string(changed) + "\n---\n", err
}

// open lets the demo's issuer speak for any tenant, has new ones placed in us-1, and lets documents call the file store.
func (m *mesh) open(ctx context.Context, store *fileStore) error {
	issuer, err := m.edit(ctx, "TokenIssuer", "login", func(spec map[string]any) { spec["tenants"] = []string{"*"} })
	if err != nil {
		return err
	}
	documents, err := m.edit(ctx, "Workload", "documents", func(spec map[string]any) {
		spec["dependsOn"] = []string{"search", "httpbin", "files"}
		spec["admission"] = map[string]any{"min": 4, "max": 10}
	})
	if err != nil {
		return err
	}
	return m.apply(ctx, issuer+documents+fmt.Sprintf(`apiVersion: tenantmesh.dev/v1alpha1
kind: Dependency
metadata: {name: files}
spec: {hosts: [127.0.0.1], port: %d, timeout: 1s}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-2}
spec: {region: us, state: Draining, capacity: {freeCpu: 0.6, freeDbConn: 400, dbConnCap: 500, utilization: 0.4}}
`, store.port))
}
