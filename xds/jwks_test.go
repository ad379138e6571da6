package xds

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/ir"
)

// TestKeysOutliveTheControlPlane: one that begins while the issuer does not answer has what another fetched before, and
// nothing for a URI that nobody ever fetched.
func TestKeysOutliveTheControlPlane(t *testing.T) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	x := base64.RawURLEncoding.EncodeToString(public)
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, x)
	}))
	defer issuer.Close()
	store := memstore.New()
	writer := tenantstore.NewWriter(store, time.Now)
	apply := func(uri string) {
		o := &tenantstore.Object{Kind: tenantstore.KindTokenIssuer, Metadata: tenantstore.Metadata{Name: "login"}, TokenIssuer: &tenantstore.TokenIssuerSpec{
			Issuer: "https://login.example", Audiences: []string{"api"}, Tenants: []string{"*"}, JWKS: tenantstore.JWKS{URI: uri},
		}}
		if _, err := writer.Apply(t.Context(), "test", []*tenantstore.Object{o}, tenantstore.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	published := func() string {
		snapshot, err := store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return ir.Build(snapshot, ir.Options{TrustDomain: "mesh.test"}).Issuers[0].JWKS
	}
	apply(issuer.URL)
	if keys := published(); strings.Contains(keys, x) {
		t.Errorf("keys that nobody fetched: %s", keys)
	}
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changes, err := store.Watch(t.Context(), snapshot.Revision)
	if err != nil {
		t.Fatal(err)
	}
	first := newKeyFetcher(KeySources{Hosts: []string{"127.0.0.1"}, PlainHTTP: true, Loopback: true}, writer, zap.NewNop())
	first.follow(snapshot.Objects)
	<-changes
	first.stop()
	if keys := published(); !strings.Contains(keys, x) {
		t.Errorf("a control plane that begins has %s", keys)
	}
	apply(issuer.URL + "/other")
	if keys := published(); strings.Contains(keys, x) {
		t.Errorf("the keys of another URI: %s", keys)
	}
}
