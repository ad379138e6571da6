package audit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/ledger/trail/trailtest"
	"github.com/tenantmesh/tenantmesh/policy"
)

// kept is a recorder and what the other side has of it.
type kept struct {
	*Recorder
	t         *testing.T
	authority trailtest.Authority
	dir       string
	room      int64
	now       time.Time
	heads     map[string]ledger.Head
	events    []trail.Event
}

func open(t *testing.T, room int64) *kept {
	k := &kept{t: t, authority: trailtest.New(t), dir: t.TempDir(), room: room, now: trailtest.Begin, heads: map[string]ledger.Head{}}
	k.again()
	return k
}

func (k *kept) again() {
	k.t.Helper()
	r, err := Open(Config{
		Member: "m", Dir: k.dir, Room: k.room, Signer: k.authority.SVID(k.t, "spiffe://mesh.example/front"), Metrics: NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(),
		Now: func() time.Time { return k.now },
	})
	if err != nil {
		k.t.Fatal(err)
	}
	k.Recorder = r
}

// take hands over all that waits, and verifies that it follows what came before.
func (k *kept) take() {
	k.t.Helper()
	for {
		sequence, batches, err := k.Next(1)
		if err != nil {
			k.t.Fatal(err)
		}
		if sequence == 0 {
			return
		}
		for _, text := range batches {
			var b trail.Batch
			if err := json.Unmarshal(text, &b); err != nil {
				k.t.Fatal(err)
			}
			events, err := b.Verify(k.authority.Pool())
			if err != nil || b.Previous != k.heads[b.TenantUID] {
				k.t.Fatalf("%v; it follows %v, want %v", err, b.Previous, k.heads[b.TenantUID])
			}
			k.heads[b.TenantUID] = b.Head()
			k.events = append(k.events, events...)
		}
		if err := k.Acknowledged(sequence); err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k *kept) refuse(n int) {
	for range n {
		k.now = k.now.Add(time.Millisecond)
		k.Record(&policy.Decision{Time: k.now, Tenant: "acme", TenantUID: "UID1", Reason: policy.DeniedByPolicy, Principal: "eve\n", Path: "/\xff\n"}, Why{})
	}
}

// counted is how many refusals the events tell of, and how many of them they say are lost.
func (k *kept) counted() (refusals, lost int64) {
	for _, e := range k.events {
		if e.Kind == trail.Decision && !e.Allowed {
			refusals++
		}
		refusals += e.Suppressed
		lost += e.Lost
	}
	return refusals, lost
}

// TestRefusalsAreBoundedAndCounted: a flood leaves few events, and none is missing of the number.
func TestRefusalsAreBoundedAndCounted(t *testing.T) {
	k := open(t, 0)
	k.refuse(3000)
	k.Record(&policy.Decision{Time: k.now, Tenant: "other", TenantUID: "UID2", Reason: policy.DeniedByPolicy}, Why{})
	k.Record(&policy.Decision{Time: k.now, Tenant: "acme", TenantUID: "UID1", Allowed: true, Rule: "grant/g"}, Why{Grant: true, Purpose: "ticket 1"})
	k.Flush(k.now)
	k.now = k.now.Add(time.Minute)
	k.Flush(k.now) // what nothing follows is summed by itself
	k.Flush(k.now)
	k.take()
	if refusals, lost := k.counted(); refusals != 3001 || lost != 0 || len(k.events) > 30 {
		t.Errorf("%d refusals and %d lost in %d events", refusals, lost, len(k.events))
	}
	grants := 0
	for _, e := range k.events {
		if e.Grant == "g" && e.Purpose == "ticket 1" && e.Allowed {
			grants++
		}
		if strings.ContainsRune(e.Path, '\xff') && e.Path != "/\ufffd\n" {
			t.Errorf("the path is %q", e.Path)
		}
	}
	if grants != 1 || len(k.heads) != 2 {
		t.Errorf("%d uses of a grant in %d streams", grants, len(k.heads))
	}
}

// TestFullSpool: what there is no room for is counted, exactly, and the count is an event once there is room, also after a
// crash in between.
func TestFullSpool(t *testing.T) {
	k := open(t, 12_000)
	recorded := int64(0)
	for range 30 {
		k.now = k.now.Add(time.Second)
		k.Record(&policy.Decision{Time: k.now, Tenant: "acme", TenantUID: "UID1", Reason: policy.Overloaded}, Why{})
		recorded++
		k.Flush(k.now)
	}
	k.again() // a crash
	k.Flush(k.now)
	k.take()
	k.Flush(k.now)
	k.take()
	refusals, lost := k.counted()
	if refusals+lost != recorded || lost == 0 || refusals == 0 {
		t.Errorf("%d refusals and %d lost of %d", refusals, lost, recorded)
	}
	gaps, restarts := 0, 0
	for _, e := range k.events {
		switch e.Kind {
		case trail.Gap:
			gaps++
			if !e.From.Before(e.To) {
				t.Errorf("a gap from %v to %v", e.From, e.To)
			}
		case trail.Restart:
			restarts++
		case trail.Decision, trail.Summary:
		}
	}
	if gaps != 1 || restarts != 2 { // of the tenant's stream, and of that about none
		t.Errorf("%d gaps, %d restarts", gaps, restarts)
	}
}

// TestTooMuchAtOnce: more than may wait between two writes is lost, and counted.
func TestTooMuchAtOnce(t *testing.T) {
	k := open(t, 0)
	const n = maxPending + 100
	for range n {
		k.Record(&policy.Decision{Time: k.now, Tenant: "acme", TenantUID: "UID1", Allowed: true}, Why{})
	}
	k.Flush(k.now)
	k.take()
	if _, lost := k.counted(); lost != 100 || len(k.events) != maxPending+1 {
		t.Errorf("%d lost, %d events", lost, len(k.events))
	}
}

// TestTornSpool: a crash in the middle of a write leaves what was written before, and the streams go on from there.
func TestTornSpool(t *testing.T) {
	k := open(t, 0)
	k.refuse(2)
	k.Flush(k.now)
	path := filepath.Join(k.dir, "spool.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k.refuse(2)
	k.Flush(k.now)
	torn, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{len(whole), len(whole) + 1, len(whole) + 20, len(torn) - 1, len(torn)} {
		if err := os.WriteFile(path, torn[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		k.again()
		k.heads, k.events = map[string]ledger.Head{}, nil
		k.Flush(k.now)
		k.take()
		want := int64(2)
		if cut == len(torn) {
			want = 4
		}
		if refusals, _ := k.counted(); refusals != want || k.events[len(k.events)-1].Kind != trail.Restart {
			t.Errorf("cut at %d: %d refusals, the last event is %q", cut, refusals, k.events[len(k.events)-1].Kind)
		}
	}
}

// TestCleanEnd: nothing is said to be missing after a farewell; heads outlive what was handed over, and the file stays small.
func TestCleanEnd(t *testing.T) {
	k := open(t, 0)
	for range 200 {
		for range 20 {
			k.Record(&policy.Decision{Time: k.now, Tenant: "acme", TenantUID: "UID1", Allowed: true, Path: strings.Repeat("p", 1000)}, Why{})
		}
		k.Flush(k.now)
		k.take()
	}
	if info, err := os.Stat(filepath.Join(k.dir, "spool.jsonl")); err != nil || info.Size() > 2*compactAt {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if err := k.spool.close(); err != nil {
		t.Fatal(err)
	}
	k.again()
	k.refuse(1)
	k.Flush(k.now)
	k.take()
	if len(k.events) != 4001 || k.heads["UID1"].Sequence != 4001 {
		t.Errorf("%d events", len(k.events))
	}
}
