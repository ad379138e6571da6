package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	perRound = 4000 // requests of one measurement
	inFlight = 64
	seconds  = 2 // of an open loop
)

// variant is a listener of one Envoy, with some of what a gateway's has.
type variant struct {
	name    string
	filters []string // before the router
	answers string   // the server that is asked, and that takes the access log
	logged  bool
}

// variants are all there are: each but the last three has one thing more than the one before it.
var variants = []variant{
	{name: "no filter"},
	{name: "+ an ID for each request", filters: []string{"lease"}},
	{name: "+ the client's token verified", filters: []string{"lease", "verify"}},
	{name: "+ a check that always allows", filters: []string{"lease", "verify", "check"}, answers: "floor"},
	{name: "+ the access log to it: the floor", filters: []string{"lease", "verify", "check"}, answers: "floor", logged: true},
	{name: "instead of both, ext_proc to the same", filters: []string{"lease", "verify", "process"}, answers: "floor"},
	{name: "ext_proc and the access log", filters: []string{"lease", "verify", "process"}, answers: "floor", logged: true},
	{name: "tenantmesh", filters: []string{"lease", "verify", "check"}, answers: "tenantmesh", logged: true},
}

// of the variants, those that are compared
var (
	floorVariant  = len(variants) - 4
	streamVariant = len(variants) - 3
	oursVariant   = len(variants) - 1
)

// passed is what one variant's requests came to.
type passed struct {
	rate, envoy, beside []float64         // requests a second with 64 in flight; microseconds of CPU a request
	p50, p99            map[int][]float64 // ms, by the rate of an open loop
}

// measureLatency sends the same requests through one Envoy by several listeners, and says what each filter costs.
func measureLatency(ctx context.Context, rounds int) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	servers := map[string]*child{}
	for name, kind := range map[string]subject{"floor": floorSubject, "tenantmesh": {kind: "gateway-logged", tenants: 12_000}} {
		if servers[name], err = start(ctx, dir, kind); err != nil {
			return err
		}
		defer servers[name].stop()
	}
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
	ports, err := freeport.Take(len(variants))
	if err != nil {
		return err
	}
	config, err := envoyConfig(ports, map[string]string{"floor": servers["floor"].socket, "tenantmesh": servers["tenantmesh"].socket}, upstream.Listener.Addr().(*net.TCPAddr).Port, signing)
	if err != nil {
		return err
	}
	envoy, stop, err := startEnvoy(ctx, dir, config, ports[0])
	if err != nil {
		return err
	}
	defer stop()
	results := make([]passed, len(variants))
	for round := range rounds + 1 {
		for i, v := range variants {
			r := passed{}
			if err := r.measure(ctx, envoy, servers[v.answers], ports[i], tokens, i == floorVariant || i == oursVariant); err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			if round > 0 { // the first one warms up
				results[i].add(&r)
			}
		}
	}
	if err := printPassed(results); err != nil {
		return err
	}
	return measureAborts(ctx, rounds, envoy, servers["floor"], map[string]int{byLog: ports[floorVariant], byStream: ports[streamVariant]}, tokens)
}

func (p *passed) measure(ctx context.Context, envoy int, server *child, port int, tokens []string, open bool) error {
	cpu := func() (e, s time.Duration, err error) {
		if e, err = cpuOf(envoy); err == nil && server != nil {
			s, err = server.cpu()
		}
		return e, s, err
	}
	e0, s0, err := cpu()
	if err != nil {
		return err
	}
	_, took, err := load(ctx, port, tokens, perRound, 0)
	if err != nil {
		return err
	}
	e1, s1, err := cpu()
	if err != nil {
		return err
	}
	p.rate = []float64{perRound / took.Seconds()}
	p.envoy, p.beside = []float64{float64((e1 - e0).Microseconds()) / perRound}, []float64{float64((s1 - s0).Microseconds()) / perRound}
	p.p50, p.p99 = map[int][]float64{}, map[int][]float64{}
	if !open {
		return nil
	}
	for _, rate := range openRates {
		latencies, _, err := load(ctx, port, tokens, rate*seconds, rate)
		if err != nil {
			return err
		}
		p.p50[rate], p.p99[rate] = []float64{latencies[len(latencies)/2]}, []float64{latencies[len(latencies)*99/100]}
	}
	return nil
}

// openRates are those of the open loops, requests a second.
var openRates = []int{1000, 2000}

func (p *passed) add(other *passed) {
	p.rate, p.envoy, p.beside = append(p.rate, other.rate...), append(p.envoy, other.envoy...), append(p.beside, other.beside...)
	if p.p50 == nil {
		p.p50, p.p99 = map[int][]float64{}, map[int][]float64{}
	}
	for _, rate := range openRates {
		p.p50[rate], p.p99[rate] = append(p.p50[rate], other.p50[rate]...), append(p.p99[rate], other.p99[rate]...)
	}
}

