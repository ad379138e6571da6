// Command tenantmesh-sidecar runs beside an Envoy, as a gateway or beside one workload. It links no store.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/sidecar"
)

// gcPercent trades memory for CPU: a decision leaves a few KiB of garbage beside a small heap, which Go's default would
// collect many times a second.
const gcPercent = 400

func main() { os.Exit(command.Main(root())) }

func root() *cobra.Command {
	var config sidecar.Config
	var file string
	var execute bool
	cmd := &cobra.Command{
		Use:     "tenantmesh-sidecar [--exec -- PROGRAM [ARGUMENT]...]",
		Short:   "Enforce tenancy beside an Envoy",
		Version: command.Version(),
		Args: command.Args(func(cmd *cobra.Command, args []string) error {
			switch {
			case !execute && len(args) > 0:
				return fmt.Errorf("a program to run needs --exec (got %q)", args)
			case execute && len(args) == 0:
				return fmt.Errorf("--exec must be followed by -- and the program to run")
			}
			return nil
		}),
		Long: `Enforce tenancy beside an Envoy, as a gateway or as one workload's sidecar.

With --exec it runs the service as its child: once the sidecar is ready, with http_proxy set to it unless --capture is, or http_proxy already is.
SIGTERM first keeps new requests out, then ends the service, whose calls go through until it is gone; other signals are handed on. When the
service ends, so does the sidecar, with its exit code.`,
		Example: `  tenantmesh-sidecar --config sidecar.yaml
  tenantmesh-sidecar --config sidecar.yaml --exec -- flask run --port 5000`,
	}
	cmd.AddCommand(captureCommand())
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "YAML file with these settings; flags win")
	flags.BoolVar(&execute, "exec", false, "run the program after -- beside this sidecar, and end with it")
	flags.StringVar(&config.Role, "role", "sidecar", "gateway or sidecar")
	flags.StringVar(&config.Control, "control", "", "host:port of the control plane's xDS; several with commas between")
	flags.StringVar(&config.ControlAPI, "control-api", "", "host:port of the control plane's admin API, polled while nothing can be pushed; several with commas between (default: none)")
	flags.StringVar(&config.WorkloadAPI, "workload-api", "", "SPIFFE Workload API, unix:///path (default: $SPIFFE_ENDPOINT_SOCKET)")
	flags.StringVar(&config.DataDir, "data-dir", "", "folder for the member's ID, its signing key and the last good state")
	flags.StringVar(&config.Address, "address", "127.0.0.1", "IP address of the listener that peers or clients reach, and of /metrics and health")
	flags.IntVar(&config.ServicePort, "service-port", 0, "port of the service on 127.0.0.1 (default: the Workload's)")
	flags.IntVar(&config.GatewayPort, "gateway-port", 0, "port of a gateway's listener (default 8080)")
	flags.IntVar(&config.InboundPort, "inbound-port", 0, "port of the inbound listener (default 15006)")
	flags.IntVar(&config.OutboundPort, "outbound-port", 0, "port of the outbound proxy on 127.0.0.1 (default 15001)")
	flags.IntVar(&config.AdminPort, "admin-port", 0, "port of Envoy's admin on 127.0.0.1 (default 15000)")
	flags.IntVar(&config.MetricsPort, "metrics-port", 0, "port of /metrics (default 15090)")
	flags.IntVar(&config.HealthPort, "health-port", 0, "port of /livez and /readyz (default 15021)")
	flags.BoolVar(&config.Capture, "capture", false, "take the calls that 'capture install' sends here (docs/capture.md)")
	flags.IntVar(&config.CapturedPort, "captured-port", 0, "port of the listener for captured calls, on the loopback addresses (default 15002)")
	flags.StringVar(&config.HostsFile, "hosts-file", "", "with --capture: the hosts file of the service, in which the names that it may call are kept (default: none)")
	flags.StringVar(&config.ProbePath, "probe-path", "", "path of the service's health, which /probe on the health port asks for without a tenant (default: no /probe)")
	flags.IntVar(&config.MoverPort, "mover-port", 0, "port of a gateway at which other gateways send it the writes of tenants that it moves (default 15008)")
	flags.StringVar(&config.MoverAddress, "mover-address", "", "IP address of a gateway's mover port, which only gateways of the mesh may use (default: --address; must be set where that is 0.0.0.0 or ::)")
	flags.IntVar(&config.Concurrency, "concurrency", 0, "worker threads of Envoy (default: 1, of a gateway one a CPU)")
	flags.Int64Var(&config.MaxBody, "max-body", 0, "bytes that a request of a tenant that moves may have (default 64 MiB)")
	flags.StringVar(&config.RateLimitAddress, "ratelimit-address", "", "host:port at which Envoys that are not the mesh's may ask the rate limit service, over mTLS (default: none)")
	flags.StringSliceVar(&config.RateLimitClients, "ratelimit-clients", nil, "SPIFFE patterns of who may ask there")
	for name, command := range map[string]*[]string{"export": &config.DataCommands.Export, "import": &config.DataCommands.Import, "delete": &config.DataCommands.Delete} {
		flags.Func("data-"+name, "command, with its arguments after spaces, that moves a tenant's data: "+name+" (where the Workload says tenantData.commands)", func(text string) error {
			*command = strings.Fields(text)
			return nil
		})
	}
	flags.DurationVar(&config.Drain, "drain", 10*time.Second, "how long open requests have after SIGTERM")
	flags.DurationVar(&config.Staleness.Grants, "max-grant-age", 5*time.Minute, "how long AccessGrants, and Forbids in Shadow mode as mere observers, hold while the control plane is out of reach")
	flags.DurationVar(&config.Staleness.Issuers, "max-issuer-age", 24*time.Hour, "how long token issuers' keys are trusted while the control plane is out of reach")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			fromFlags := config
			if err := read(text, &config); err != nil {
				return command.Fail(command.BadData, "", "%s: %w", file, err)
			}
			keepFlags(cmd, &config, fromFlags)
		}
		config.Defaults()
		if err := config.Check(); err != nil {
			return command.Fail(command.Usage, "see 'tenantmesh-sidecar --help'", "%w", err)
		}
		log, flush := newLog()
		defer flush()
		debug.SetGCPercent(gcPercent)
		config.Log, config.Version = log, command.Version()
		ready := func() { log.Info("ready", zap.NamedError("notify", command.Ready())) }
		if !execute {
			return sidecar.Run(cmd.Context(), config, ready)
		}
		service := newChild(args, &config)
		config.Service = service
		ctx, end := context.WithCancel(cmd.Context())
		defer end()
		err := sidecar.Run(ctx, config, func() {
			ready()
			service.run(end)
		})
		return errors.Join(err, service.finish(config.Drain))
	}
	return cmd
}

