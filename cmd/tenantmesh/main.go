// Command tenantmesh runs the control plane, and is the operator's tool for it.
package main

import (
	"os"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/cli"
	"github.com/tenantmesh/tenantmesh/internal/command"
)

func main() { os.Exit(command.Main(cli.Root())) }
