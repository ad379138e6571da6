package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/sidecar/capture"
)

func captureCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "capture", Short: "Send a service's traffic to its sidecar, by rules of the kernel",
		Args: command.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(captureInstall(), captureCheck(), captureRemove(), captureShow(), captureDial())
	return cmd
}

// captureFlags are those that say what is captured; configuration returns what they, over the file, say.
func captureFlags(cmd *cobra.Command) (configuration func() (capture.Config, error)) {
	var config capture.Config
	var file, backend string
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "YAML file with these settings; flags add to its lists, and win over the rest")
	flags.IntVar(&config.UID, "uid", 0, "user ID of the sidecar and its Envoy, whose connections are left alone")
	flags.IntVar(&config.InboundPort, "inbound-port", 0, "port of the sidecar's inbound listener (default 15006)")
	flags.IntVar(&config.CapturedPort, "captured-port", 0, "port of the sidecar's listener for captured calls (default 15002)")
	flags.IntVar(&config.MetricsPort, "metrics-port", 0, "port of the sidecar's /metrics, left alone (default 15090)")
	flags.IntVar(&config.HealthPort, "health-port", 0, "port of the sidecar's /livez, /readyz and /probe, left alone (default 15021)")
	flags.IntVar(&config.DNSPort, "dns-port", 0, "port of the sidecar's DNS listener; 0 leaves questions for names alone")
	flags.IntSliceVar(&config.ExcludeInboundPorts, "exclude-inbound-ports", nil, "ports at which callers reach this machine directly, such as 22")
	flags.IntSliceVar(&config.ExcludeOutboundPorts, "exclude-outbound-ports", nil, "ports that are called directly")
	flags.StringSliceVar(&config.ExcludeInboundCIDRs, "exclude-inbound-cidrs", nil, "callers that are let through")
	flags.StringSliceVar(&config.ExcludeOutboundCIDRs, "exclude-outbound-cidrs", nil, "addresses that are called directly")
	flags.IntSliceVar(&config.ExcludeUIDs, "exclude-uids", nil, "user IDs of processes that are no service of the mesh")
	flags.StringVar(&backend, "backend", "", "nftables or iptables (default: what there is, nftables first)")
	return func() (capture.Config, error) {
		merged := capture.Config{}
		if file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				return merged, err
			}
			if err := yaml.UnmarshalStrict(text, &merged); err != nil {
				return merged, command.Fail(command.BadData, "", "%s: %w", file, err)
			}
		}
		for _, n := range []struct {
			to   *int
			from int
		}{
			{&merged.UID, config.UID}, {&merged.InboundPort, config.InboundPort}, {&merged.CapturedPort, config.CapturedPort},
			{&merged.MetricsPort, config.MetricsPort}, {&merged.HealthPort, config.HealthPort}, {&merged.DNSPort, config.DNSPort},
		} {
			if n.from != 0 {
				*n.to = n.from
			}
		}
		if backend != "" {
			merged.Backend = capture.Backend(backend)
		}
		merged.ExcludeInboundPorts = append(merged.ExcludeInboundPorts, config.ExcludeInboundPorts...)
		merged.ExcludeOutboundPorts = append(merged.ExcludeOutboundPorts, config.ExcludeOutboundPorts...)
		merged.ExcludeInboundCIDRs = append(merged.ExcludeInboundCIDRs, config.ExcludeInboundCIDRs...)
		merged.ExcludeOutboundCIDRs = append(merged.ExcludeOutboundCIDRs, config.ExcludeOutboundCIDRs...)
		merged.ExcludeUIDs = append(merged.ExcludeUIDs, config.ExcludeUIDs...)
		merged.Defaults()
		if err := merged.Check(); err != nil {
			return merged, command.Fail(command.Usage, "see '"+cmd.CommandPath()+" --help'", "%w", err)
		}
		return merged, nil
	}
}

func captureInstall() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "install", Short: "Install the rules, in the place of those that there are", Args: command.Args(cobra.NoArgs),
		Long: `Install sends every TCP connection that begins on this machine, and every one that arrives, to the sidecar's listeners,
in one transaction. What is excluded is not captured. Connections that are older than the rules are reset: keep
--exclude-inbound-ports 22 where you are connected by SSH.`,
	}
	configuration := captureFlags(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print what nft would be told, and do nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		config, err := configuration()
		if err != nil {
			return err
		}
		if dry {
			_, err := fmt.Fprint(cmd.OutOrStdout(), capture.NFTablesScript(capture.Rules(config)))
			return err
		}
		return explained(capture.Install(cmd.Context(), config))
	}
	return cmd
}

func captureRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove", Short: "Remove every rule", Args: command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return explained(capture.Remove(cmd.Context())) },
	}
}

func captureShow() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "show", Short: "Print the rules that the kernel has", Args: command.Args(cobra.NoArgs)}
	cmd.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := known(format); err != nil {
			return err
		}
		state, err := capture.Show(cmd.Context(), "")
		if err != nil {
			return explained(err)
		}
		if format == "json" {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(state)
		}
		if !state.Installed {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing is captured: no rules are installed, or not all")
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(state.Rules, "\n"))
		return err
	}
	return cmd
}

func captureCheck() *cobra.Command {
	var format, address string
	cmd := &cobra.Command{
		Use: "check", Short: "Prove by real connections what is captured, and list the holes", Args: command.Args(cobra.NoArgs),
		Long: `Check connects as a service would, to addresses that nobody has, and wants the sidecar's own answer. It ends with 79 when
something is wrong; holes, which are as they were configured, are listed.`,
	}
	configuration := captureFlags(cmd)
	cmd.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	cmd.Flags().StringVar(&address, "address", "127.0.0.1", "IP address of the sidecar's inbound listener")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		config, err := configuration()
		if err = errors.Join(err, known(format)); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		findings, err := capture.Check(cmd.Context(), config, address, capture.AsUID(self, "capture", "dial"))
		if err != nil {
			return explained(err)
		}
		if format == "json" {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(findings)
		}
		wrong := 0
		for _, f := range findings {
			if f.Result == capture.Wrong {
				wrong++
			}
			if format == "text" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%-7s  %s: %s\n", f.Result, f.What, f.Detail)
			}
		}
		if err == nil && wrong > 0 {
			err = command.Fail(command.Findings, "see 'tenantmesh-sidecar capture show', and docs/capture.md", "%d of %d findings are wrong", wrong, len(findings))
		}
		return err
	}
	return cmd
}

// captureDial is what check runs as another user.
func captureDial() *cobra.Command {
	return &cobra.Command{
		Use: "dial ADDRESS", Hidden: true, Args: command.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return capture.Dial(cmd.Context(), args[0]) },
	}
}

func known(format string) error {
	if format != "text" && format != "json" {
		return command.Fail(command.Usage, "", "output must be text or json (got %q)", format)
	}
	return nil
}

// explained says what to do about what often fails.
func explained(err error) error {
	switch {
	case errors.Is(err, capture.ErrNotPermitted):
		return command.WithHint(err, "run it as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN; in a container add NET_ADMIN")
	case errors.Is(err, capture.ErrNoBackend):
		return command.WithHint(err, "install nftables (apt-get install nftables)")
	}
	return err
}
