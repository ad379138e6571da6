package translator_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/corpus"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// layer is a real Envoy with the inbound listener of the corpus' workload, without the check: what its own rules say is what
// comes out.
type layer struct {
	*proxy
	t         *testing.T
	resources []translator.Resource // but for the rules
	rules     *corev3.TypedExtensionConfig
	source    *svid.Source
	clients   map[string]*tls.Config // by SPIFFE ID
}

const corpusMesh = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: back}
spec: {}
`

// newLayer starts the Envoy, for callers of these SPIFFE IDs, and a service that says what it saw.
func newLayer(t *testing.T, principals []identity.Principal) *layer {
	t.Helper()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("saw", r.RequestURI) }))
	t.Cleanup(service.Close)
	l := &layer{t: t, clients: map[string]*tls.Config{}}
	l.identify(principals)
	l.proxy = start(t, l.source, service.Listener.Addr().(*net.TCPAddr).Port)
	t.Cleanup(l.stop)
	resources := translate(t, []byte(corpusMesh))
	for _, v := range views(resources) {
		if v.name == translator.AudienceWorkload("us-1", corpus.Workload) {
			l.resources = v.resources
		}
	}
	for i, r := range l.resources {
		switch m := proto.Clone(r.Message).(type) {
		case *listenerv3.Listener:
			if m.Name == meshname.ListenerInbound {
				l.resources[i].Message = unchecked(t, m)
			}
		case *api.ProxyConfig:
			for _, id := range principals {
				m.Peers = append(m.Peers, id.String())
			}
			l.resources[i].Message = m
		}
	}
	l.resources = slices.DeleteFunc(l.resources, func(r translator.Resource) bool { return r.Name == meshname.ExtensionAccess })
	return l
}

// identify gets SVIDs of a CA for the Envoy and for each caller.
func (l *layer) identify(principals []identity.Principal) {
	t := l.t
	t.Helper()
	dir, ready := shortDir(t), make(chan struct{})
	socket := filepath.Join(dir, "ca.sock")
	go func() {
		_ = devca.Run(t.Context(), devca.Config{Socket: socket, DataDir: filepath.Join(dir, "ca"), TrustDomain: corpus.TrustDomain, Log: zap.NewNop()}, func() { close(ready) })
	}()
	<-ready
	own, err := identity.WorkloadID(corpus.TrustDomain, "us-1", corpus.Workload)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range append([]identity.Principal{own}, principals...) {
		if err := devca.NewClient(socket).Register(t.Context(), devca.Registration{ID: id, PID: os.Getpid(), UID: os.Getuid()}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if l.source, err = svid.Open(t.Context(), "unix://"+socket); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.source.Close() })
		}
	}
	svids, err := workloadapi.FetchX509SVIDs(t.Context(), workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range svids {
		certificate := tls.Certificate{PrivateKey: s.PrivateKey}
		for _, c := range s.Certificates {
			certificate.Certificate = append(certificate.Certificate, c.Raw)
		}
		l.clients[s.ID.String()] = &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	}
}

// unchecked is a listener without ext_authz.
func unchecked(t *testing.T, l *listenerv3.Listener) *listenerv3.Listener {
	t.Helper()
	filter := l.FilterChains[0].Filters[0]
	manager := &hcmv3.HttpConnectionManager{}
	if err := filter.GetTypedConfig().UnmarshalTo(manager); err != nil {
		t.Fatal(err)
	}
	for _, chain := range []*[]*hcmv3.HttpFilter{&manager.HttpFilters, &manager.UpgradeConfigs[0].Filters} {
		before := len(*chain)
		*chain = slices.DeleteFunc(*chain, func(f *hcmv3.HttpFilter) bool { return f.Name == "envoy.filters.http.ext_authz" })
		if len(*chain) != before-1 {
			t.Fatal("the listener has no check to take out")
		}
	}
	config, err := anypb.New(manager)
	if err != nil {
		t.Fatal(err)
	}
	filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: config}
	return l
}

// enforce gives the Envoy the rules that policies make, and waits until it has them.
func (l *layer) enforce(policies []authz.Policy) {
	l.t.Helper()
	resources := slices.Clone(l.resources)
	var rules *corev3.TypedExtensionConfig
	for _, r := range translator.Translate(&ir.Mesh{TrustDomain: corpus.TrustDomain, Workloads: []ir.Workload{l.workload()}, Policies: policies}) {
		if r.Name == meshname.ExtensionAccess {
			resources, rules = append(resources, r), r.Message.(*corev3.TypedExtensionConfig)
		}
	}
	sequence, set := l.push(l.t, resources)
	first := l.rules == nil
	if !first && proto.Equal(l.rules, rules) {
		return
	}
	l.rules = rules
	ctx, cancel := context.WithTimeout(l.t.Context(), activeTime)
	defer cancel()
	for taken := false; !taken; {
		select {
		case refusal := <-l.refusals:
			l.t.Fatalf("%v\n%v", refusal, rules)
		case v := <-l.verdicts:
			taken = short(v.typeURL) == "TypedExtensionConfig" && v.sequence >= sequence
		case <-ctx.Done():
			l.t.Fatal("Envoy does not take its rules")
		}
	}
	for first { // the listener waits for its rules and its certificate
		active, err := dump(ctx, l.ports[3])
		if missing := slices.DeleteFunc(expected(resources, set), func(name string) bool { return active[name] }); err == nil && len(missing) == 0 {
			return
		} else if ctx.Err() != nil {
			l.t.Fatalf("not active: %v", missing)
		}
	}
}

func (l *layer) workload() ir.Workload {
	return *ir.Build(snapshotOf(l.t, corpusMesh), ir.Options{TrustDomain: corpus.TrustDomain}).Workload(corpus.Workload)
}

// answer is what came of a request.
type answer struct {
	status      int
	reason, saw string
	body        string
}

// ask sends a request as it is, over a new connection (one that was accepted before the rules came may be read before them), whose TLS session may be
// that of the last one, resumed.
func (l *layer) ask(id identity.Principal, method, path string) answer {
	l.t.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", l.ports[1]), l.clients[id.String()])
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: back\r\nConnection: close\r\n\r\n", method, path)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		l.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header.Get(propagation.HeaderReason), response.Header.Get("saw"), string(body)}
}

// askHTTP2 sends a request as [layer.ask] does, as sidecars do: in HTTP/2.
func (l *layer) askHTTP2(id identity.Principal, method, path string) (a answer) {
	l.t.Helper()
	config := l.clients[id.String()].Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", l.ports[1]), config)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "back"}, {":path", path}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return answer{status: http.StatusBadRequest} // what is no HTTP ends the connection
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				switch field.Name {
				case ":status":
					a.status, _ = strconv.Atoi(field.Value)
				case propagation.HeaderReason:
					a.reason = field.Value
				case "saw":
					a.saw = field.Value
				}
			}
			return a
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return answer{status: http.StatusBadRequest}
		}
	}
}

// allowed is Envoy's verdict; a refusal that is not told as one fails the test.
func (a answer) allowed(t *testing.T, line string) bool {
	t.Helper()
	if a.status == http.StatusForbidden && a.reason == policy.DeniedByPolicy.String() && (a.body == "" || strings.Contains(a.body, policy.DeniedByPolicy.Title())) {
		return false
	}
	if a.status != http.StatusOK {
		t.Errorf("%s: %+v", line, a)
	}
	return true
}

var everything = []authz.Policy{{Name: "everything", Spec: policy.AccessPolicySpec{
	Effect: policy.Permit, Principals: []string{"spiffe://" + corpus.TrustDomain + "/**"}, Targets: []policy.Target{{Workload: corpus.Workload, Paths: []string{"/**"}}},
}}}

// TestCorpus asks a real Envoy, over mTLS by each principal, what the rules alone say of the corpus' requests, and what it makes
// of their paths: that is what every verdict stands on.
func TestCorpus(t *testing.T) {
	cases := corpus.Read(t, "../../policy/testdata/corpus")
	principals, requests := map[identity.Principal]bool{}, 0
	var ids []identity.Principal
	for _, c := range cases {
		for _, r := range c.Requests {
			if requests++; !principals[r.Principal] {
				principals[r.Principal], ids = true, append(ids, r.Principal)
			}
		}
	}
	l := newLayer(t, ids)
	l.enforce(everything)
	for _, c := range cases {
		for _, r := range c.Requests {
			for protocol, a := range l.asked(&r) {
				if path, _ := authz.SplitPath(a.saw); a.status == http.StatusOK && path != r.Seen && (r.Seen != "" || protocol == "HTTP/1.1") {
					t.Errorf("%s: %s: in %s the service saw %s", c.Name, r.Line, protocol, a.saw)
				}
				if _, spelled := authz.Canonical(r.Seen); r.Seen != "" && spelled && a.status != http.StatusOK {
					t.Errorf("%s: %s: %+v in %s", c.Name, r.Line, a, protocol)
				}
			}
		}
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			l.t = t
			l.enforce(c.Policies)
			set, err := authz.Compile(c.Policies)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range c.Requests {
				for protocol, a := range l.asked(&r) {
					if r.Seen == "" { // it may be a request in one of them
						r.Seen = a.saw
						r.Envoy = r.Judge(set)
					}
					if a.status != http.StatusBadRequest && a.allowed(t, r.Line) != r.Envoy {
						t.Errorf("%s: in %s allowed is %v", r.Line, protocol, !r.Envoy)
					}
				}
			}
		})
	}
	t.Logf("%d requests in %d cases", requests, len(cases))
}

// asked asks in both protocols, where the request can be made in them.
func (l *layer) asked(r *corpus.Request) map[string]answer {
	answers := map[string]answer{"HTTP/1.1": l.ask(r.Principal, r.Method, r.Path)}
	if strings.HasPrefix(r.Path, "/") {
		answers["HTTP/2"] = l.askHTTP2(r.Principal, r.Method, r.Path)
	}
	if got := answers["HTTP/1.1"]; (got.status == http.StatusBadRequest) != (r.Seen == "" || strings.ContainsFunc(r.Path, func(c rune) bool { return c >= utf8.RuneSelf })) {
		l.t.Errorf("%s: %+v in HTTP/1.1", r.Line, got)
	} else if got.status == http.StatusBadRequest && r.Seen != "" {
		delete(answers, "HTTP/1.1")
	}
	return answers
}

// TestUpgradesAreRefusedToo: an upgrade has filters of its own, and the rules are among them.
func TestUpgradesAreRefusedToo(t *testing.T) {
	front, err := identity.ParsePrincipal("spiffe://" + corpus.TrustDomain + "/cell/us-1/workload/front")
	if err != nil {
		t.Fatal(err)
	}
	l := newLayer(t, []identity.Principal{front})
	l.enforce([]authz.Policy{{Name: "open", Spec: policy.AccessPolicySpec{
		Effect: policy.Permit, Principals: []string{front.String()}, Targets: []policy.Target{{Workload: corpus.Workload, Paths: []string{"/open"}}},
	}}})
	const upgrade = " HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX:"
	if a := l.ask(front, http.MethodGet, "/closed"+upgrade); a.allowed(t, "/closed") {
		t.Errorf("an upgrade that no policy allows: %+v", a)
	}
	// Without a Go process nothing is held open: Envoy lets it through, and answers that.
	if a := l.ask(front, http.MethodGet, "/open"+upgrade); a.status != http.StatusServiceUnavailable {
		t.Errorf("an upgrade that a policy allows: %+v", a)
	}
}

// TestGeneratedPolicies asks a real Envoy what the corpus does not think of: it refuses nothing that the evaluator allows, and
// where policies have neither tenants nor conditions it allows nothing else.
func TestGeneratedPolicies(t *testing.T) {
	l := newLayer(t, corpus.Principals())
	l.enforce(everything)
	rapid.Check(t, func(rt *rapid.T) {
		plain := rapid.Bool().Draw(rt, "plain")
		policies := corpus.DrawPolicies(rt, plain)
		set, err := authz.Compile(policies)
		if err != nil {
			rt.Fatal(err)
		}
		l.enforce(policies)
		for range 8 {
			r, path := corpus.DrawRequest(rt)
			_, want := set.Allowed(&r)
			if got := l.ask(r.Principal, r.Method, path).allowed(t, path); got != want && (want || plain) {
				rt.Fatalf("%s %s by %s: the evaluator says %v, Envoy %v", r.Method, path, r.Principal, want, got)
			}
		}
	})
}
