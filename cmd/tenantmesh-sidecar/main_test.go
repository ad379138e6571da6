package main

import (
	"os"
	"path/filepath"
	"testing"

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
		config.AdminPort != 15000 || config.MetricsPort != 15090 || config.HealthPort != 15021 || config.Address != "127.0.0.1" {
		t.Errorf("the configuration is %+v", config)
	}
}
