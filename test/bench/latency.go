package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/xds/bootstrap"
)

const (
	perRound = 4000
	clients  = 4
)

// measureLatency sends the same requests through one Envoy by three listeners: without a filter, with ext_authz to the
// floor, and with what a gateway has: token verification, the product's check, and the access log to it.
func measureLatency(ctx context.Context, rounds int) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	base, err := start(ctx, dir, subject{"floor", 0})
	if err != nil {
		return err
	}
	defer base.stop()
	ours, err := start(ctx, dir, subject{"gateway-logged", 1000})
	if err != nil {
		return err
	}
	defer ours.stop()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }))
	defer upstream.Close()
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tokens, err := tokensOf(signing)
	if err != nil {
		return err
	}
	names := []string{"no filter", "floor", "tenantmesh"}
	ports, err := freeport.Take(len(names))
	if err != nil {
		return err
	}
	config, err := envoyConfig(ports, map[string]string{"floor": base.socket, "tenantmesh": ours.socket}, upstream.Listener.Addr().(*net.TCPAddr).Port, signing)
	if err != nil {
		return err
	}
	stop, err := startEnvoy(ctx, dir, config, ports[0])
	if err != nil {
		return err
	}
	defer stop()

	p50, p99 := map[string][]float64{}, map[string][]float64{}
	for round := range rounds + 1 {
		for i, name := range names {
			a, b, err := load(ctx, ports[i], tokens)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if round > 0 { // the first one warms up
				p50[name], p99[name] = append(p50[name], a), append(p99[name], b)
			}
		}
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(out, "latency at a gateway, ms, %d clients\tp50\tp99\tadded p50, of no filter\tadded p99, of no filter\n", clients)
	for _, name := range names {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", name, spread(p50[name], "%.2f"), spread(p99[name], "%.2f"),
			spread(added(p50[name], p50["no filter"]), "%+.0f%%"), spread(added(p99[name], p99["no filter"]), "%+.0f%%"))
	}
	fmt.Fprintf(out, "tenantmesh against the floor\t%s\t%s\t\t\n", spread(ratios(p50["tenantmesh"], p50["floor"]), "x %.2f"), spread(ratios(p99["tenantmesh"], p99["floor"]), "x %.2f"))
	fmt.Fprintln(out)
	return out.Flush()
}

func ratios(values, base []float64) []float64 {
	list := make([]float64, len(values))
	for i := range values {
		list[i] = values[i] / base[i]
	}
	return list
}

func added(values, base []float64) []float64 {
	list := ratios(values, base)
	for i := range list {
		list[i] = 100 * (list[i] - 1)
	}
	return list
}

// load returns the 50th and the 99th percentile, in milliseconds.
func load(ctx context.Context, port int, tokens []string) (p50, p99 float64, err error) {
	took := make([][]float64, clients)
	failures := make([]error, clients)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := range perRound / clients {
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/front/x", port), nil)
				if err != nil {
					failures[c] = err
					return
				}
				request.Header.Set("Authorization", tokens[(i*clients+c)%len(tokens)])
				began := time.Now()
				response, err := client.Do(request)
				if err == nil {
					if _, err = response.Body.Read(make([]byte, 8)); err != nil && err.Error() == "EOF" {
						err = nil
					}
					_ = response.Body.Close()
					if response.StatusCode != http.StatusOK {
						err = fmt.Errorf("status %d %s", response.StatusCode, response.Header.Get("x-tenantmesh-reason"))
					}
				}
				if err != nil {
					failures[c] = err
					return
				}
				took[c] = append(took[c], float64(time.Since(began).Microseconds())/1000)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failures...); err != nil {
		return 0, 0, err
	}
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	return all[len(all)/2], all[len(all)*99/100], nil
}

func tokensOf(key *ecdsa.PrivateKey) ([]string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k"))
	if err != nil {
		return nil, err
	}
	var tokens []string
	for i := range 100 {
		token, err := jwt.Signed(signer).Claims(map[string]any{
			"iss": "https://login", "aud": "bench", "sub": "alice", "tenant": tenantName(i), "exp": time.Now().Add(time.Hour).Unix(),
		}).Serialize()
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, "Bearer "+token)
	}
	return tokens, nil
}

