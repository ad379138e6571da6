package matrix

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// kind is a sort of service.
type kind struct {
	name         string
	instrumented bool
	mixes        bool // requests up: the test must see it
	start        func(port string) []string
	needs        func(*testing.T) // skips what cannot run here; nil: it can, wherever 'make tools' can
}

// plan is what the first of the two services of a kind does for a request; the second one calls in turn, once.
var plan = []string{"TURNS=2", "TASKS=2", "BARE=1"}

// perRequest is how many calls a request makes by plan when all but the bare one are proven: each of four, and what that calls.
const perRequest = 2*4 + 1

// quiet has agents export nothing.
var quiet = []string{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none"}

func env(of []string, program ...string) []string {
	return append(append([]string{"env"}, of...), program...)
}

func kinds(t *testing.T) []kind {
	t.Helper()
	here, err := filepath.Abs("../../examples/matrix")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "gohttp")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = filepath.Join(here, "gohttp")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	gunicorn := func(port string) []string {
		return []string{meshtest.VenvBin(t, "gunicorn"), "--chdir", filepath.Join(here, "flask"), "--workers", "2", "--threads", "32", "--keep-alive", "75", "--bind", "127.0.0.1:" + port, "--log-level", "warning", "app:app"}
	}
	agent := func(program string, args []string) []string {
		return env(quiet, append([]string{meshtest.Tool(t, program)}, args...)...)
	}
	uvicorn := func(port string) []string {
		return []string{meshtest.Tool(t, "fastapi/bin/uvicorn"), "--app-dir", filepath.Join(here, "fastapi"), "--workers", "2", "--timeout-keep-alive", "75", "--timeout-graceful-shutdown", "1", "--port", port, "--log-level", "warning", "app:app"}
	}
	express := func(port string, options ...string) []string {
		node := append(append([]string{"node"}, options...), filepath.Join(here, "express", "server.js"), port)
		return env([]string{"NODE_PATH=" + meshtest.Tool(t, "express/node_modules"), "OTEL_NODE_RESOURCE_DETECTORS=none"}, env(quiet, node...)...)
	}
	classes := t.TempDir()
	java := func(port string, options ...string) []string {
		options = append(options, "-Dhttp.proxyHost=127.0.0.1", "-Dhttp.proxyPort=${http_proxy##*:}", "-Dsun.net.httpserver.idleInterval=75", "-Dsun.net.httpserver.maxIdleConnections=1000")
		return env(quiet, "sh", "-c", `export JAVA_TOOL_OPTIONS="`+strings.Join(options, " ")+`"; exec java -cp "$0" Service "$1"`, classes, port)
	}
	needsJava := func(t *testing.T) {
		t.Helper()
		var release int
		version, err := exec.Command("javac", "-version").Output()
		if err != nil {
			t.Skip("skipped: there is no Java compiler")
		}
		if _, err := fmt.Sscanf(string(version), "javac %d", &release); err != nil || release < 17 {
			t.Skipf("skipped: Java must be 17 or newer (it is %s)", strings.TrimSpace(string(version)))
		}
		needsTool(t, "java/agent.jar", "Maven")
		if out, err := exec.Command("javac", "--release", "17", "-d", classes, filepath.Join(here, "javahttp", "Service.java")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return []kind{
		{"Flask, opentelemetry-instrument", true, false, func(port string) []string { return agent("venv/bin/opentelemetry-instrument", gunicorn(port)) }, nil},
		{"Flask", false, false, gunicorn, nil},
		{"FastAPI, opentelemetry-instrument", true, false, func(port string) []string { return agent("fastapi/bin/opentelemetry-instrument", uvicorn(port)) }, nil},
		{"FastAPI", false, false, uvicorn, nil},
		{"Express, auto-instrumentations-node", true, false, func(port string) []string {
			return express(port, "--require", "@opentelemetry/auto-instrumentations-node/register")
		}, needsNode},
		{"Express", false, false, func(port string) []string { return express(port) }, needsNode},
		{"Java, javaagent", true, false, func(port string) []string { return java(port, "-javaagent:"+meshtest.Tool(t, "java/agent.jar")) }, needsJava},
		{"Java", false, false, func(port string) []string { return java(port) }, needsJava},
		{"Go, otelhttp", true, false, func(port string) []string { return []string{"env", "INSTRUMENTED=1", binary, port} }, nil},
		{"Go", false, false, func(port string) []string { return []string{binary, port} }, nil},
		{"Go, otelhttp, requests mixed up", true, true, func(port string) []string { return []string{"env", "INSTRUMENTED=1", "MIX=1", binary, port} }, nil},
	}
}

func needsNode(t *testing.T) {
	t.Helper()
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Skip("skipped: there is no Node.js")
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(version), "v%d.%d.", &major, &minor); err != nil || major < 18 || major == 18 && minor < 19 || major == 19 || major == 20 && minor < 6 {
		t.Skipf("skipped: Node.js must be 18.19, 20.6 or newer for the agent (it is %s)", strings.TrimSpace(string(version)))
	}
	needsTool(t, "express/done", "npm")
}

// needsTool skips what 'make tools' did not install, because a program was not there.
func needsTool(t *testing.T, path, without string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("../../.tools", path)); err != nil {
		t.Skipf("skipped: .tools/%s is not there: 'make tools' needs %s", path, without)
	}
}