func printPassed(results []passed) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(out, "through one Envoy worker, %d in flight\trequests a second\tof no filter\tCPU us a request, Envoy\tand beside it\n", inFlight)
	for i, v := range variants {
		r := &results[i]
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", v.name, spread(r.rate, "%.0f"), spread(ratios(r.rate, results[0].rate), "%.2f"), spread(r.envoy, "%.0f"), spread(r.beside, "%.0f"))
	}
	ours, base := &results[oursVariant], &results[floorVariant]
	fmt.Fprintf(out, "tenantmesh, of the floor\t%s\t\t\t\n\n", spread(ratios(ours.rate, base.rate), "x %.2f"))
	fmt.Fprintln(out, "open loop, ms\tp50, floor\tp99, floor\tp50, tenantmesh\tp99, tenantmesh\tp99, of the floor")
	for _, rate := range openRates {
		fmt.Fprintf(out, "%d a second\t%s\t%s\t%s\t%s\t%s\n", rate, spread(base.p50[rate], "%.2f"), spread(base.p99[rate], "%.2f"),
			spread(ours.p50[rate], "%.2f"), spread(ours.p99[rate], "%.2f"), spread(ratios(ours.p99[rate], base.p99[rate]), "x %.2f"))
	}
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

// load sends n requests, as many in flight as there may be, or, with a rate, so many a second whatever became of those
// before. It returns how long each took in ms, in order, from when it was to be sent.
func load(ctx context.Context, port int, tokens []string, n, rate int) (latencies []float64, took time.Duration, err error) {
	workers := inFlight
	if rate > 0 {
		workers = 4 * inFlight
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	due := make(chan time.Time, n)
	results, failures := make([][]float64, workers), make([]error, workers)
	began := time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for at := range due {
				if failures[w] = get(ctx, client, port, tokens[len(results[w])%len(tokens)]); failures[w] != nil {
					return
				}
				results[w] = append(results[w], float64(time.Since(at).Microseconds())/1000)
			}
		})
	}
	for i := range n {
		at := began.Add(time.Duration(i) * time.Second / time.Duration(max(1, rate)))
		if rate == 0 {
			at = time.Now()
		} else {
			<-time.After(time.Until(at))
		}
		due <- at
	}
	close(due)
	wg.Wait()
	if err := errors.Join(failures...); err != nil {
		return nil, 0, err
	}
	return slices.Sorted(slices.Values(slices.Concat(results...))), time.Since(began), nil
}

func get(ctx context.Context, client *http.Client, port int, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/front/x", port), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", token)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d %s", response.StatusCode, response.Header.Get("x-tenantmesh-reason"))
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
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

func startEnvoy(ctx context.Context, dir string, config []byte, port int) (pid int, stop func(), err error) {
	path, _, err := bootstrap.FindEnvoy(ctx)
	if err != nil {
		return 0, nil, err
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return 0, nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 500 {
		var conn net.Conn
		if conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return cmd.Process.Pid, stop, conn.Close()
		}
		<-time.After(20 * time.Millisecond)
	}
	stop()
	return 0, nil, err
}

type object = map[string]any

// envoyConfig has a listener for each variant.
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
	// Its stream ends with the response: what ext_authz needs the access log for.
	process := func(cluster string) object {
		return typed("envoy.filters.http.ext_proc", "filters.http.ext_proc.v3.ExternalProcessor", object{
			"grpc_service":       object{"envoy_grpc": object{"cluster_name": cluster}, "timeout": "2s"},
			"processing_mode":    object{"request_header_mode": "SEND", "response_header_mode": "SKIP", "request_trailer_mode": "SKIP", "response_trailer_mode": "SEND"},
			"metadata_options":   object{"forwarding_namespaces": object{"untyped": []string{"envoy.filters.http.jwt_authn"}}},
			"request_attributes": []string{"request.path", "request.method", "connection.uri_san_peer_certificate", "xds.listener_metadata"},
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
	log := func(cluster string) []object {
		return []object{typed("envoy.access_loggers.http_grpc", "access_loggers.grpc.v3.HttpGrpcAccessLogConfig", object{
			"common_config":                     object{"log_name": "gateway", "transport_api_version": "V3", "buffer_size_bytes": 0, "buffer_flush_interval": "1s", "grpc_service": object{"envoy_grpc": object{"cluster_name": cluster}}},
			"additional_request_headers_to_log": []string{"x-tenantmesh-lease"},
		})}
	}
	var listeners []object
	for i, port := range ports {
		v := variants[i]
		host := object{
			"name": "all", "domains": []string{"*"}, "routes": []object{{"match": object{"prefix": "/"}, "route": object{"cluster": "upstream"}}},
		}
		manager := object{"stat_prefix": fmt.Sprint("l", i), "route_config": object{"virtual_hosts": []object{host}}}
		var filters []object
		for _, name := range v.filters {
			filters = append(filters, map[string]object{"lease": lease, "verify": verify, "check": check(v.answers), "process": process(v.answers)}[name])
		}
		manager["http_filters"] = append(filters, router)
		if slices.Contains(v.filters, "check") { // a filter that is not there cannot be configured for a route
			host["typed_per_filter_config"] = object{"envoy.filters.http.ext_authz": object{
				"@type":          "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
				"check_settings": object{"context_extensions": object{"listener": "gateway", "target": "workload/front"}},
			}}
		}
		if v.logged {
			manager["access_log"] = log(v.answers)
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
