package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/demo"
	"github.com/tenantmesh/tenantmesh/internal/command"
)

func newDemo() *cobra.Command {
	var config demo.Config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run AcmeDocs, a small company on a real mesh, on this machine",
		Args:  command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Out = cmd.OutOrStdout()
			return demo.Run(cmd.Context(), config)
		},
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&config.Data, "data", DemoDir(), "folder for the demo's data")
	local := cmd.Flags()
	local.IntVar(&config.GatewayPort, "gateway-port", 8080, "port of the gateway on 127.0.0.1; 0 for a free one")
	local.StringVar(&config.ReadyFile, "ready-file", "", "file to write, as JSON, once all is ready")
	local.BoolVar(&config.Tour, "tour", false, "walk through what the mesh does, and end")
	local.StringVar((*string)(&config.Capture), "capture", string(demo.CaptureAuto), "give each service a host of its own (network namespace) and capture its traffic, else a proxy setting: auto, on, off")
	local.DurationVar(&config.SVIDTTL, "svid-ttl", time.Hour, "life of an SVID, at least 2s")
	cmd.AddCommand(newDemoToken(&config.Data), newDemoIssuer(&config.Data))
	return cmd
}

func newDemoToken(data *string) *cobra.Command {
	var token demo.Token
	cmd := &cobra.Command{
		Use: "token --tenant NAME", Short: "Print a token of the demo's issuer", Args: command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := demo.SignToken(*data, token)
			if err != nil {
				return command.WithHint(err, "run 'tenantmesh demo' first")
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	cmd.Flags().StringVar(&token.Tenant, "tenant", "", "tenant that the token speaks for")
	cmd.Flags().StringVar(&token.Subject, "subject", "alice", "who asks")
	cmd.Flags().DurationVar(&token.TTL, "ttl", time.Hour, "life of the token; negative for an expired one")
	_ = cmd.MarkFlagRequired("tenant")
	return cmd
}

func newDemoIssuer(data *string) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use: "issuer", Short: "Serve the demo issuer's keys", Args: command.Args(cobra.NoArgs), Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return demo.ServeIssuer(cmd.Context(), address, *data) },
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1:0", "host:port")
	return cmd
}

func newDev() *cobra.Command {
	var config demo.DevConfig
	cmd := &cobra.Command{
		Use:   "dev --workload NAME -- PROGRAM [ARGUMENT]...",
		Short: "Run a service that you work on in a mesh of this machine's own",
		Long: `Run a service that you work on in a mesh of this machine's own: a gateway with pretended tenants and their tokens, a sidecar, and a
control plane. Each decision is a line.

The program is started with http_proxy and PORT set, and with its own output. When it ends, everything does, with its exit code.
Of the files it takes workloads, dependencies, policies and tiers as they are; the first cell; and the tenants, moved to that cell.
Without files the workload is exposed at /, and gateways may call it.`,
		Example: `  tenantmesh dev --workload documents -- flask run
  tenantmesh dev --workload documents -f mesh.yaml --beside search=5001 --tenant acme:gold --tenant globex -- flask run`,
		Args: command.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			config.Program, config.Out = args, cmd.OutOrStdout()
			return demo.Dev(cmd.Context(), config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.Data, "data", DemoDir()+"-dev", "folder for the mesh's data")
	flags.StringVar(&config.Workload, "workload", "", "name of the Workload that the program is")
	flags.IntVar(&config.Port, "port", 0, "port on 127.0.0.1 at which the program listens (default: the Workload's, or 5000)")
	flags.IntVar(&config.GatewayPort, "gateway-port", 8080, "port of the gateway on 127.0.0.1; 0 for a free one")
	flags.StringArrayVarP(&config.Files, "file", "f", nil, "YAML file of the mesh, such as the one that is applied elsewhere")
	flags.StringSliceVar(&config.Tenants, "tenant", nil, "pretended tenant, name or name:tier (default: the files', or acme:gold and globex:bronze)")
	flags.StringToStringVar(&config.Beside, "beside", nil, "another Workload of the files that runs here, and its port on 127.0.0.1, such as search=5001")
	_ = cmd.MarkFlagRequired("workload")
	return cmd
}
