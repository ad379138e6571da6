// Package bootstrap answers HOW AN ENVOY STARTS: it finds the binary, checks its version and renders its bootstrap.
//
// It imports identity/meshname and go-control-plane.
package bootstrap

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	overload "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	downstream "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	upstreamhttp "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// MinVersion is the oldest Envoy that enforces all that is pushed to it.
const MinVersion = "1.40.0"

// Config says what an Envoy's bootstrap holds.
type Config struct {
	NodeID         string
	Cluster        string // for statistics: "gateway", or the workload's name
	RunDir         string // where the Go process's sockets are
	AdminPort      int    // on 127.0.0.1
	MaxConnections int64  // of clients, all listeners together; default 10000
}

// Render returns the bootstrap as JSON.
func Render(config Config) ([]byte, error) {
	if config.MaxConnections == 0 {
		config.MaxConnections = 10000
	}
	connections, err := anypb.New(&downstream.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: config.MaxConnections})
	if err != nil {
		return nil, err
	}
	sidecar, err := unixCluster(meshname.ClusterSidecar, filepath.Join(config.RunDir, meshname.SocketSidecar), true)
	if err != nil {
		return nil, err
	}
	jwks, err := unixCluster(meshname.ClusterJWKS, filepath.Join(config.RunDir, meshname.SocketJWKS), false)
	if err != nil {
		return nil, err
	}
	move, err := unixCluster(meshname.ClusterMove, filepath.Join(config.RunDir, meshname.SocketMove), true)
	if err != nil {
		return nil, err
	}
	streams, err := unixCluster(meshname.ClusterStreams, filepath.Join(config.RunDir, meshname.SocketStreams), true)
	if err != nil {
		return nil, err
	}
	streams.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{MaxRequests: wrapperspb.UInt32(meshname.MaxOpen)}}}
	ads := &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}, ResourceApiVersion: core.ApiVersion_V3}
	return protojson.Marshal(&bootstrap.Bootstrap{
		Node: &core.Node{Id: config.NodeID, Cluster: config.Cluster},
		Admin: &bootstrap.Admin{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(config.AdminPort)},
		}}}},
		StaticResources: &bootstrap.Bootstrap_StaticResources{Clusters: []*cluster.Cluster{sidecar, jwks, move, streams}},
		DynamicResources: &bootstrap.Bootstrap_DynamicResources{
			LdsConfig: ads, CdsConfig: ads,
			AdsConfig: &core.ApiConfigSource{
				ApiType: core.ApiConfigSource_DELTA_GRPC, TransportApiVersion: core.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*core.GrpcService{{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: meshname.ClusterSidecar}}}},
			},
		},
		OverloadManager: &overload.OverloadManager{
			RefreshInterval: durationpb.New(250 * time.Millisecond),
			ResourceMonitors: []*overload.ResourceMonitor{{
				Name:       "envoy.resource_monitors.global_downstream_max_connections",
				ConfigType: &overload.ResourceMonitor_TypedConfig{TypedConfig: connections},
			}},
		},
	})
}

func unixCluster(name, path string, http2 bool) (*cluster.Cluster, error) {
	c := &cluster.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		LoadAssignment: &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: []*endpoint.LbEndpoint{
			{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: path}}}}}},
		}}}},
	}
	if !http2 {
		return c, nil
	}
	options, err := anypb.New(&upstreamhttp.HttpProtocolOptions{UpstreamProtocolOptions: &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig{ProtocolConfig: &upstreamhttp.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &core.Http2ProtocolOptions{},
		}},
	}})
	if err != nil {
		return nil, err
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{string(proto.MessageName(&upstreamhttp.HttpProtocolOptions{})): options}
	return c, nil
}

// EnvPath is the environment variable that names the Envoy binary.
const EnvPath = "TENANTMESH_ENVOY"

// FindEnvoy returns the Envoy to run: that of [EnvPath], else .tools/bin/envoy in the working directory or above, or above this program,
// else the one in PATH; and its version. One that is too old is refused.
func FindEnvoy(ctx context.Context) (path, version string, err error) {
	path, err = locate()
	if err != nil {
		return "", "", err
	}
	output, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("%s --version: %w", path, err)
	}
	match := versionPattern.FindSubmatch(output)
	if match == nil {
		return "", "", fmt.Errorf("%s must be an Envoy (its --version says %q)", path, output)
	}
	version = string(match[1])
	if slices.Compare(numbers(version), numbers(MinVersion)) < 0 {
		return "", "", fmt.Errorf("%s must be Envoy %s or newer (is %s): name another in %s", path, MinVersion, version, EnvPath)
	}
	return path, version, nil
}

var versionPattern = regexp.MustCompile(`version: [0-9a-f]+/([0-9]+\.[0-9]+\.[0-9]+)`)

// numbers are the parts of a version that versionPattern matched.
func numbers(version string) []int {
	var parts []int
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part)
		parts = append(parts, n)
	}
	return parts
}

func locate() (string, error) {
	if path := os.Getenv(EnvPath); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s must name the Envoy binary: %w", EnvPath, err)
		}
		return path, nil
	}
	for _, from := range []func() (string, error){os.Getwd, os.Executable} {
		dir, err := from()
		for err == nil {
			path := filepath.Join(dir, ".tools", "bin", "envoy")
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
			if filepath.Dir(dir) == dir {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", fmt.Errorf("no Envoy was found: name one in %s, or run 'make tools'", EnvPath)
	}
	return path, nil
}
