package decide

import (
	"fmt"
	"testing"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

func unlimited(p *api.TenantPolicy) {
	p.Limits, p.Weight = &api.Limits{RequestsPerSecond: -1, Concurrency: -1}, 1
}

func placement() *api.Placement {
	return &api.Placement{State: "ACTIVE", Cell: "us-1", Epoch: 7, Since: 7}
}

func tenantID(t *testing.T, name string) identity.TenantID {
	t.Helper()
	id, err := identity.ParseTenantID(name)
	check(t, err)
	return id
}

// push pushes a tenant, or with nil removes it.
func (w *world) push(t *testing.T, name string, m *api.TenantPolicy) {
	t.Helper()
	change := policyset.Change{TypeURL: meshname.TypeTenantPolicy, Name: name}
	if m != nil {
		change.Message = m
	}
	set, err := w.decider.Sets.Load().With([]policyset.Change{change}, 43)
	check(t, err)
	w.decider.Sets.Store(set)
}

// crowd is a world whose service holds four requests open, and what sends it one of a tenant.
func crowd(t *testing.T, change ...func(*api.ProxyConfig)) (*world, func(lease, tenant string, reason policy.Reason, change ...func(*Request)) Answer) {
	t.Helper()
	self := sidecar()
	self.Admission = &api.Admission{Min: 4, Max: 4}
	for _, f := range change {
		f(self)
	}
	w := newWorld(t, self, unlimited)
	uids := map[string]string{"acme": "uid-1", "globex": "uid-2"}
	return w, func(lease, tenant string, reason policy.Reason, change ...func(*Request)) Answer {
		t.Helper()
		token := w.token(func(c *tenanttoken.Claims) { c.Context.Tenant, c.Context.UID = tenantID(t, tenant), uids[tenant] })
		return w.want(lease+" of "+tenant, w.inbound(token, append(change, func(r *Request) { r.Lease = lease })...), reason)
	}
}

// TestShare: a tenant fills the service and is refused; another is not, and what it uses the first no longer gets.
func TestShare(t *testing.T) {
	w, send := crowd(t)
	for i := range 4 {
		send(fmt.Sprint("a", i), "acme", policy.Permitted)
	}
	w.now = w.now.Add(5 * time.Second)
	d := send("a4", "acme", policy.Overloaded).Decision
	if d.RetryAfter < time.Second || d.Rule != "Workload/front admission" || len(d.Limits) == 0 || !d.Limits[len(d.Limits)-1].Exceeded {
		t.Errorf("the refusal is %+v", d)
	}
	for i := range 2 {
		send(fmt.Sprint("g", i), "globex", policy.Permitted)
	}
	w.decider.End(Ended{Lease: "a0"})
	w.now = w.now.Add(2 * time.Second)
	send("a5", "acme", policy.Overloaded)
	if open, share := w.decider.Fair.Standing("uid-1"); open != 3 || share < 2 || share > 2.1 {
		t.Errorf("acme has %d open of %v", open, share)
	}
	for _, lease := range []string{"a1", "a2", "a3", "g0", "g1"} {
		w.decider.End(Ended{Lease: lease, Service: time.Millisecond, Status: 200})
		w.decider.End(Ended{Lease: lease}) // twice is once
	}
	if s := w.decider.Fair.State(0); s.Open != 0 {
		t.Errorf("%d are open after all have ended", s.Open)
	}
	if n := w.decider.Limiter.Leases(w.now); n != 0 {
		t.Errorf("%d leases after all have ended", n)
	}
}

// TestShareIsGivenBack: a request that is refused after it got its place keeps none.
func TestShareIsGivenBack(t *testing.T) {
	w, send := crowd(t)
	w.decider.End(Ended{Lease: "gone"})
	send("gone", "acme", policy.Overloaded)
	for i := range 4 {
		send(fmt.Sprint(i), "acme", policy.Permitted)
	}
	if s := w.decider.Fair.State(0); s.Open != 4 {
		t.Errorf("%d are open", s.Open)
	}
	if w.decider.EnvoyEnded(); w.decider.Fair.State(0).Open != 0 {
		t.Error("requests outlive their Envoy")
	}
	for i := range 4 {
		send(fmt.Sprint("again", i), "acme", policy.Permitted)
	}
}

// TestNoShare: upgrades take no place, and a workload may have no admission at all.
func TestNoShare(t *testing.T) {
	w, send := crowd(t)
	for i := range 10 {
		send(fmt.Sprint(i), "acme", policy.Permitted, func(r *Request) { r.Headers.Add("upgrade", "websocket") })
	}
	if s := w.decider.Fair.State(0); s.Open != 0 {
		t.Errorf("%d upgrades have a place", s.Open)
	}
	_, send = crowd(t, func(self *api.ProxyConfig) { self.Admission.Off = true })
	for i := range 100 {
		send(fmt.Sprint(i), "acme", policy.Permitted)
	}
	_, send = crowd(t, func(self *api.ProxyConfig) { self.Admission = nil })
	for i := range 900 {
		send(fmt.Sprint(i), "acme", policy.Permitted)
	}
}

// TestShareWaits: who is over its share waits for a slot that another request leaves.
func TestShareWaits(t *testing.T) {
	w, send := crowd(t)
	for i := range 4 {
		send(fmt.Sprint(i), "acme", policy.Permitted)
	}
	w.now = w.now.Add(5 * time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for w.decider.Fair.State(0).Waiting == 0 {
		}
		w.decider.End(Ended{Lease: "0"})
	}()
	send("5", "acme", policy.Permitted)
	<-done
}

// TestPriority: a class that is batch counts what interactive requests use; kinds tell classes and writes apart.
func TestPriority(t *testing.T) {
	w, send := crowd(t, func(self *api.ProxyConfig) {
		self.Classes = []*api.Class{{Name: "reports", Paths: []string{"/reports"}, Priority: "batch"}, {Name: "reports", Paths: []string{"/other"}}}
	})
	reports := func(r *Request) { r.Path = "/reports" }
	for i := range 2 {
		send(fmt.Sprint("g", i), "globex", policy.Permitted)
		send(fmt.Sprint("a", i), "acme", policy.Permitted)
	}
	w.now = w.now.Add(5 * time.Second)
	send("r", "acme", policy.Overloaded, reports)
	w.decider.End(Ended{Lease: "a0"})
	send("r", "acme", policy.Overloaded, reports) // interactive ones still demand two on average
	send("a2", "acme", policy.Permitted)
	a := w.decider.Sets.Load().Self.Admission
	for _, test := range []struct {
		class  string
		writes bool
		kind   uint8
		batch  bool
	}{{"", false, 0, false}, {"", true, 1, false}, {"reports", false, 2, true}, {"reports", true, 3, true}, {"unknown", false, 0, false}} {
		if kind, batch := a.Kind(test.class, test.writes); kind != test.kind || batch != test.batch {
			t.Errorf("%q, writes %v: kind %d, batch %v", test.class, test.writes, kind, batch)
		}
	}
}

// TestMovesTier: a tenant that moves to another tier under load has its new share with the next request, and a new incarnation none
// of the old one's requests.
func TestMovesTier(t *testing.T) {
	w, send := crowd(t)
	send("a", "acme", policy.Permitted)
	send("g", "globex", policy.Permitted)
	before, _ := w.decider.Sets.Load().Tenant("acme")
	w.push(t, "acme", &api.TenantPolicy{Tenant: "acme", Uid: before.UID, Tier: "platinum", Phase: "Active", Weight: 3, Placement: placement(), Limits: &api.Limits{RequestsPerSecond: -1, Concurrency: -1}})
	send("a1", "acme", policy.Permitted)
	if _, share := w.decider.Fair.Standing("uid-1"); share < 3 {
		t.Errorf("acme's share is %v of 4", share)
	}
	w.push(t, "acme", nil)
	w.push(t, "acme", &api.TenantPolicy{Tenant: "acme", Uid: "uid-3", Tier: "gold", Phase: "Active", Weight: 1, Placement: placement(), Limits: &api.Limits{RequestsPerSecond: -1, Concurrency: -1}})
	token := w.token(func(c *tenanttoken.Claims) { c.Context.UID = "uid-3" })
	w.want("the new incarnation", w.inbound(token, func(r *Request) { r.Lease = "n" }), policy.Permitted)
	if open, _ := w.decider.Fair.Standing("uid-3"); open != 1 {
		t.Errorf("the new incarnation has %d open", open)
	}
	if open, _ := w.decider.Fair.Standing("uid-1"); open != 2 {
		t.Errorf("the old incarnation has %d open", open)
	}
}

func TestAnswered(t *testing.T) {
	for _, test := range []struct {
		ended  Ended
		failed bool
	}{{Ended{Status: 200}, false}, {Ended{Status: 404}, false}, {Ended{Status: 503}, true}, {Ended{Unanswered: true}, true}} {
		if got := test.ended.answered(); got != (fair.Answered{Failed: test.failed}) {
			t.Errorf("%+v: %+v", test.ended, got)
		}
	}
}

// TestIsolation: requests of a tenant under its share are counted, with those that were kept out all the same; who is over its own
// does not count, nor does who hung up.
func TestIsolation(t *testing.T) {
	w, send := crowd(t)
	for i := range 4 {
		send(fmt.Sprint("a", i), "acme", policy.Permitted)
	}
	w.now = w.now.Add(5 * time.Second)
	send("a4", "acme", policy.Overloaded)
	send("g0", "globex", policy.Permitted)
	send("g1", "globex", policy.Permitted)
	w.decider.End(Ended{Lease: "g0", Status: 503, Overflow: true})
	w.decider.End(Ended{Lease: "g1", Status: 200})
	w.decider.End(Ended{Lease: "g2"})
	send("g2", "globex", policy.Overloaded) // hung up
	late := w.now
	w.decider.Now = func() time.Time { late = late.Add(11 * time.Millisecond); return late }
	send("g3", "globex", policy.Permitted)
	w.decider.EnvoyEnded()
	sums := map[string]ledger.UsageRecord{}
	for _, u := range w.meter.Take() {
		sum := sums[u.Tenant]
		sum.Requests, sum.UnderShare = sum.Requests+u.Requests, sum.UnderShare+u.UnderShare
		sum.UnderShareRefused, sum.UnderShareLate = sum.UnderShareRefused+u.UnderShareRefused, sum.UnderShareLate+u.UnderShareLate
		sums[u.Tenant] = sum
	}
	if got := sums["acme"]; got != (ledger.UsageRecord{Requests: 5, UnderShare: 4}) {
		t.Errorf("acme: %+v", got)
	}
	if got := sums["globex"]; got != (ledger.UsageRecord{Requests: 4, UnderShare: 3, UnderShareRefused: 1, UnderShareLate: 1}) {
		t.Errorf("globex: %+v", got)
	}
	if top := w.decider.Use.Top(w.now); len(top) != 2 {
		t.Errorf("%+v", top)
	}
}
