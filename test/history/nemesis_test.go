package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
)

// nemesis moves the tenants back and forth, and breaks one thing after the other, as its seed says. It runs in the
// test's goroutine.
type nemesis struct {
	*testing.T
	*mesh
	random *rand.Rand
	began  time.Time
	moves  int              // cutovers that it saw
	since  map[string]int64 // epoch of the last of each tenant
}

// deed is something that a nemesis does. It mends what it breaks.
type deed struct {
	name string
	do   func(*nemesis)
}

// deeds are all that a nemesis does: each happens once before one happens twice.
func (m *mesh) deeds() (list []deed) {
	for name := range m.sidecars {
		list = append(list,
			deed{"kill " + name + " and its Envoy", func(n *nemesis) { n.kill(name) }},
			deed{"stop " + name + " for a while", func(n *nemesis) {
				pid := n.sidecars[name].PID
				n.signal(pid, syscall.SIGSTOP)
				n.wait(1500)
				n.signal(pid, syscall.SIGCONT)
			}},
			deed{"cut " + name + " off from the control plane", func(n *nemesis) {
				n.sidecars[name].Link.Cut()
				n.wait(2500)
				n.sidecars[name].Link.Mend(n.T)
			}},
			deed{"cut " + name + " off, and kill it meanwhile", func(n *nemesis) {
				n.sidecars[name].Link.Cut()
				n.wait(500)
				n.kill(name)
				n.wait(500)
				n.sidecars[name].Link.Mend(n.T)
			}},
		)
	}
	for cell := range m.documents {
		list = append(list, deed{"kill documents in " + cell, func(n *nemesis) { n.documents[cell].Kill(n.T) }})
	}
	for _, tenant := range tenants {
		list = append(list,
			deed{"abort the move of " + tenant, func(n *nemesis) { n.ask(tenant, adminapi.MoveInput{Transition: tenantstore.MoveAbort}) }},
			deed{"roll back the move of " + tenant, func(n *nemesis) { n.ask(tenant, adminapi.MoveInput{Transition: tenantstore.MoveRollback}) }},
		)
	}
	list = append(list,
		deed{"stop the control plane", func(n *nemesis) {
			n.StopControl()
			n.wait(2000)
			n.StartControl(n.T)
		}},
		deed{"stop the control plane, and kill a sidecar meanwhile", func(n *nemesis) {
			n.StopControl()
			names := n.names()
			n.kill(names[n.random.IntN(len(names))])
			n.StartControl(n.T)
		}},
	)
	slices.SortFunc(list, func(a, b deed) int { return strings.Compare(a.name, b.name) })
	return list
}

// run does its deeds until d has passed.
func (n *nemesis) run(d time.Duration) {
	n.Helper()
	var deck []deed
	for time.Since(n.began) < d {
		if len(deck) == 0 {
			deck = n.deeds()
			n.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		n.Logf("%6.2f s: %s", time.Since(n.began).Seconds(), deck[0].name)
		deck[0].do(n)
		deck = deck[1:]
		n.wait(1000)
	}
}

func (n *nemesis) kill(name string) { n.sidecars[name] = n.sidecars[name].Restart(n.T) }

func (n *nemesis) signal(pid int, signal syscall.Signal) {
	n.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		n.Fatal(err)
	}
}

// ask asks for a transition; it may be the wrong time for it, or the control plane away.
func (n *nemesis) ask(tenant string, input adminapi.MoveInput) {
	if _, err := n.Admin.Move(n.Context(), tenant, input); err == nil {
		n.Logf("%6.2f s: %s %s %s", time.Since(n.began).Seconds(), tenant, input.Transition, input.To)
	}
}

// wait lets up to so many milliseconds pass, and has every tenant move that rests.
func (n *nemesis) wait(milliseconds int) {
	end := time.After(time.Duration(1+n.random.IntN(milliseconds)) * time.Millisecond)
	for {
		for _, tenant := range tenants {
			n.onward(tenant)
		}
		select {
		case <-end:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// onward starts the next move of a tenant that rests.
func (n *nemesis) onward(tenant string) {
	if at := n.placement(tenant); at.Target == "" {
		to := cells[1-slices.Index(cells, at.Cell)]
		n.ask(tenant, adminapi.MoveInput{Transition: tenantstore.MoveStart, To: to, Grace: 1})
	}
}

// placement is where a tenant is, by the store, which outlives the control plane.
func (n *nemesis) placement(tenant string) tenantstore.Placement {
	n.Helper()
	snapshot, err := n.Store.Snapshot(n.Context())
	if err != nil {
		n.Fatal(err)
	}
	at := *snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: tenant}].Status.Placement
	if at.Since != n.since[tenant] {
		n.since[tenant] = at.Since
		n.moves++
	}
	return at
}

// rest waits until nobody moves.
func (n *nemesis) rest() {
	n.Helper()
	deadline := time.After(patience)
	for _, tenant := range tenants {
		for {
			at := n.placement(tenant)
			if at.Target == "" {
				break
			}
			select {
			case <-deadline:
				status, err := n.Admin.MoveStatus(n.Context(), tenant)
				n.Fatalf("%v after everything was mended the move of %s is not done: %s, waits for %v (%v)", patience, tenant, at.State, status.Waits, err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// mesh is two gateways, and documents in two cells.
type mesh struct {
	*meshtest.Mesh
	documents map[string]*meshtest.Program
	sidecars  map[string]*meshtest.Sidecar // gateways too
}

func (m *mesh) names() (names []string) {
	for name := range m.sidecars {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{Mesh: meshtest.Start(t, strings.ReplaceAll(objects, "STRATEGY", *strategy), meshtest.Links()), documents: map[string]*meshtest.Program{}, sidecars: map[string]*meshtest.Sidecar{}}
	for _, name := range []string{"a", "b"} {
		m.sidecars["gateway "+name] = m.GatewayAs(t, name)
	}
	for _, cell := range cells {
		m.documents[cell] = m.Documents(t, cell)
		m.sidecars["the sidecar of "+cell] = m.documents[cell].Sidecar
	}
	return m
}

var (
	tenants = []string{"acme", "globex"}
	cells   = []string{"us-1", "us-2"}
)

var objects = func() (text string) {
	for _, cell := range cells {
		text += fmt.Sprintf(`
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: %s}
spec: {region: us, capacity: {freeCpu: 0.7, freeDbConn: 400, dbConnCap: 500}}
---`, cell)
	}
	for _, tenant := range tenants {
		text += fmt.Sprintf(`
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: %s}
spec: {tier: gold, region: us, limits: {requestsPerSecond: 100000, burst: 100000, concurrency: 1000}}
---`, tenant)
	}
	return text + `
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: documents}
spec:
  expose: [{pathPrefix: /documents}]
  tenantData: {strategy: STRATEGY, hooks: {export: /tenant-data, import: /tenant-data, digest: /tenant-data/digest, delete: /tenant-data}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateways}
spec: {effect: Permit, principals: ["spiffe://mesh.example/gateway/*"], targets: [{workload: documents}]}
`
}()
