package feature

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestOptInLanguages: services of other languages that opt in as examples/optin shows do what a service in Go does: behind a real sidecar for
// requests and calls, and asked themselves with contexts that a gateway's own key signed, good ones and spoilt ones.
func TestOptInLanguages(t *testing.T) {
	m := meshtest.Start(t, objects)
	gateway := m.Gateway(t)
	m.Workload(t, "us-1", "back", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Tenant-Id"))
	}))
	var service atomic.Pointer[url.URL]
	front := m.Workload(t, "us-1", "front", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(service.Load()) }})
	contexts := contextsOf(t, m.SigningKeyOf(t, gateway))
	inGo := propagation.Middleware(propagation.NewVerifier(&propagation.Sidecar{URL: front.Health}), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))

	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			at := l.start(t, front.Health, front.Outbound)
			service.Store(at)
			for _, tenant := range []string{"acme", "globex"} {
				if r := m.Get(t, gateway.URL+"/front/x", tenant); r.Status != http.StatusOK || r.Body != tenant+" "+tenant {
					t.Errorf("%s: %d %q", tenant, r.Status, r.Body)
				}
			}
			if r := m.Get(t, gateway.URL+"/front/lost", "acme"); r.Status != http.StatusTeapot || !strings.Contains(r.Body, "tenantless outbound call: GET http://back/x,") {
				t.Errorf("a call for none: %d %q", r.Status, r.Body)
			}
			for name, sent := range contexts {
				header := http.Header{"Txn-Token": sent, "X-Tenant-Id": {"globex"}}
				recorder := httptest.NewRecorder()
				request := httptest.NewRequest(http.MethodGet, "/x", nil)
				request.Header = header
				inGo.ServeHTTP(recorder, request)
				r := meshtest.Do(t, http.DefaultClient, http.MethodGet, at.String()+"/x", header, nil)
				good := strings.HasPrefix(name, "good")
				switch {
				case good != (recorder.Code == http.StatusOK):
					t.Errorf("%s: a service in Go answers %d %s", name, recorder.Code, recorder.Body)
				// Of a good one that the mesh never made the sidecar need not let the call through: what counts is for whom it was taken.
				case good && (r.Status != http.StatusOK || !strings.HasPrefix(r.Body, "acme ")), !good && r.Status != http.StatusForbidden:
					t.Errorf("%s: %d %q, where a service in Go answers %d", name, r.Status, r.Body, recorder.Code)
				}
			}
			if r := meshtest.Do(t, http.DefaultClient, http.MethodGet, l.start(t, "http://127.0.0.1:1", front.Outbound).String()+"/x", http.Header{"Txn-Token": contexts["good"]}, nil); r.Status != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
				t.Errorf("without a sidecar: %d %q", r.Status, r.Body)
			}
		})
	}
}

// language is a service that opts in.
type language struct{ name, installed, folder string }

var languages = []language{{"WSGI", "optin", "python"}, {"ASGI", "optin", "python"}, {"Express", "express", "node"}}

func (l language) command(t *testing.T, port string) *exec.Cmd {
	t.Helper()
	switch l.name {
	case "WSGI":
		return exec.Command(meshtest.Tool(t, "optin/bin/python"), "wsgi.py", port)
	case "ASGI":
		return exec.Command(meshtest.Tool(t, "optin/bin/uvicorn"), "--port", port, "--log-level", "warning", "asgi:app")
	default:
		return exec.Command("node", "server.js", port)
	}
}

