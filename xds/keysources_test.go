package xds

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// issuer is a real server of keys, that counts who asks.
type issuer struct {
	*httptest.Server
	asked atomic.Int32
}

func newIssuer(t *testing.T, answer func(w http.ResponseWriter)) *issuer {
	t.Helper()
	i := &issuer{}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		answer(w)
	}))
	t.Cleanup(i.Close)
	return i
}

func someKeys(t *testing.T) func(w http.ResponseWriter) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(w http.ResponseWriter) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	}
}

// nameServer is a real one, for which every name is at the address of the moment.
type nameServer struct{ at atomic.Pointer[netip.Addr] }

func newNames(t *testing.T, at string) (*nameServer, *net.Resolver) {
	t.Helper()
	s := &nameServer{}
	s.move(at)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	go func() {
		defer close(done)
		query := make([]byte, 512)
		for {
			n, from, err := socket.ReadFrom(query)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(s.answer(query[:n]), from)
		}
	}()
	return s, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

func (s *nameServer) move(to string) {
	at := netip.MustParseAddr(to)
	s.at.Store(&at)
}

// answer is to a query of one question (RFC 1035, section 4).
func (s *nameServer) answer(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5
	at, record := s.at.Load().AsSlice(), byte(1) // A
	if len(at) == 16 {
		record = 28 // AAAA
	}
	message := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if query[end-3] == record {
		message[7] = 1
		message = append(append(message, 0xc0, 12, 0, record, 0, 1, 0, 0, 0, 0, 0, byte(len(at))), at...)
	}
	return message
}

func fetcher(sources KeySources) *keyFetcher {
	store := memstore.New()
	return newKeyFetcher(sources, tenantstore.NewWriter(store, time.Now), zap.NewNop())
}

// TestKeysAreFetchedFromNamedHosts: keys come over real HTTP from a host that the operator named, and from none else, wherever it leads.
func TestKeysAreFetchedFromNamedHosts(t *testing.T) {
	keys := someKeys(t)
	good := newIssuer(t, keys)
	elsewhere := newIssuer(t, keys)
	redirects := newIssuer(t, func(w http.ResponseWriter) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(http.StatusFound)
	})
	port := func(i *issuer) string {
		_, port, _ := strings.Cut(strings.TrimPrefix(i.URL, "http://"), ":")
		return port
	}
	here := KeySources{Hosts: []string{"127.0.0.1", "Login.Example"}, PlainHTTP: true, Loopback: true}
	for name, test := range map[string]struct {
		sources KeySources
		uri     string
		want    string // in the error; "" for none
	}{
		"a named host":        {here, good.URL, ""},
		"nowhere":             {KeySources{}, "https://login.example/keys", "must be at a host that the control plane was started with, as --jwks-host login.example: those are none"},
		"another host":        {here, "http://localhost:" + port(good), "as --jwks-host localhost: those are 127.0.0.1, Login.Example"},
		"a host below":        {here, "http://evil.login.example", "as --jwks-host evil.login.example"},
		"a host that ends so": {here, "http://evillogin.example", "as --jwks-host evillogin.example"},
		"with a dot":          {here, "http://login.example./keys", "as --jwks-host login.example."},
		"with a user":         {here, "http://login.example@127.0.0.1:" + port(good), "without user"},
		"plain":               {KeySources{Hosts: []string{"127.0.0.1"}, Loopback: true}, good.URL, "must be https, or the control plane be started with --allow-http-jwks"},
		"another scheme":      {here, "file:///etc/passwd", "must be an http or https URL"},
		"loopback":            {KeySources{Hosts: []string{"127.0.0.1"}, PlainHTTP: true}, good.URL, "loopback, but with --allow-loopback-jwks (got 127.0.0.1)"},
		"a redirect":          {here, redirects.URL, "answers 302"},
		"not keys":            {here, newIssuer(t, func(w http.ResponseWriter) { fmt.Fprint(w, "root:x:0") }).URL, "must be a JWK Set"},
	} {
		before := good.asked.Load()
		text, err := fetcher(test.sources).fetch(t.Context(), test.uri)
		if (test.want == "") != (err == nil && text != "") || err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if asked := good.asked.Load() - before; (test.want == "") != (asked == 1) {
			t.Errorf("%s: the issuer was asked %d times", name, asked)
		}
	}
	if n := elsewhere.asked.Load(); n != 0 {
		t.Errorf("where a redirect leads was asked %d times", n)
	}
}

