package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/sidecar"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tenantmesh-sidecar": func() { os.Exit(command.Main(root())) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: filepath.Join("testdata", "script")})
}

// TestFlagsWinOverTheFile: what neither says has its default.
func TestFlagsWinOverTheFile(t *testing.T) {
	cmd := root()
	if err := cmd.ParseFlags([]string{"--role", "gateway", "--gateway-port", "9000"}); err != nil {
		t.Fatal(err)
	}
	config := sidecar.Config{Role: "sidecar", GatewayPort: 1, Control: "file:1", DataDir: "file"}
	keepFlags(cmd, &config, sidecar.Config{Role: "gateway", GatewayPort: 9000, Control: "flag:1"})
	config.Defaults()
	if config.Role != "gateway" || config.GatewayPort != 9000 || config.Control != "file:1" || config.DataDir != "file" || config.InboundPort != 15006 || config.OutboundPort != 15001 ||
		config.AdminPort != 15000 || config.MetricsPort != 15090 || config.HealthPort != 15021 || config.Address != "127.0.0.1" || config.MoverAddress != "127.0.0.1" || config.Concurrency != runtime.GOMAXPROCS(0) {
		t.Errorf("the configuration is %+v", config)
	}
}

// TestOneWorkerBesideAService: a service's machine is the service's.
func TestOneWorkerBesideAService(t *testing.T) {
	config := sidecar.Config{Role: "sidecar"}
	if config.Defaults(); config.Concurrency != 1 {
		t.Errorf("%d workers", config.Concurrency)
	}
}

// TestFile: a file may say all that flags may, durations as "5m", and nothing that there is not.
func TestFile(t *testing.T) {
	config := sidecar.Config{Drain: 10 * time.Second}
	err := read([]byte(`
role: gateway
controlAPI: a:1,b:2
maxBody: 5
moverAddress: 10.0.0.1
concurrency: 3
maxGrantAge: 2m
dataCommands: {export: [tar, c], import: [tar, x]}
`), &config)
	if err != nil || config.Role != "gateway" || config.ControlAPI != "a:1,b:2" || config.MaxBody != 5 || config.MoverAddress != "10.0.0.1" || config.Concurrency != 3 || config.Drain != 10*time.Second ||
		config.Staleness.Grants != 2*time.Minute || config.Staleness.Issuers != 0 || len(config.DataCommands.Export) != 2 {
		t.Errorf("the configuration is %+v, %v", config, err)
	}
	for text, want := range map[string]string{"drain: 5": `must be written as "5m"`, "drain: -5s": "must be over 0", "drian: 5s": "drian", "drain: soon": "soon"} {
		if err := read([]byte(text), &sidecar.Config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
