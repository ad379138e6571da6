package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/policysync"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// noEnvoy is the Envoy of a client that has none: it accepts what it is given.
type noEnvoy struct {
	sequence int64
	judged   func(typeURL string, sequence int64, refusal error)
}

func (e *noEnvoy) Update(*policysync.State, *policyset.Set) (int64, error) {
	e.sequence++
	go func(sequence int64) {
		for _, typeURL := range policysync.EnvoyTypes {
			e.judged(typeURL, sequence, nil)
		}
	}(e.sequence)
	return e.sequence, nil
}

// holdClients is another load generator: n clients as sidecars have them, each with a connection and a state on the disk of
// its own. They answer once what was pushed is what they would decide by.
func holdClients(ctx context.Context, control string, n int) error {
	source, err := svid.Open(ctx, "")
	if err != nil {
		return err
	}
	defer source.Close()
	self, err := source.Principal()
	if err != nil {
		return err
	}
	want, err := identity.ControlID(self.TrustDomain())
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(memoryDir(), "clients-") // a hundred sidecars do not share a disk
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tls := credentials.NewTLS(svid.ClientTLS(source, svid.AuthorizeIDs(want)))
	group := errgroup.Group{}
	holders := make([]*policyset.Holder, n)
	for i := range n {
		conn, err := grpc.NewClient(control, grpc.WithTransportCredentials(tls), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxPushed)))
		if err != nil {
			return err
		}
		defer conn.Close()
		envoy := &noEnvoy{}
		holders[i] = &policyset.Holder{}
		client, err := policysync.New(policysync.Config{
			Conn: conn, Sets: holders[i], Envoy: envoy, Path: filepath.Join(dir, fmt.Sprint(i, ".json")), Saved: func(*policyset.Set) {}, Log: zap.NewNop(),
		}, &policysync.State{Principal: self.String(), Resources: map[string]map[string]policysync.Resource{}})
		if err != nil {
			return err
		}
		envoy.judged = client.Judged
		group.Go(func() error { return client.Run(ctx) })
	}
	for _, holder := range holders {
		for {
			changed := holder.Changed()
			if set := holder.Load(); set != nil && set.Self != nil && set.Tenants() > 0 {
				break
			}
			<-changed
		}
	}
	fmt.Fprintln(os.Stdout, "ready")
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		fmt.Fprintln(os.Stdout, 0)
	}
	cancel()
	return group.Wait()
}

// memoryDir is a folder in memory, "" where there is none.
func memoryDir() string {
	const path = "/dev/shm" // shm_overview(7)
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return ""
	}
	return path
}

const (
	revokeSidecars = 90
	revokeGateways = 10
	revokeTenants  = 100
	revokeEach     = 20 // of a kind in a round

	restTime = 250 * time.Millisecond
)

const revokeMesh = `---
apiVersion: tenantmesh.dev/v1alpha1
kind: TokenIssuer
metadata: {name: login}
spec:
  issuer: https://login.bench
  audiences: [bench]
  tenants: ["*"]
  jwks: {inline: '{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},{"kty":"EC","crv":"P-256","kid":"b","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'}
%s
`

const revokeForbid = `---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no}
spec: {effect: Forbid, principals: ["spiffe://bench.example/gateway/edge"], tenants: {names: [t-7]}, targets: [{workload: "*"}]}
`

const revokeGrant = `---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessGrant
metadata: {name: support}
spec: {principal: "spiffe://bench.example/gateway/edge", tenants: {names: [t-7]}, targets: [{workload: front}], reason: bench, breakGlass: true, notAfter: %q}
`

const revokeTier = `---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tier
metadata: {name: bronze}
spec: {limits: {requestsPerSecond: %d, burst: 20, concurrency: 10}, weight: 1}
`

// write applies objects, and returns the revision.
func (p *plane) write(ctx context.Context, text string) (int64, error) {
	objects, err := decodeObjects(text)
	if err != nil {
		return 0, err
	}
	applied, err := p.admin.Apply(ctx, objects, false)
	return applied.Revision, err
}

func (p *plane) remove(ctx context.Context, kind tenantstore.Kind, name string) (int64, error) {
	info, err := tenantstore.ParseKind(string(kind))
	if err != nil {
		return 0, err
	}
	applied, err := p.admin.Delete(ctx, info, name)
	return applied.Revision, err
}

// enforced waits until everybody enforces a revision.
func (p *plane) enforced(ctx context.Context, revision int64) error {
	status, err := p.admin.Status(ctx, revision, true, pushWait)
	if err == nil && !status.Done() {
		err = fmt.Errorf("revision %d is in force at %d of %d", revision, status.Enforced, status.Total)
	}
	return err
}