// TestNamesThatMove: it is the address that is dialled that counts, not what the name was at before (DNS rebinding).
func TestNamesThatMove(t *testing.T) {
	issuer := newIssuer(t, someKeys(t))
	u, err := url.Parse(issuer.URL)
	if err != nil {
		t.Fatal(err)
	}
	uri := "http://login.example:" + u.Port()
	names, resolver := newNames(t, "127.0.0.1")
	sources := KeySources{Hosts: []string{"login.example"}, PlainHTTP: true, Loopback: true, Resolver: resolver}
	development := fetcher(sources)
	if _, err := development.fetch(t.Context(), uri); err != nil || issuer.asked.Load() != 1 {
		t.Fatalf("at first: %v, asked %d times", err, issuer.asked.Load())
	}
	for _, at := range []string{"169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "100.100.100.200", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"} {
		names.move(at)
		if _, err := development.fetch(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "must not lead to an address that is") {
			t.Errorf("at %s: %v", at, err)
		}
	}
	names.move("127.0.0.1")
	sources.Loopback = false
	if _, err := fetcher(sources).fetch(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("at loopback: %v", err)
	}
	if n := issuer.asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times, want once", n)
	}
}

// TestNoProxy: the environment's proxy would dial in the place of this process.
func TestNoProxy(t *testing.T) {
	proxy := newIssuer(t, someKeys(t))
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	_, resolver := newNames(t, "169.254.169.254")
	f := fetcher(KeySources{Hosts: []string{"login.example"}, PlainHTTP: true, Resolver: resolver})
	if _, err := f.fetch(t.Context(), "http://login.example/keys"); err == nil || proxy.asked.Load() != 0 {
		t.Errorf("%v; the proxy was asked %d times", err, proxy.asked.Load())
	}
}

func TestAddresses(t *testing.T) {
	var production KeySources
	development := KeySources{Loopback: true}
	for _, text := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"} {
		if at := netip.MustParseAddr(text); production.checkAddress(at) == nil || development.checkAddress(at) != nil {
			t.Errorf("%s: %v, for development %v", text, production.checkAddress(at), development.checkAddress(at))
		}
	}
	for _, text := range []string{
		"0.0.0.0", "0.1.2.3", "::", "169.254.0.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "239.1.1.1", "ff02::1", "ff05::2", "255.255.255.255", "240.0.0.1",
		"192.0.0.192", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "fec0::1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "::ffff:0.0.0.0",
	} {
		if at := netip.MustParseAddr(text); production.checkAddress(at) == nil || development.checkAddress(at) == nil {
			t.Errorf("%s is dialled", text)
		}
	}
	for _, text := range []string{"203.0.113.7", "10.1.2.3", "192.168.1.1", "100.64.0.1", "2001:db8::1", "2606:4700::1", "fd12:3456::1"} {
		if err := production.checkAddress(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestIssuersAreRefusedAtOnce: a URI from which nothing would be fetched is not applied.
func TestIssuersAreRefusedAtOnce(t *testing.T) {
	writer := tenantstore.NewWriter(memstore.New(), time.Now)
	sources := KeySources{Hosts: []string{"login.example"}}
	writer.CheckKeys(sources.Check)
	for uri, want := range map[string]string{
		"https://login.example/keys": "", "https://evil.example/keys": "TokenIssuer/login: spec.jwks.uri: must be at a host", "http://login.example/keys": "TokenIssuer/login: spec.jwks.uri: must be https",
	} {
		_, err := writer.Apply(t.Context(), "test", []*tenantstore.Object{{Kind: tenantstore.KindTokenIssuer, Metadata: tenantstore.Metadata{Name: "login"}, TokenIssuer: &tenantstore.TokenIssuerSpec{
			Issuer: "https://login.example", Audiences: []string{"api"}, Tenants: []string{"*"}, JWKS: tenantstore.JWKS{URI: uri},
		}}}, tenantstore.ApplyOptions{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
}
