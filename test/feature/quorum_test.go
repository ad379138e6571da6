package feature

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/internal/freeport"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/tenantstore/etcdstore"
)

// cluster starts three etcds that are one store, and returns how to reach and to stop them.
func cluster(t *testing.T) (endpoints []string, stop []func()) {
	t.Helper()
	const members = 3
	ports, err := freeport.Take(2 * members)
	if err != nil {
		t.Fatal(err)
	}
	at := func(port int) url.URL { return url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)} }
	var initial []string
	for i := range members {
		peer := at(ports[2*i])
		initial = append(initial, fmt.Sprintf("etcd-%d=%s", i, peer.String()))
	}
	var servers []*embed.Etcd
	for i := range members {
		config := embed.NewConfig()
		config.Name, config.Dir = fmt.Sprint("etcd-", i), t.TempDir()
		peer, client := at(ports[2*i]), at(ports[2*i+1])
		config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		config.InitialCluster = strings.Join(initial, ",")
		config.TickMs, config.ElectionMs = 100, 1000 // shorter ones elect again and again on a busy machine
		config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		server, err := embed.StartEtcd(config) // they wait for each other only once they serve
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, server)
		endpoints = append(endpoints, client.String())
		end := sync.OnceFunc(server.Close)
		stop = append(stop, end)
		t.Cleanup(end)
	}
	for _, server := range servers {
		select {
		case <-server.Server.ReadyNotify():
		case <-time.After(time.Minute):
			t.Fatal("the etcds do not find each other")
		}
	}
	return endpoints, stop
}

var revisionMetric = regexp.MustCompile(`(?m)^tenantmesh_config_revision (.+)$`)

// revision is the store's revision that a sidecar enforces.
func revision(t *testing.T, s *meshtest.Sidecar) float64 {
	t.Helper()
	found := revisionMetric.FindStringSubmatch(meshtest.Do(t, nil, http.MethodGet, s.Metrics, nil, nil).Body)
	if found == nil {
		t.Fatal("no revision among the metrics")
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// epochs looks at a tenant's epoch as whoever may say so has it, and fails when one goes backwards.
type epochs struct {
	*meshtest.Mesh
	gateway *meshtest.Sidecar
	seen    map[string]int64 // by who says so
}

func (e *epochs) note(t *testing.T, who string, epoch int64) {
	t.Helper()
	if epoch < e.seen[who] {
		t.Fatalf("the epoch of acme went from %d to %d, says %s", e.seen[who], epoch, who)
	}
	e.seen[who] = epoch
}

// look asks the control plane, and the sidecar that refuses what nobody may read.
func (e *epochs) look(t *testing.T) {
	t.Helper()
	if status, err := e.Admin.MoveStatus(t.Context(), "acme"); err == nil {
		e.note(t, "the control plane", status.Placement.Epoch)
	}
	refused := e.Get(t, e.gateway.URL+"/front/secret/x", "acme")
	if refused.Reason() != "denied_by_policy" {
		return
	}
	for _, admin := range []*adminclient.Client{e.Admin, e.Other(1)} { // a sidecar answers the one that it is connected to
		if d, err := admin.Explain(t.Context(), refused.Header.Get("x-tenantmesh-decision")); err == nil {
			e.note(t, d.Point+" in "+d.Cell, d.Epoch)
		}
	}
}

// moved moves acme, and returns once it has arrived.
func (e *epochs) moved(t *testing.T, to string) {
	t.Helper()
	until(t, func() bool {
		_, err := e.Admin.Move(t.Context(), "acme", adminapi.MoveInput{Transition: tenantstore.MoveStart, To: to, Grace: 1})
		return err == nil
	})
	until(t, func() bool {
		e.look(t)
		status, err := e.Admin.MoveStatus(t.Context(), "acme")
		return err == nil && status.Placement.Cell == to && status.Placement.Target == "" && e.Get(t, e.gateway.URL+"/front/x", "acme").Status == 200
	})
	until(t, func() bool { // the sidecar that serves it now has said so too
		e.look(t)
		return e.seen[meshname.ListenerInbound+" in "+to] > 0
	})
}

// TestQuorum: two control planes over an etcd of three. One etcd and one control plane end: sidecars go on with the other,
// what changes is in force, tenants move, and nothing that they have goes backwards: no revision, and no epoch.
func TestQuorum(t *testing.T) {
	endpoints, stop := cluster(t)
	store, err := etcdstore.Open(t.Context(), etcdstore.Config{Endpoints: endpoints, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	m := meshtest.Start(t, objects+secondCell, meshtest.Others(1), meshtest.Lease(time.Second), meshtest.Through(func(before tenantstore.Store) tenantstore.Store {
		_ = before.Close()
		return store
	}))
	gateway := m.Gateway(t)
	for _, cell := range []string{"us-1", "us-2"} {
		m.Workload(t, cell, "front", http.HandlerFunc(tell))
	}
	e := &epochs{m, gateway, map[string]int64{}}
	e.moved(t, "us-2")
	before := maps.Clone(e.seen)
	want(t, "before", m.Get(t, gateway.URL+"/front/x", "acme"), 200, "")
	had := revision(t, gateway)
	stop[0]()
	m.StopControl()
	m.Admin = m.Other(1)
	want(t, "while one of each is gone", m.Get(t, gateway.URL+"/front/x", "acme"), 200, "")
	for _, change := range []struct {
		objects, reason string
		status          int
	}{{suspendedAcme, "tenant_suspended", 403}, {objects + secondCell, "", 200}} {
		until(t, func() bool { // who votes must first find out
			_, err := m.ApplyOnly(t, change.objects)
			return err == nil
		})
		until(t, func() bool {
			now := revision(t, gateway)
			if now < had {
				t.Fatalf("the gateway went from revision %v to %v", had, now)
			}
			had = now
			e.look(t)
			answer := m.Get(t, gateway.URL+"/front/x", "acme")
			return answer.Status == change.status && answer.Reason() == change.reason
		})
	}
	e.moved(t, "us-1")
	for who, epoch := range before {
		if e.seen[who] <= epoch {
			t.Errorf("%s had epoch %d, and has %d after a move with one of each gone", who, epoch, e.seen[who])
		}
	}
	if len(before) < 2 {
		t.Errorf("only %v told of an epoch", before)
	}
}
