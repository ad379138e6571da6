package limit

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// BenchmarkAdmit counts a request and its end: of a few tenants by turns, and of one tenant from 8 goroutines.
func BenchmarkAdmit(b *testing.B) {
	limits := policy.Limits{RequestsPerSecond: 1e6, Burst: 1e6, Concurrency: 1e6, Classes: map[string]policy.ClassLimit{"exports": {Concurrency: 4}}}
	request := func(i int) *Request {
		return &Request{UID: fmt.Sprint("uid-", i), Limits: limits, ChargeTenant: true, LeaseTTL: time.Hour, Lease: fmt.Sprint("lease-", i)}
	}
	now := time.Unix(1e9, 0)
	b.Run("tenants", func(b *testing.B) {
		l := New(Options{})
		var requests []*Request
		for i := range 1000 {
			requests = append(requests, request(i))
			l.Admit(now, requests[i])
			l.Release(now, requests[i].Lease)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			r := requests[i%len(requests)]
			l.Admit(now, r)
			l.Release(now, r.Lease)
		}
	})
	b.Run("hot", func(b *testing.B) {
		l := New(Options{})
		b.ReportAllocs()
		b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
		b.RunParallel(func(pb *testing.PB) {
			r := request(0)
			r.Lease = ""
			for pb.Next() {
				l.Admit(now, r)
			}
		})
	})
}

// TestMemory: a million tenants that were seen once take under 200 bytes each.
func TestMemory(t *testing.T) {
	const tenants = 1_000_000
	heap := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc) //nolint:gosec // of this process
	}
	uids := make([]string, tenants)
	for i := range uids {
		uids[i] = fmt.Sprintf("uid-%032d", i)
	}
	before, now := heap(), time.Unix(1e9, 0)
	l := New(Options{MaxEntries: tenants})
	limits := policy.Limits{RequestsPerSecond: 10, Burst: 20, Concurrency: 10}
	for _, uid := range uids {
		l.Admit(now, &Request{UID: uid, Limits: limits, ChargeTenant: true})
	}
	used := heap() - before
	t.Logf("%d bytes a tenant", used/tenants)
	if l.Entries() != tenants || used > 200*tenants {
		t.Errorf("%d tenants take %d bytes", l.Entries(), used)
	}
	runtime.KeepAlive(uids)
}
