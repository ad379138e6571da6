package deploy

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// target is what an image is.
type target struct {
	base, user  string
	ports       []string
	command     []string // entry point, and what follows it by default
	environment map[string]string
	files       map[string]string // owner by path, "" for root
}

// targets reads the Dockerfile as BuildKit does.
func targets(t *testing.T) map[string]target {
	t.Helper()
	file, err := os.Open("container/Dockerfile")
	check(t, err)
	defer file.Close()
	parsed, err := parser.Parse(file)
	check(t, err)
	if len(parsed.Warnings) > 0 {
		t.Errorf("warnings: %v", parsed.Warnings)
	}
	stages, arguments, err := instructions.Parse(parsed.AST, nil)
	check(t, err)
	bases := map[string]bool{}
	for _, a := range arguments {
		for _, pair := range a.Args {
			bases["${"+pair.Key+"}"] = pair.Value != nil
		}
	}
	found := map[string]target{}
	for _, stage := range stages {
		if !bases[stage.BaseName] {
			t.Errorf("stage %s: its base, %s, must be an ARG with a default, which can be pinned", stage.Name, stage.BaseName)
		}
		found[stage.Name] = read(stage)
	}
	return found
}

func read(stage instructions.Stage) target {
	r := target{base: stage.BaseName, environment: map[string]string{}, files: map[string]string{}}
	var entry, rest []string
	for _, command := range stage.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			r.user = c.User
		case *instructions.ExposeCommand:
			r.ports = append(r.ports, c.Ports...)
		case *instructions.EntrypointCommand:
			entry = c.CmdLine
		case *instructions.CmdCommand:
			rest = c.CmdLine
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				r.environment[pair.Key] = pair.Value
			}
		case *instructions.CopyCommand:
			r.files[c.DestPath] = c.Chown
		}
	}
	r.command = slices.Concat(entry, rest)
	return r
}

// TestDockerfile: each image has its user, ports and programs as the other two forms have them, and no shell but capture's.
func TestDockerfile(t *testing.T) {
	images := targets(t)
	for name, want := range map[string]target{
		"control": {
			base: "${STATIC_IMAGE}", user: "65532:65532", ports: []string{"15010", "15014"}, command: []string{"/usr/local/bin/tenantmesh", "control", "--help"},
			environment: map[string]string{"TENANTMESH_ADMIN": "/var/lib/tenantmesh/admin.sock"},
			files:       map[string]string{"/usr/local/bin/tenantmesh": "", "/var/lib/tenantmesh": "65532:65532"},
		},
		"capture": {
			base: "${DEBIAN_IMAGE}", user: "0:0", command: []string{"/usr/local/bin/tenantmesh-sidecar", "capture", "install", "--uid", "1337"},
			files: map[string]string{"/usr/local/bin/tenantmesh-sidecar": ""},
		},
		"sidecar": {
			base: "${BASE_IMAGE}", user: "1337:1337", ports: []string{"15001", "15002", "15006", "15021", "15090"},
			command:     []string{"/usr/local/bin/tenantmesh-sidecar", "--data-dir", "/var/lib/tenantmesh-sidecar"},
			environment: map[string]string{"TENANTMESH_ENVOY": "/usr/local/lib/tenantmesh/envoy"},
			files:       map[string]string{"/usr/local/bin/tenantmesh-sidecar": "", "/usr/local/lib/tenantmesh/envoy": "", "/var/lib/tenantmesh-sidecar": "1337:1337"},
		},
	} {
		have, ok := images[name]
		if !ok {
			t.Errorf("there is no target %s", name)
			continue
		}
		if have.base != want.base || have.user != want.user || !slices.Equal(have.ports, want.ports) || !slices.Equal(have.command, want.command) || !maps.Equal(have.environment, want.environment) || !maps.Equal(have.files, want.files) {
			t.Errorf("%s is %+v, want %+v", name, have, want)
		}
		known(t, name, have.command)
	}
	text, err := os.ReadFile("container/Dockerfile")
	check(t, err)
	for _, want := range []string{"COPY tools/envoy.txt /\n", "--require-hashes"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("Envoy must be the pinned one: there is no %q", want)
		}
	}
}