// settings is the form of the file.
type settings struct {
	*sidecar.Config
	Drain        duration `json:"drain,omitempty"`
	MaxGrantAge  duration `json:"maxGrantAge,omitempty"`
	MaxIssuerAge duration `json:"maxIssuerAge,omitempty"`
}

// read puts what a file says into the configuration.
func read(text []byte, config *sidecar.Config) error {
	s := settings{Config: config}
	if err := yaml.UnmarshalStrict(text, &s); err != nil {
		return err
	}
	for _, d := range []struct {
		from duration
		to   *time.Duration
	}{{s.Drain, &s.Config.Drain}, {s.MaxGrantAge, &s.Staleness.Grants}, {s.MaxIssuerAge, &s.Staleness.Issuers}} {
		if d.from != 0 {
			*d.to = time.Duration(d.from)
		}
	}
	return nil
}

// duration is written as "5m".
type duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf(`a duration must be written as "5m" (got %s)`, text)
	}
	parsed, err := time.ParseDuration(s)
	if err == nil && parsed <= 0 {
		err = fmt.Errorf("a duration must be over 0 (got %q)", s)
	}
	*d = duration(parsed)
	return err
}

// keepFlags gives the flags that were set their value back, over the file's.
func keepFlags(cmd *cobra.Command, config *sidecar.Config, flags sidecar.Config) {
	for name, field := range map[string]struct{ to, from any }{
		"role": {&config.Role, flags.Role}, "control": {&config.Control, flags.Control}, "control-api": {&config.ControlAPI, flags.ControlAPI}, "workload-api": {&config.WorkloadAPI, flags.WorkloadAPI},
		"data-dir": {&config.DataDir, flags.DataDir}, "address": {&config.Address, flags.Address}, "service-port": {&config.ServicePort, flags.ServicePort},
		"gateway-port": {&config.GatewayPort, flags.GatewayPort}, "inbound-port": {&config.InboundPort, flags.InboundPort},
		"outbound-port": {&config.OutboundPort, flags.OutboundPort}, "admin-port": {&config.AdminPort, flags.AdminPort},
		"metrics-port": {&config.MetricsPort, flags.MetricsPort}, "health-port": {&config.HealthPort, flags.HealthPort},
		"capture": {&config.Capture, flags.Capture}, "captured-port": {&config.CapturedPort, flags.CapturedPort},
		"hosts-file": {&config.HostsFile, flags.HostsFile}, "probe-path": {&config.ProbePath, flags.ProbePath},
		"mover-port": {&config.MoverPort, flags.MoverPort}, "mover-address": {&config.MoverAddress, flags.MoverAddress},
		"concurrency": {&config.Concurrency, flags.Concurrency}, "max-body": {&config.MaxBody, flags.MaxBody},
		"data-export": {&config.DataCommands.Export, flags.DataCommands.Export}, "data-import": {&config.DataCommands.Import, flags.DataCommands.Import},
		"ratelimit-address": {&config.RateLimitAddress, flags.RateLimitAddress}, "ratelimit-clients": {&config.RateLimitClients, flags.RateLimitClients},
		"data-delete": {&config.DataCommands.Delete, flags.DataCommands.Delete},
		"drain":       {&config.Drain, flags.Drain}, "max-grant-age": {&config.Staleness.Grants, flags.Staleness.Grants}, "max-issuer-age": {&config.Staleness.Issuers, flags.Staleness.Issuers},
	} {
		if !cmd.Flags().Changed(name) {
			continue
		}
		switch to := field.to.(type) {
		case *string:
			*to = field.from.(string)
		case *int:
			*to = field.from.(int)
		case *bool:
			*to = field.from.(bool)
		case *int64:
			*to = field.from.(int64)
		case *[]string:
			*to = field.from.([]string)
		case *time.Duration:
			*to = field.from.(time.Duration)
		}
	}
}

// newLog returns a log of JSON lines to standard error. Warnings and worse are written at once; the rest waits up to a
// fifth of a second for others, because a sidecar writes one line a decision.
func newLog() (log *zap.Logger, flush func()) {
	encoder, direct := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr)
	batched := &zapcore.BufferedWriteSyncer{WS: direct, FlushInterval: 200 * time.Millisecond}
	return zap.New(zapcore.NewTee(
		zapcore.NewCore(encoder, direct, zap.WarnLevel),
		zapcore.NewCore(encoder, batched, zap.LevelEnablerFunc(func(level zapcore.Level) bool { return level == zap.InfoLevel })),
	)), func() { _ = batched.Stop() }
}
