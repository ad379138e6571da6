package cli

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

func newRoles() *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use: "roles", Short: "Who holds which role, on what, and by what", Args: command.Args(cobra.NoArgs),
		Long: `Show every holder of a role: operators, auditors and sidecars by the flags of this control plane, the users whom its socket takes for
operators, and the app teams and tenants' admins that RoleBindings name. With ALL, a role is confined to nothing; others may write the
AccessPolicies and AccessGrants about what is theirs, and see it.`,
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		holders, err := client().Roles(cmd.Context())
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), holders, func(w io.Writer) {
			rows := make([][]string, len(holders))
			for i, h := range holders {
				rows[i] = []string{h.Role, scopeText(&h), strings.Join(h.Principals, ", "), h.By}
			}
			columns(w, []string{"ROLE", "ON", "WHO", "BY"}, rows)
		})
	}
	addOutput(cmd, &format)
	return cmd
}

// scopeText says what a role is confined to.
func scopeText(h *adminapi.RoleHolder) string {
	var parts []string
	for _, list := range []struct {
		kind  string
		names []string
	}{{"workload", h.Workloads}, {"tenant", h.Tenants}} {
		for _, name := range list.names {
			parts = append(parts, list.kind+"/"+name)
		}
	}
	return either(strings.Join(parts, ", "), "ALL")
}
