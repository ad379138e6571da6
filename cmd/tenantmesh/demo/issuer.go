package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// What the demo's TokenIssuer object says of the issuer below.
const (
	issuerName     = "https://login.acmedocs.example"
	issuerAudience = "acmedocs"
	issuerKeyFile  = "issuer-key.pem"
	issuerKeyID    = "demo-1"
)

// Token is what `demo token` asks for.
type Token struct {
	Tenant  string
	Subject string
	TTL     time.Duration // negative: a token that is expired already
	Issuer  string        // default: the demo's own
}

// SignToken returns a JWT under the key that the demo keeps in data.
func SignToken(data string, token Token) (string, error) {
	key, err := readIssuerKey(filepath.Join(data, issuerKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no demo has run in %s: %w", data, err)
	}
	if err != nil {
		return "", err
	}
	return signToken(key, token)
}

func signToken(key *ecdsa.PrivateKey, token Token) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", issuerKeyID))
	if err != nil {
		return "", err
	}
	now := time.Now()
	claims := map[string]any{
		"iss": issuerName, "aud": issuerAudience, "sub": token.Subject, "tenant": token.Tenant,
		"iat": now.Add(min(0, token.TTL) - time.Minute).Unix(), "exp": now.Add(token.TTL).Unix(),
	}
	if token.Issuer != "" {
		claims["iss"] = token.Issuer
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// ServeIssuer makes the issuer's key in data if there is none, and serves its public half as
// http://<address>/jwks.json until ctx ends.
func ServeIssuer(ctx context.Context, address, data string) error {
	path := filepath.Join(data, issuerKeyFile)
	key, err := readIssuerKey(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err = makeIssuerKey(path)
	}
	if err != nil {
		return err
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &key.PublicKey, KeyID: issuerKeyID, Algorithm: string(jose.ES256), Use: "sig"},
	}}
	body, err := json.Marshal(set)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(body)
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func makeIssuerKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, os.WriteFile(path, block, 0o600)
}

func readIssuerKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s must hold a PEM private key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ecKey, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s must hold an ECDSA key (got %T)", path, key)
	}
	return ecKey, nil
}
