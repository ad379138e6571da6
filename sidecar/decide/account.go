package decide

import (
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
)

// maxOpen bounds the requests whose end is awaited; those over it are served and not metered.
const maxOpen = 100_000

// open remembers, by lease, whom a request's usage is to be counted for.
type open struct {
	mu   sync.Mutex
	list map[string]opened
}

type opened struct {
	record ledger.UsageRecord
	since  time.Time
}

func newOpen() open { return open{list: map[string]opened{}} }

// account begins a usage record for a request that reaches a service, and counts a refused one at once.
func (a *attempt) account() {
	d := &a.answer.Decision
	if d.Tenant == "" || d.TenantUID == "" {
		return
	}
	record := ledger.UsageRecord{Minute: a.now, Tenant: d.Tenant, TenantUID: d.TenantUID, Workload: d.Workload, Class: d.Class, Requests: 1}
	if !d.Allowed {
		record.Refused = 1
		a.Meter.Add(record)
		return
	}
	if a.request.Listener != meshname.ListenerInbound {
		return
	}
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	if len(a.open.list) >= maxOpen {
		for lease, o := range a.open.list {
			if a.now.Sub(o.since) > leaseTTL {
				delete(a.open.list, lease)
			}
		}
	}
	if len(a.open.list) < maxOpen {
		a.open.list[a.request.Lease] = opened{record, a.now}
	}
}

// Ended is told of each request once its stream has ended.
type Ended struct {
	Lease                    string
	Refused                  bool // by a decision: it holds nothing
	BytesReceived, BytesSent int64
	Duration                 time.Duration
}

// End releases what the request held, and counts what it used, once.
func (d *Decider) End(e Ended) {
	now := d.Now()
	if !e.Refused {
		d.Limiter.Release(now, e.Lease)
		d.Attribution.Close(now, e.Lease)
	}
	d.open.mu.Lock()
	o, ok := d.open.list[e.Lease]
	delete(d.open.list, e.Lease)
	d.open.mu.Unlock()
	if ok {
		o.record.BytesReceived, o.record.BytesSent, o.record.Duration = e.BytesReceived, e.BytesSent, e.Duration
		d.Meter.Add(o.record)
	}
}

// verifiers keeps the verifier of the trust domain, which is known only once configuration has come.
type verifiers struct {
	mu       sync.Mutex
	audience string
	verifier *tenanttoken.Verifier
}

func (v *verifiers) of(trustDomain string) *tenanttoken.Verifier {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifier == nil || v.audience != trustDomain {
		v.audience, v.verifier = trustDomain, tenanttoken.NewVerifier(tenanttoken.Options{Audience: trustDomain, Skew: maxClockSkew})
	}
	return v.verifier
}

// Open is how many admitted requests have not ended.
func (d *Decider) Open() int {
	d.open.mu.Lock()
	defer d.open.mu.Unlock()
	return len(d.open.list)
}