// revocations are what is measured: what comes before, what is measured, and what undoes it.
var revocations = []struct {
	name                 string
	before, revoke, undo func(context.Context, *plane) (int64, error)
}{
	{"a tenant is suspended", nil, func(ctx context.Context, p *plane) (int64, error) { return p.write(ctx, benchTenant(7, true)) },
		func(ctx context.Context, p *plane) (int64, error) { return p.write(ctx, benchTenant(7, false)) }},
	{"a principal is forbidden", nil, func(ctx context.Context, p *plane) (int64, error) { return p.write(ctx, revokeForbid) },
		func(ctx context.Context, p *plane) (int64, error) {
			return p.remove(ctx, tenantstore.KindAccessPolicy, "no")
		}},
	{"a grant is ended", func(ctx context.Context, p *plane) (int64, error) {
		return p.write(ctx, fmt.Sprintf(revokeGrant, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	},
		func(ctx context.Context, p *plane) (int64, error) {
			return p.remove(ctx, tenantstore.KindAccessGrant, "support")
		}, nil},
	{"an issuer's key is withdrawn", nil, func(ctx context.Context, p *plane) (int64, error) {
		return p.write(ctx, fmt.Sprintf(revokeMesh, "  withdrawnKeys: [a]"))
	}, func(ctx context.Context, p *plane) (int64, error) { return p.write(ctx, fmt.Sprintf(revokeMesh, "")) }},
	{"a token is revoked", nil, func(ctx context.Context, p *plane) (int64, error) {
		txn := make([]byte, 16)
		_, _ = rand.Read(txn) // does not fail (its package documentation)
		applied, err := p.admin.RevokeToken(ctx, hex.EncodeToString(txn), "bench")
		return applied.Revision, err
	}, nil},
}

// measureRevoke measures how long it takes from the command until the last of a hundred clients decides by what was taken
// away, alone and right behind a change of every tenant that is held.
func measureRevoke(ctx context.Context, rounds int) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(out, "%d sidecars, %d gateways, %d tenants\tms to the last, p50\tp99\tright after a change of every tenant, p50\tp99\n", revokeSidecars, revokeGateways, revokeTenants)
	err := withPlane(ctx, revokeTenants, func(p *plane) error {
		stop, err := p.connect(ctx, revokeSidecars, revokeGateways)
		if err != nil {
			return err
		}
		defer stop()
		for _, r := range revocations {
			var took [2][]float64
			for i := range 2 * rounds * revokeEach {
				ms, err := p.revoke(ctx, r.before, r.revoke, r.undo, i)
				if err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				took[i%2] = append(took[i%2], ms)
			}
			fmt.Fprintf(out, "%s\t%.1f\t%.1f\t%.1f\t%.1f\n", r.name, quantile(took[0], 50), quantile(took[0], 99), quantile(took[1], 50), quantile(took[1], 99))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// connect starts so many clients, and gives them something to lose.
func (p *plane) connect(ctx context.Context, sidecars, gateways int) (stop func(), err error) {
	if _, err := p.write(ctx, fmt.Sprintf(revokeMesh, "")); err != nil {
		return nil, err
	}
	front, err := identity.WorkloadID(benchDomain, "us-1", "front")
	if err != nil {
		return nil, err
	}
	edge, err := identity.GatewayID(benchDomain, "edge")
	if err != nil {
		return nil, err
	}
	_, _, stopSidecars, err := p.generateAs(ctx, front, sidecars, "-clients")
	if err != nil {
		return nil, err
	}
	_, _, stopGateways, err := p.generateAs(ctx, edge, gateways, "-clients")
	if err != nil {
		stopSidecars()
		return nil, err
	}
	return func() {
		stopSidecars()
		stopGateways()
	}, nil
}

// revoke is one revocation; every other one comes behind a change of every tenant. It takes milliseconds.
func (p *plane) revoke(ctx context.Context, before, revoke, undo func(context.Context, *plane) (int64, error), i int) (float64, error) {
	settle := func(change func(context.Context, *plane) (int64, error)) error {
		if change == nil {
			return nil
		}
		revision, err := change(ctx, p)
		if err == nil {
			err = p.enforced(ctx, revision)
		}
		return err
	}
	if err := settle(before); err != nil {
		return 0, err
	}
	if i%2 == 1 {
		if _, err := p.write(ctx, fmt.Sprintf(revokeTier, 10+i)); err != nil {
			return 0, err
		}
	}
	if i%2 == 0 {
		select { // a hundred clients on one machine still write what was before
		case <-time.After(restTime):
		case <-ctx.Done():
		}
	}
	began := time.Now()
	revision, err := revoke(ctx, p)
	if err == nil {
		err = p.enforced(ctx, revision)
	}
	ms := float64(time.Since(began).Microseconds()) / 1000
	if err != nil {
		return ms, err
	}
	if err := settle(undo); err != nil {
		return ms, err
	}
	return ms, p.enforced(ctx, 0)
}

func quantile(values []float64, percent int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)*percent/100]
}
