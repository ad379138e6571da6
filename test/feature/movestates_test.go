package feature

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// gate is a store that does something just before a tenant's placement comes into a state.
type gate struct {
	tenantstore.Store

	mu sync.Mutex
	at tenantstore.MoveState // "": never
	do func()
}

func (g *gate) between(store tenantstore.Store) tenantstore.Store {
	g.Store = store
	return g
}

// before has do done once, before the next placement in that state.
func (g *gate) before(at tenantstore.MoveState, do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.do = at, do
}

// Apply implements tenantstore.Store.
func (g *gate) Apply(ctx context.Context, tx tenantstore.Transaction) (tenantstore.Revision, error) {
	g.mu.Lock()
	for _, o := range tx.Put {
		if o.Kind == tenantstore.KindTenant && g.at != "" && o.Status.Placement.State == g.at {
			g.at = ""
			g.do()
		}
	}
	g.mu.Unlock()
	return g.Store.Apply(ctx, tx)
}

// TestMoveGivenUp gives a move up in each of its states, under a load of writes: what is asked for at the wrong time is
// refused and says what to ask for instead, the tenant is back where it was, no client sees an error, and no write is
// lost or doubled. A move is held in a state by a member that does not hear of it.
func TestMoveGivenUp(t *testing.T) {
	const (
		notLeft = "the tenant has not left us-1, and 'tenantmesh tenant move acme --abort' keeps it there"
		left    = "the tenant is in us-2 already, and 'tenantmesh tenant move acme --rollback' takes it back to us-1"
	)
	g := &gate{}
	w := newMoving(t, meshtest.Through(g.between))
	idle := w.GatewayAs(t, "idle")
	stop := w.load(t, 3)
	for _, test := range []struct {
		at      tenantstore.MoveState
		deaf    *meshtest.Sidecar
		refused tenantstore.Transition
		why     string
		asked   tenantstore.Transition
	}{
		{tenantstore.StateMigrating, idle, tenantstore.MoveRollback, notLeft, tenantstore.MoveAbort},
		{tenantstore.StateFencing, w.fronts["us-2"], tenantstore.MoveRollback, notLeft, tenantstore.MoveAbort},
		{tenantstore.StateCutover, idle, tenantstore.MoveAbort, left, tenantstore.MoveRollback},
		{tenantstore.StateFinal, nil, tenantstore.MoveAbort, left, tenantstore.MoveRollback},
	} {
		t.Run(string(test.at), func(t *testing.T) {
			if test.deaf != nil {
				g.before(test.at, func() { _ = syscall.Kill(test.deaf.PID, syscall.SIGSTOP) })
				t.Cleanup(func() { _ = syscall.Kill(test.deaf.PID, syscall.SIGCONT) })
			}
			w.move(t, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Grace: 5, Hold: tenantstore.MaxHold})
			var status adminapi.MoveStatus
			until(t, func() bool {
				var err error
				if status, err = w.Admin.MoveStatus(t.Context(), "acme"); err != nil {
					t.Fatal(err)
				}
				held := test.deaf == nil || len(status.Waits) == 1 && strings.Contains(status.Waits[0].Hint, "member fence")
				return status.Placement.State == test.at && held
			})
			if _, err := w.Admin.Move(t.Context(), "acme", adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2"}); err == nil || !strings.Contains(err.Error(), "must not move already (is "+string(test.at)) {
				t.Errorf("a second move: %v", err)
			}
			if _, err := w.Admin.Move(t.Context(), "acme", adminapi.MoveInput{Transition: test.refused}); err == nil || !strings.Contains(err.Error(), test.why) {
				t.Errorf("%s in %s: %v, want %q", test.refused, test.at, err, test.why)
			}
			w.move(t, adminapi.MoveInput{Transition: test.asked})
			if test.deaf != nil {
				resume(t, test.deaf)
			}
			w.settled(t, "us-1")
			if answer := w.Get(t, w.gateway.URL+"/front/rows", "acme"); answer.Status != 200 || answer.Header.Get("x-cell") != "us-1" {
				t.Errorf("given up in %s: %d from %q", test.at, answer.Status, answer.Header.Get("x-cell"))
			}
			for _, transition := range []tenantstore.Transition{tenantstore.MoveAbort, tenantstore.MoveRollback} {
				if _, err := w.Admin.Move(t.Context(), "acme", adminapi.MoveInput{Transition: transition}); err == nil || !strings.Contains(err.Error(), "must be of a tenant that moves") {
					t.Errorf("%s of a tenant that rests: %v", transition, err)
				}
			}
		})
	}
	acknowledged, failures := stop()
	w.check(t, acknowledged, failures)
}

const unfit = `
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-3}
spec: {region: us, state: Draining, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: eu-2}
spec: {region: eu, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: late}
spec: {tier: bronze, region: us, suspended: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: gone}
spec: {tier: bronze, region: us}
`

// TestMoveRefused: each impossible move says why.
func TestMoveRefused(t *testing.T) {
	w := &moving{Mesh: meshtest.Start(t, objects+secondCell+unfit)}
	kind, err := tenantstore.ParseKind("tenant")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Admin.Delete(t.Context(), kind, "gone"); err != nil {
		t.Fatal(err)
	}
	to := func(cell string) adminapi.MoveInput {
		return adminapi.MoveInput{Transition: tenantstore.MoveStart, To: cell}
	}
	for want, input := range map[string]struct {
		tenant string
		move   adminapi.MoveInput
	}{
		"must be another cell":                        {"acme", to("us-1")},
		"must name a cell that exists":                {"acme", to("mars")},
		`must be an eligible cell; of eu-1`:           {"acme", to("eu-1")},
		"of us-3: state must be Active (is Draining)": {"acme", to("us-3")},
		`of us-1: region must be "eu"`:                {"initech", to("us-1")},
		`of eu-2: residency must be "eu" (is "")`:     {"initech", to("eu-2")},
		"must be Active to be moved (is Suspended)":   {"late", to("us-2")},
		"Tenant/gone: not found":                      {"gone", to("us-2")},
		"Tenant/nobody: not found":                    {"nobody", to("us-2")},
		"must be from 0 to 30 seconds":                {"acme", adminapi.MoveInput{Transition: tenantstore.MoveStart, To: "us-2", Hold: 99}},
		"must be of a tenant that moves":              {"acme", adminapi.MoveInput{Transition: tenantstore.MoveAbort}},
		"transition must be start, rollback or":       {"acme", adminapi.MoveInput{Transition: tenantstore.MoveCutover}},
	} {
		if _, err := w.Admin.Move(t.Context(), input.tenant, input.move); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", input, err, want)
		}
	}
}