func startEnvoy(ctx context.Context, dir string, config []byte, port int) (stop func(), err error) {
	path, _, err := bootstrap.FindEnvoy(ctx)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 500 {
		var conn net.Conn
		if conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return stop, conn.Close()
		}
		<-time.After(20 * time.Millisecond)
	}
	stop()
	return nil, err
}

type object = map[string]any

// envoyConfig has a listener for each of: nothing, the floor, the product.
func envoyConfig(ports []int, sockets map[string]string, upstream int, signing *ecdsa.PrivateKey) ([]byte, error) {
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &signing.PublicKey, KeyID: "k", Algorithm: "ES256"}}})
	if err != nil {
		return nil, err
	}
	address := func(port int) object {
		return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
	}
	typed := func(name, kind string, more object) object {
		more["@type"] = "type.googleapis.com/envoy.extensions." + kind
		return object{"name": name, "typed_config": more}
	}
	router := typed("envoy.filters.http.router", "filters.http.router.v3.Router", object{})
	check := func(cluster string) object {
		return typed("envoy.filters.http.ext_authz", "filters.http.ext_authz.v3.ExtAuthz", object{
			"grpc_service": object{"envoy_grpc": object{"cluster_name": cluster}, "timeout": "2s"}, "transport_api_version": "V3", "encode_raw_headers": true,
			"validate_mutations": true, "clear_route_cache": true, "metadata_context_namespaces": []string{"envoy.filters.http.jwt_authn"},
		})
	}
	lease := typed("envoy.filters.http.header_mutation", "filters.http.header_mutation.v3.HeaderMutation", object{"mutations": object{"request_mutations": []object{
		{"append": object{"header": object{"key": "x-tenantmesh-lease", "value": "%UNIQUE_ID%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
	}}})
	verify := typed("jwt", "filters.http.jwt_authn.v3.JwtAuthentication", object{
		"providers": object{"login": object{
			"issuer": "https://login", "audiences": []string{"bench"}, "forward": true, "payload_in_metadata": "issuer/login", "local_jwks": object{"inline_string": string(jwks)},
		}},
		"rules": []object{{"match": object{"prefix": "/"}, "requires": object{"provider_name": "login"}}},
	})
	filters := map[int][]object{0: {router}, 1: {check("floor"), router}, 2: {lease, verify, check("tenantmesh"), router}}
	log := []object{typed("envoy.access_loggers.http_grpc", "access_loggers.grpc.v3.HttpGrpcAccessLogConfig", object{
		"common_config":                     object{"log_name": "gateway", "transport_api_version": "V3", "buffer_size_bytes": 0, "buffer_flush_interval": "1s", "grpc_service": object{"envoy_grpc": object{"cluster_name": "tenantmesh"}}},
		"additional_request_headers_to_log": []string{"x-tenantmesh-lease"},
	})}
	var listeners []object
	for i, port := range ports {
		manager := object{
			"stat_prefix": fmt.Sprint("l", i), "http_filters": filters[i],
			"route_config": object{"virtual_hosts": []object{{
				"name": "all", "domains": []string{"*"}, "routes": []object{{"match": object{"prefix": "/"}, "route": object{"cluster": "upstream"}}},
				"typed_per_filter_config": object{"envoy.filters.http.ext_authz": object{
					"@type":          "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
					"check_settings": object{"context_extensions": object{"listener": "gateway", "target": "workload/front"}},
				}},
			}}},
		}
		if i < 2 { // a filter that is not there cannot be configured for a route
			if i == 0 {
				delete(manager["route_config"].(object)["virtual_hosts"].([]object)[0], "typed_per_filter_config")
			}
		} else {
			manager["access_log"] = log
		}
		listeners = append(listeners, object{"name": fmt.Sprint("l", i), "address": address(port), "filter_chains": []object{{"filters": []object{
			typed("envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager", manager),
		}}}})
	}
	clusters := []object{{"name": "upstream", "type": "STATIC", "load_assignment": endpoints("upstream", address(upstream))}}
	for name, socket := range sockets {
		clusters = append(clusters, object{
			"name": name, "type": "STATIC", "load_assignment": endpoints(name, object{"pipe": object{"path": socket}}),
			"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": object{"http2_protocol_options": object{}},
			}},
		})
	}
	text, err := json.Marshal(object{"static_resources": object{"listeners": listeners, "clusters": clusters}})
	return []byte(strings.TrimSpace(string(text))), err
}

func endpoints(name string, address object) object {
	return object{"cluster_name": name, "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{"address": address}}}}}}
}
