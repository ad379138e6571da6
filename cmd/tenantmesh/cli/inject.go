package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	goyaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/inject"
	"github.com/tenantmesh/tenantmesh/internal/command"
)

func newInject() *cobra.Command {
	var o inject.Options
	var files []string
	var drain time.Duration
	cmd := &cobra.Command{
		Use: "inject", Short: "Put sidecars into Kubernetes manifests", Args: command.Args(cobra.NoArgs),
		Long: `Inject prints the manifests with a captured sidecar in each pod that says ` + inject.Annotation + `: "true" among its annotations.
Every other manifest is printed as it was. Nothing is asked but the files: it is a filter, for kubectl, kustomize or
'helm install --post-renderer'.`,
		Example: `  tenantmesh inject -f service.yaml --control tenantmesh-control-0.tenantmesh-control.mesh.svc:15010 | kubectl apply -f -`,
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&files, "filename", "f", nil, "file, or - for standard input; may be given again")
	flags.StringVar(&o.Control, "control", "", "host:port of the control plane's xDS; each of several, with commas between")
	flags.StringVar(&o.SidecarImage, "sidecar-image", "tenantmesh/sidecar:latest", "image of the sidecar and its Envoy")
	flags.StringVar(&o.CaptureImage, "capture-image", "tenantmesh/capture:latest", "image of what installs capture")
	flags.StringVar(&o.CSIDriver, "csi-driver", "csi.spiffe.io", "CSI driver that mounts the SPIFFE Workload API")
	flags.StringVar(&o.Socket, "csi-socket", "spire-agent.sock", "its socket's file")
	flags.IntVar(&o.ServicePort, "service-port", 0, "port of the service (default: the Workload's)")
	flags.IntSliceVar(&o.ExcludeInboundPorts, "exclude-inbound-ports", nil, "ports at which callers and probes reach the pod directly")
	flags.DurationVar(&drain, "drain", 10*time.Second, "how long open requests have when a pod ends")
	_ = cmd.MarkFlagRequired("control")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files) == 0 {
			return usageError("such as -f service.yaml, or -f - for standard input", "-f must name a file")
		}
		o.Drain = drain.String()
		for _, file := range files {
			text, err := readText(cmd, file)
			if err != nil {
				return err
			}
			output, err := injectAll(text, o)
			if err != nil {
				return command.Fail(command.BadData, "see docs/deploy.md", "%s: %w", file, err)
			}
			if _, err := cmd.OutOrStdout().Write(output); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func readText(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(file)
}

// injectAll returns every document of a file, with its sidecar where it wants one.
func injectAll(text []byte, o inject.Options) ([]byte, error) {
	var output bytes.Buffer
	decoder := goyaml.NewDecoder(bytes.NewReader(text))
	for n := 1; ; n++ {
		var manifest map[string]any
		if err := decoder.Decode(&manifest); errors.Is(err, io.EOF) {
			return output.Bytes(), nil
		} else if err != nil {
			return nil, err
		}
		if manifest == nil {
			continue
		}
		if _, err := inject.Manifest(manifest, o); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		document, err := yaml.Marshal(manifest)
		if err != nil {
			return nil, err
		}
		output.WriteString("---\n")
		output.Write(document)
	}
}