// start starts the service beside a sidecar that is there, until the test ends.
func (l language) start(t *testing.T, sidecar, proxy string) *url.URL {
	t.Helper()
	modules, err := filepath.Abs("../../.tools/express/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("../../.tools", l.installed, "done")); err != nil {
		t.Skipf("skipped: 'make tools' could not install .tools/%s here", l.installed)
	}
	if _, err := exec.LookPath("node"); err != nil && l.folder == "node" {
		t.Skip("skipped: there is no Node.js")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	_ = listener.Close()
	_, port, _ := net.SplitHostPort(at)
	cmd := l.command(t, port)
	cmd.Dir = filepath.Join("../../examples/optin", l.folder)
	cmd.Env = append(os.Environ(), "SIDECAR="+sidecar, "http_proxy="+proxy, "BACK=http://back", "no_proxy=", "PYTHONDONTWRITEBYTECODE=1", "NODE_PATH="+modules)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said: %s", cmd, said.String())
		}
	})
	for deadline := time.After(30 * time.Second); ; {
		if conn, err := net.Dial("tcp", at); err == nil {
			_ = conn.Close()
			return &url.URL{Scheme: "http", Host: at}
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", cmd, said.String())
		case <-deadline:
			t.Fatalf("%s does not listen", cmd)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// contextsOf are contexts that a key signs: those whose name begins with "good" are to be accepted.
func contextsOf(t *testing.T, key tenanttoken.SigningKey) map[string][]string {
	t.Helper()
	principal, err := identity.GatewayID(meshtest.TrustDomain, "edge")
	if err != nil {
		t.Fatal(err)
	}
	acme, err := identity.ParseTenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key tenanttoken.SigningKey, change func(*tenanttoken.Claims)) string {
		t.Helper()
		now := time.Now()
		claims := tenanttoken.Claims{
			Audience: meshtest.TrustDomain, IssuedAt: now, Expiry: now.Add(5 * time.Minute), Txn: "txn-1", Subject: "alice",
			Context: tenanttoken.Context{Tenant: acme, UID: "uid-1", Tier: "gold", Cell: "us-1", Epoch: 7, Role: tenanttoken.Owner, Purpose: tenanttoken.Request, Keys: []string{tenanttoken.KeyDigest("trace")}},
		}
		change(&claims)
		signer, err := tenanttoken.NewSigner(key, principal)
		if err != nil {
			t.Fatal(err)
		}
		text, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := sign(key, func(*tenanttoken.Claims) {})
	parts := strings.Split(good, ".")
	plain := func(part string) string {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	raw := func(header, payload string) string {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key.Private, []byte(text)))
	}
	swap := func(part int, old, new string) []string {
		texts := []string{plain(parts[0]), plain(parts[1])}
		if !strings.Contains(texts[part], old) {
			t.Fatalf("%s is not in %s", old, texts[part])
		}
		texts[part] = strings.Replace(texts[part], old, new, 1)
		return []string{raw(texts[0], texts[1])}
	}
	changed := func(change func(*tenanttoken.Claims)) []string { return []string{sign(key, change)} }
	stranger, err := tenanttoken.NewSigningKey(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	forged := stranger
	forged.KID = key.KID
	exp := func(claims *tenanttoken.Claims, from, to time.Duration) {
		claims.IssuedAt, claims.Expiry = time.Now().Add(from), time.Now().Add(to)
	}
	return map[string][]string{
		"good":                         {good},
		"good, a subject of all sorts": changed(func(c *tenanttoken.Claims) { c.Subject = "é\u2028\"\\/\b\x01\x7f<&>😀" }),
		"good, of a job":               changed(func(c *tenanttoken.Claims) { c.Context.Purpose, c.Context.Role = tenanttoken.Job, tenanttoken.Replica }),
		"good, without keys":           changed(func(c *tenanttoken.Claims) { c.Context.Keys = nil }),
		"none":                         nil,
		"empty":                        {""},
		"two":                          {good, good},
		"two in one":                   {good + "," + good},
		"a tenant":                     {"acme"},
		"no ASCII":                     {"é.é.é"},
		"over 8 KiB":                   {strings.Repeat("a", tenanttoken.MaxSize+1)},
		"deep":                         {base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte("["), 6000)) + ".e30."},
		"deep, signed":                 {raw(plain(parts[0]), strings.Repeat("[", 2500)+strings.Repeat("]", 2500))},
		"a stranger's":                 {sign(stranger, func(*tenanttoken.Claims) {})},
		"forged":                       {sign(forged, func(*tenanttoken.Claims) {})},
		"unsigned":                     {parts[0] + "." + parts[1] + "."},
		"padded":                       {good + "="},
		"a character more":             {good + "A"},
		"other last bits":              {good[:len(good)-1] + string(good[len(good)-1]+1)},
		"a blank in it":                {parts[0] + ". " + parts[1] + "." + parts[2]},
		"alg none":                     swap(0, "EdDSA", "none"),
		"alg HMAC":                     swap(0, "EdDSA", "HS256"),
		"wrong typ":                    swap(0, "txntoken+jwt", "JWT"),
		"no kid":                       {raw(`{"alg":"EdDSA","typ":"txntoken+jwt"}`, plain(parts[1]))},
		"kid no text":                  {raw(`{"alg":"EdDSA","typ":"txntoken+jwt","kid":["`+key.KID+`"]}`, plain(parts[1]))},
		"jwk":                          swap(0, "{", `{"jwk":{},`),
		"crit":                         swap(0, "{", `{"crit":["exp"],`),
		"header twice":                 swap(0, "{", `{"alg":"EdDSA",`),
		"no object":                    {raw(plain(parts[0]), `[]`)},
		"no JSON":                      {raw(plain(parts[0]), `{`)},
		"null":                         {raw(plain(parts[0]), `null`)},
		"no UTF-8":                     swap(1, "alice", "ali\xffce"),
		"member twice":                 swap(1, "{", `{"sub":"eve",`),
		"member by case":               swap(1, "{", `{"Iss":"spiffe://mesh.example/x",`),
		"inner twice":                  swap(1, `"uid"`, `"tenant":"globex","uid"`),
		"unknown claim":                swap(1, "{", `{"more":1,`),
		"a prototype":                  swap(1, "{", `{"__proto__":{"txn":"x"},`),
		"exp no number":                swap(1, `"exp":`, `"exp":true,"x":`),
		"exp a text":                   {raw(plain(parts[0]), strings.Replace(plain(parts[1]), `"exp":`, `"exp":"9",`, 1))},
		"no tctx":                      {raw(plain(parts[0]), fmt.Sprintf(`{"iss":%q,"aud":%q,"iat":%d,"exp":%d,"txn":"t","sub":""}`, principal, meshtest.TrustDomain, time.Now().Unix(), time.Now().Unix()+60))},
		"wrong aud":                    changed(func(c *tenanttoken.Claims) { c.Audience = "other.example" }),
		"iss not signer's":             swap(1, "gateway/edge", "gateway/else"),
		"no txn":                       changed(func(c *tenanttoken.Claims) { c.Txn = "" }),
		"no uid":                       changed(func(c *tenanttoken.Claims) { c.Context.UID = "" }),
		"no cell":                      changed(func(c *tenanttoken.Claims) { c.Context.Cell = "" }),
		"no tenant":                    swap(1, `"acme"`, `""`),
		"tenant no name":               swap(1, `"acme"`, `"acme\n"`),
		"tenant null":                  swap(1, `"acme"`, `null`),
		"epoch":                        swap(1, `"epoch":7`, `"epoch":0`),
		"epoch a fraction":             swap(1, `"epoch":7`, `"epoch":7.5`),
		"role":                         swap(1, `"owner"`, `"king"`),
		"purpose":                      swap(1, `"request"`, `"fun"`),
		"over":                         changed(func(c *tenanttoken.Claims) { exp(c, -2*time.Minute, -time.Second) }),
		"too long":                     changed(func(c *tenanttoken.Claims) { exp(c, 0, 16*time.Minute) }),
		"ends before it begins":        changed(func(c *tenanttoken.Claims) { exp(c, 20*time.Second, 10*time.Second) }),
		"not yet":                      changed(func(c *tenanttoken.Claims) { exp(c, 40*time.Second, time.Minute) }),
	}
}
