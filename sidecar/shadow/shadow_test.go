package shadow

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/sidecar/tally"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// TestBound: of more keys than there is room for the frequent stay, and what is counted and what is lost add up.
func TestBound(t *testing.T) {
	table, watched := New(), map[string]int64{"p": 7}
	added := int64(0)
	add := func(tenant string) {
		added++
		table.Add(noon, Key{Policy: "p", Revision: 7, Tenant: tenant}, "d", "/x")
	}
	for i := range 20 * tally.Most {
		add(fmt.Sprint("tenant-", i))
		if i%4 == 0 {
			add("frequent")
		}
	}
	counts, lost, _ := Counts(table, watched)
	sum := lost
	for _, c := range counts {
		sum += c.Requests
	}
	if len(counts) != tally.Most || sum != added || lost == 0 {
		t.Errorf("%d counts of %d requests, %d lost, of %d", len(counts), sum-lost, lost, added)
	}
	if got := counts[Key{Policy: "p", Revision: 7, Tenant: "frequent"}].Requests; got != 5*tally.Most {
		t.Errorf("the frequent one has %d, want %d", got, 5*tally.Most)
	}
}

// TestForgets what is not watched any more, and keeps one example.
func TestForgets(t *testing.T) {
	table := New()
	table.Add(noon, Key{Policy: "old", Revision: 1}, "d1", "/1")
	table.Add(noon, Key{Policy: "p", Revision: 2}, "d2", "/2")
	table.Add(noon.Add(time.Millisecond), Key{Policy: "p", Revision: 2}, "d3", "/3")
	table.Add(noon.Add(time.Minute), Key{Policy: "p", Revision: 2}, "d4", "/"+strings.Repeat("4", 1000))
	table.Add(noon, Key{Policy: "p", Revision: 1}, "d5", "/5")
	counts, _, before := Counts(table, map[string]int64{"p": 2})
	got := counts[Key{Policy: "p", Revision: 2}]
	if len(counts) != 1 || got.Requests != 3 || got.Decision != "d4" || len(got.Path) != 256 || !got.Last.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v", counts)
	}
	if _, _, after := Counts(table, map[string]int64{"p": 2}); after != before {
		t.Error("nothing changed, and it says so")
	}
}

// BenchmarkAdd is what it costs a decision.
func BenchmarkAdd(b *testing.B) {
	table, key := New(), Key{Policy: "documents-search", Principal: "spiffe://mesh.example/cell/us-1/workload/documents"}
	for i := range tally.Most - 1 {
		table.Add(noon, Key{Policy: fmt.Sprint("p", i)}, "", "")
	}
	b.ReportAllocs()
	for b.Loop() {
		table.Add(noon, key, "", "")
	}
}
