package cli

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/control"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/ledger/sink"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

func newControl() *cobra.Command {
	var config control.Config
	var receiver string
	roles := map[adminapi.Role]*[]string{}
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run the control plane",
		Args:  command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog()
			if err != nil {
				return err
			}
			if err := config.Keep.Check(); err != nil {
				return usageError("see --usage-minutes, --usage-hours and --usage-days", "%w", err)
			}
			if config.AuditKeep.Files < 0 || config.AuditKeep.FileBytes < 1 {
				return usageError("such as --audit-keep 100 --audit-keep-bytes 67108864", "--audit-keep must be at least 0, and --audit-keep-bytes at least 1 (got %d, %d)", config.AuditKeep.Files, config.AuditKeep.FileBytes)
			}
			if receiver != "" {
				if config.AuditOTLP, err = sink.ParseURL(receiver); err != nil {
					return usageError("such as https://collector.example.org:4318", "--audit-otlp: %w", err)
				}
				if config.AuditHeader, err = sink.ParseHeader(cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS"), os.Getenv("OTEL_EXPORTER_OTLP_HEADERS"))); err != nil {
					return usageError("such as OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20abc", "the environment's OTEL_EXPORTER_OTLP_HEADERS: %w", err)
				}
			}
			config.Log, config.Version, config.Roles = log, command.Version(), adminapi.Roles{}
			for role, patterns := range roles {
				for _, text := range *patterns {
					pattern, err := identity.ParsePattern(text)
					if err != nil {
						return usageError("such as spiffe://example.org/operator/*", "--%s: %w", role, err)
					}
					config.Roles[role] = append(config.Roles[role], pattern)
				}
			}
			return control.Run(cmd.Context(), config, func(a control.Addresses) {
				log.Info("ready", zap.String("xds", a.XDS), zap.String("admin", a.AdminSocket), zap.String("adminTLS", a.Admin), zap.String("metrics", a.Metrics), zap.NamedError("notify", command.Ready()))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.DataDir, "data-dir", "", "folder for the embedded store and the ledger")
	flags.StringVar(&config.TrustDomain, "trust-domain", "", "SPIFFE trust domain, such as example.org")
	flags.StringVar(&config.WorkloadAPI, "workload-api", "", "SPIFFE Workload API, unix:///path (default: $SPIFFE_ENDPOINT_SOCKET)")
	flags.StringVar(&config.AdminSocket, "admin-socket", "", "Unix socket of the admin API (default: admin.sock in the data folder)")
	flags.StringVar(&config.AdminAddress, "admin-address", "", "host:port of the admin API over mTLS (default: none)")
	flags.StringVar(&config.XDSAddress, "xds-address", "127.0.0.1:15010", "host:port of xDS")
	flags.StringVar(&config.MetricsAddress, "metrics-address", "", "host:port of /metrics (default: none)")
	flags.StringSliceVar(&config.Etcd.Endpoints, "etcd-endpoints", nil, "an etcd elsewhere (default: embedded)")
	flags.StringVar(&config.Etcd.CA, "etcd-ca", "", "file with the CA of that etcd")
	flags.StringVar(&config.Etcd.Cert, "etcd-cert", "", "file with the client certificate for that etcd")
	flags.StringVar(&config.Etcd.Key, "etcd-key", "", "file with the client key for that etcd")
	flags.StringSliceVar(&config.KeySources.Hosts, "jwks-host", nil, "host from which token issuers' keys may be fetched, such as login.example.org; may be given again (default: none)")
	flags.BoolVar(&config.KeySources.PlainHTTP, "allow-http-jwks", false, "fetch issuers' keys over plain HTTP too; development only")
	flags.BoolVar(&config.KeySources.Loopback, "allow-loopback-jwks", false, "fetch issuers' keys from this machine too; development only")
	flags.Float64Var(&config.Admission, "admission", server.DefaultAdmission, "how many new streams of sidecars are taken a second; a sidecar has three")
	config.Keep.Defaults()
	flags.DurationVar(&config.Keep.Minutes, "usage-minutes", config.Keep.Minutes, "how long usage is kept by the minute; older, by the hour")
	flags.DurationVar(&config.Keep.Hours, "usage-hours", config.Keep.Hours, "how long usage is kept by the hour; older, by the day")
	flags.DurationVar(&config.Keep.Days, "usage-days", config.Keep.Days, "how long usage is kept at all")
	flags.IntVar(&config.AuditKeep.Files, "audit-keep", 0, "how many files of audit events are kept of a tenant; the oldest go (default 0: all are kept)")
	flags.Int64Var(&config.AuditKeep.FileBytes, "audit-keep-bytes", 64<<20, "size of such a file, in bytes, at which the next is begun")
	flags.StringVar(&receiver, "audit-otlp", "", "OTLP receiver that is told audit events over HTTP, http(s)://host:port[/path] (default: none)")
	flags.DurationVar(&config.Lease, "lease", 15*time.Second, "how long an endpoint outlives its sidecar's stream")
	for _, role := range []adminapi.Role{adminapi.Operator, adminapi.Auditor, adminapi.Sidecar} {
		roles[role] = flags.StringArray(string(role), nil, "SPIFFE pattern of the admin API's "+string(role)+"s; may be given again")
	}
	_ = cmd.MarkFlagRequired("data-dir")
	_ = cmd.MarkFlagRequired("trust-domain")
	return cmd
}

func newCA() *cobra.Command {
	var config devca.Config
	var federate []string
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Run the development CA: a SPIFFE Workload API, not for production",
		Args:  command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog()
			if err != nil {
				return err
			}
			config.Log = log
			for _, text := range federate {
				f, err := devca.ParseFederation(text)
				if err != nil {
					return usageError("such as other.example,https://ca.other.example/bundle", "--federate: %w", err)
				}
				config.Federate = append(config.Federate, f)
			}
			if config.Socket == "" {
				config.Socket = filepath.Join(config.DataDir, "workload-api.sock")
			}
			return devca.Run(cmd.Context(), config, func() {
				log.Info("ready", zap.String("socket", config.Socket), zap.NamedError("notify", command.Ready()))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.DataDir, "data-dir", "", "folder for the authority's key and the registrations")
	flags.StringVar(&config.TrustDomain, "trust-domain", "", "SPIFFE trust domain, such as example.org")
	flags.StringVar(&config.Socket, "socket", "", "Unix socket of the Workload API (default: workload-api.sock in the data folder)")
	flags.DurationVar(&config.TTL, "ttl", time.Hour, "life of an SVID, at least 2s")
	_ = cmd.MarkFlagRequired("data-dir")
	_ = cmd.MarkFlagRequired("trust-domain")
	flags.StringVar(&config.BundleEndpoint, "bundle-endpoint", "", "host:port at which other trust domains fetch this one's bundle (default: none)")
	flags.StringArrayVar(&federate, "federate", nil, "another trust domain, as DOMAIN,URL or DOMAIN,URL,ENDPOINT-ID,BUNDLE-FILE; may be given again")
	cmd.AddCommand(newRegister(), newReplace())
	return cmd
}

func newRegister() *cobra.Command {
	var registration devca.Registration
	var id, socket string
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Entitle a process, or a user, to an SVID",
		Args:  command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if registration.ID, err = identity.ParsePrincipal(id); err != nil {
				return usageError("such as spiffe://example.org/cell/us-1/workload/search", "--id: %w", err)
			}
			if err := devca.NewClient(socket).Register(cmd.Context(), registration); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "registered %s\n", registration.ID)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&socket, "socket", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "Unix socket of the Workload API, a path or unix:///path")
	flags.StringVar(&id, "id", "", "SPIFFE ID")
	flags.IntVar(&registration.PID, "pid", 0, "process, with its descendants (default: any)")
	flags.IntVar(&registration.UID, "uid", os.Getuid(), "user; -1 for any")
	_ = cmd.MarkFlagRequired("id")
	return cmd
}

func newReplace() *cobra.Command {
	var socket string
	steps := []string{string(devca.Prepare), string(devca.Activate), string(devca.Retire)}
	cmd := &cobra.Command{
		Use: "replace STEP", Short: "Replace the authority, one step at a time: prepare, activate, retire", Args: command.Args(cobra.ExactArgs(1)), ValidArgs: steps,
		Long: `Replace the authority. After 'prepare' everybody trusts the next one too; after 'activate' it signs, and everybody gets a new
SVID; after 'retire' nobody trusts the one before. Give everybody a few seconds to follow before the next step. Connections that
were made before stay until they are made anew, at most 10 minutes.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := devca.NewClient(socket).Replace(cmd.Context(), devca.Step(args[0])); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: done\n", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "socket", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "Unix socket of the Workload API, a path or unix:///path")
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), command.Version())
			return nil
		},
	}
}
