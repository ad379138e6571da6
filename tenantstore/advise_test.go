package tenantstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

const advised = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.9, freeDbConn: 400, dbConnCap: 500}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: grows}
spec: {tier: bronze, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: even}
spec: {tier: bronze, region: us, spiky: true}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Tenant
metadata: {name: quiet}
spec: {tier: bronze, region: us}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /}]}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: inner}
spec: {}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: TierPromotion
metadata: {name: outgrown}
spec: {from: bronze, to: platinum, requestsPerSecond: 40, refusedShare: 0.5}
`

// TestAdvise: a tenant that grows 50 times overnight is held by its limits, and then suggested for a cell of its own;
// an even one loses its flag; calls between workloads do not count.
func TestAdvise(t *testing.T) {
	store := memstore.New()
	documents, err := tenantstore.DecodeYAML("", strings.NewReader(advised))
	if err != nil {
		t.Fatal(err)
	}
	var objects []*tenantstore.Object
	for _, d := range documents {
		objects = append(objects, d.Object)
	}
	if _, err := tenantstore.NewWriter(store, time.Now).Apply(t.Context(), "test", objects, tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	uid := func(name string) string {
		return snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}].Metadata.UID
	}
	var usage []ledger.UsageRecord
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	add := func(tenant, workload string, minute int, requests, refused int64) {
		usage = append(usage, ledger.UsageRecord{Minute: start.Add(time.Duration(minute) * time.Minute), Tenant: tenant, TenantUID: uid(tenant), Workload: workload, Requests: requests, Refused: refused})
	}
	for minute := range 60 {
		add("even", "front", minute, 20, 0)
		add("even", "inner", minute, 100_000, 0)
		add("quiet", "front", minute, 1, 0)
		if minute >= 55 { // 50 requests a second over the hour, all in its last minutes; the limit lets 10 a second in
			add("grows", "front", minute, 600, 0)
			add("grows", "", minute, 35_400, 35_400)
		}
	}
	usage = append(usage, ledger.UsageRecord{Minute: start, Tenant: "quiet", TenantUID: "another incarnation", Workload: "front", Requests: 1e9})
	var got []string
	for _, a := range tenantstore.Advise(snapshot.Objects, usage) {
		got = append(got, a.Tenant+": "+a.Do)
		if a.Tenant == "grows" && !strings.Contains(a.Why, "50.0 requests a second, 98 % refused at the gateway, busiest minute 12.0 x the mean") {
			t.Errorf("why: %s", a.Why)
		}
	}
	want := "even: clear spiky, grows: set spiky, grows: set tier platinum"
	if strings.Join(got, ", ") != want {
		t.Errorf("advice is %q, want %q", got, want)
	}
}
