// Package cli is the command line of the control plane: flags -> config -> Run, and the operator's verbs.
//
// It imports the rooms that its verbs name, and internal/command.
package cli

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
)

// EnvAdmin is the environment variable that names the control plane's admin socket.
const EnvAdmin = "TENANTMESH_ADMIN"

// Root is the whole command line.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tenantmesh",
		Short: "Tenancy as a property of the mesh",
		Long:  "tenantmesh runs the control plane, and is the operator's tool for it.",
		Args:  command.Args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newControl(), newCA(), newDemo(), newDev(), newApply(), newGet(), newDelete(), newTenant(), newCell(), newMember(), newRevoke(), newRollout(), newValidate(), newTranslate(), newStatus(), newExplain(), newPolicy(), newUsage(), newTop(), newCoverage(), newSLO(), newAudit(), newGrant(), newRoles(), newInject(), newVersion())
	return root
}

// DefaultAdmin is where the demo's control plane listens, unless the environment names another.
func DefaultAdmin() string {
	if path := os.Getenv(EnvAdmin); path != "" {
		return path
	}
	return filepath.Join(DemoDir(), "control", "admin.sock")
}

// DemoDir is where the demo keeps its data.
func DemoDir() string {
	return filepath.Join(os.TempDir(), "tenantmesh-demo-"+strconv.Itoa(os.Getuid()))
}

// addAdmin adds the flag that names the control plane; the function makes the client once flags are parsed.
func addAdmin(cmd *cobra.Command) func() *adminclient.Client {
	path := cmd.Flags().String("admin", DefaultAdmin(), "Unix socket of the control plane, or https://host:port of it over mTLS ($"+EnvAdmin+")")
	return func() *adminclient.Client { return adminclient.New(*path) }
}

func newLog() (*zap.Logger, error) { return zap.NewProduction() }
