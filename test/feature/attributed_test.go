package feature

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

const callingObjects = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {tier: gold, region: us, limits: {requestsPerSecond: -1, concurrency: -1}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: globex}
spec: {tier: bronze, region: us, limits: {requestsPerSecond: -1, concurrency: -1}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec:
  expose: [{pathPrefix: /front, stripPrefix: true}]
  dependsOn: [back, other, watch]
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: other}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: watch}
spec: {protocol: grpc}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: front-calls}
spec: {effect: Permit, principals: ["spiffe://mesh.example/cell/*/workload/front"], targets: [{workload: other}, {workload: watch}]}
`

// ledger counts, for each sort of call, what services that were called saw for the tenant that the call was for, and what for another.
type ledger struct {
	mu           sync.Mutex
	right, wrong map[string]int
}

func (l *ledger) saw(sort, mark, tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mark != "" && mark == tenant {
		l.right[sort]++
	} else {
		l.wrong[sort]++
	}
}

// watched is a service whose answers are the mark and the tenant that it saw, for Check once and for Watch three times.
type watched struct {
	healthpb.UnimplementedHealthServer
	*ledger
}

func (s *watched) saw(ctx context.Context, sort string) {
	sent, _ := metadata.FromIncomingContext(ctx)
	s.ledger.saw(sort, strings.Join(sent["mark"], ","), strings.Join(sent["x-tenant-id"], ","))
}

func (s *watched) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.saw(ctx, "gRPC call")
	return &healthpb.HealthCheckResponse{}, nil
}

func (s *watched) Watch(_ *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	s.saw(stream.Context(), "gRPC stream")
	for range 3 {
		if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
			return err
		}
	}
	return nil
}

// TestCallsOfEachSort: gRPC calls and streams over one connection, WebSockets, and redirects that a service's client follows, to the same
// service and to another, are taken for the tenant of the request that they are made for, when two tenants make them at once; and are refused without
// a proof. A tunnel, in which nobody could be told apart, is not opened.
func TestCallsOfEachSort(t *testing.T) {
	m := meshtest.Start(t, objects)
	m.Apply(t, callingObjects)
	gateway := m.Gateway(t)
	seen := &ledger{right: map[string]int{}, wrong: map[string]int{}}
	serve := func(name string) {
		m.Workload(t, "us-1", name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			seen.saw(name+r.URL.Path, query.Get("mark"), r.Header.Get("X-Tenant-Id"))
			switch r.URL.Path {
			case "/socket":
				echo(w, r)
			case "/there":
			default:
				http.Redirect(w, r, "http://"+query.Get("to")+"/there?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
			}
		}))
	}
	serve("back")
	serve("other")
	service := grpc.NewServer()
	healthpb.RegisterHealthServer(service, &watched{ledger: seen})
	m.Workload(t, "us-1", "watch", service)

	var calls atomic.Pointer[caller]
	front := m.Workload(t, "us-1", "front", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		traceparent := r.Header.Get("Traceparent")
		if r.URL.Query().Has("bare") {
			traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" // of nobody's request
		}
		if err := calls.Load().call(r.Context(), r.URL.Path, r.URL.Query().Get("mark"), traceparent); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
		}
	}))
	proxy, err := url.Parse(front.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(proxy.Host, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("watch"), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	calls.Store(&caller{conn: conn, proxy: proxy.Host, client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), MaxIdleConnsPerHost: 8}}})

	const rounds = 40
	paths := []string{"/call", "/stream", "/socket", "/redirect/back", "/redirect/other"}
	var group sync.WaitGroup
	for i, tenant := range []string{"acme", "globex"} {
		for range 4 {
			group.Go(func() {
				for n := range rounds {
					path := paths[(n+i)%len(paths)]
					if r := m.Get(t, gateway.URL+"/front"+path+"?mark="+tenant, tenant); r.Status != http.StatusOK {
						t.Errorf("%s for %s: %d %s", path, tenant, r.Status, r.Body)
					}
				}
			})
		}
	}
	group.Wait()
	each := 2 * 4 * rounds / len(paths)
	for sort, want := range map[string]int{
		"gRPC call": each, "gRPC stream": each, "back/socket": each, "back/redirect": 2 * each, "back/there": each, "other/there": each,
	} {
		if seen.right[sort] != want || seen.wrong[sort] != 0 {
			t.Errorf("%s: %d taken for the right tenant and %d for another, want %d and 0", sort, seen.right[sort], seen.wrong[sort], want)
		}
	}
	for _, path := range paths {
		if r := m.Get(t, gateway.URL+"/front"+path+"?bare&mark=acme", "acme"); r.Status != http.StatusTeapot || !strings.Contains(r.Body, "context_missing") && !strings.Contains(r.Body, "code = PermissionDenied") {
			t.Errorf("%s without a proof: %d %s", path, r.Status, r.Body)
		}
	}
	if r := m.Get(t, gateway.URL+"/front/tunnel?mark=acme", "acme"); r.Status != http.StatusTeapot {
		t.Errorf("a tunnel: %d %s", r.Status, r.Body)
	}
	if right, wrong := total(seen.right), total(seen.wrong); right != 7*each || wrong != 0 {
		t.Errorf("services saw %d calls for the right tenant and %d for another, want %d and 0: %v %v", right, wrong, 7*each, seen.right, seen.wrong)
	}
}

func total(of map[string]int) (sum int) {
	for _, n := range of {
		sum += n
	}
	return sum
}

// caller makes front's calls.
type caller struct {
	conn   *grpc.ClientConn
	client *http.Client
	proxy  string
}

func (c *caller) call(ctx context.Context, path, mark, traceparent string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	withHeaders := metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent, "mark", mark)
	switch path {
	case "/call":
		_, err := healthpb.NewHealthClient(c.conn).Check(withHeaders, &healthpb.HealthCheckRequest{})
		return err
	case "/stream":
		stream, err := healthpb.NewHealthClient(c.conn).Watch(withHeaders, &healthpb.HealthCheckRequest{})
		for range 3 {
			if err == nil {
				_, err = stream.Recv()
			}
		}
		return err
	case "/socket":
		return c.switched("GET /socket?mark="+mark+" HTTP/1.1\r\nHost: back\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTraceparent: "+traceparent+"\r\n\r\n", http.StatusSwitchingProtocols)
	case "/tunnel":
		return c.switched("CONNECT back:80 HTTP/1.1\r\nHost: back:80\r\nTraceparent: "+traceparent+"\r\n\r\n", http.StatusOK)
	default:
		_, to, _ := strings.Cut(path[1:], "/")
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://back/redirect?mark="+mark+"&to="+to, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Traceparent", traceparent)
		response, err := c.client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		_, _ = io.Copy(io.Discard, response.Body)
		return answered(response, http.StatusOK)
	}
}

// switched sends the head of a request that is to turn its connection into another, and says a line there.
func (c *caller) switched(head string, status int) error {
	conn, err := net.Dial("tcp", c.proxy)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, head)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	if err := answered(response, status); err != nil {
		return err
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
		return fmt.Errorf("the socket says %q: %w", line, err)
	}
	return nil
}

func answered(response *http.Response, status int) error {
	if response.StatusCode != status {
		return errors.New(response.Status + " " + response.Header.Get("X-Tenantmesh-Reason"))
	}
	return nil
}
