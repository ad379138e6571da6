package sink

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/ledger/trail/trailtest"
)

const limit = 30 * time.Second

// receiver is an OTLP receiver on a socket. What it answers is asked for each request, which holds records.
type receiver struct {
	address string
	answer  func(w http.ResponseWriter, records []*logs.LogRecord) (taken bool)

	mu      sync.Mutex
	records []*logs.LogRecord
	header  http.Header
	news    chan struct{}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	var sent collector.ExportLogsServiceRequest
	if err != nil || request.URL.Path != "/v1/logs" || proto.Unmarshal(body, &sent) != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	records := sent.ResourceLogs[0].ScopeLogs[0].LogRecords
	if r.answer != nil && !r.answer(w, records) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records, r.header = append(r.records, records...), request.Header
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// free is an address at which nothing listens.
func free(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, listener.Close())
	return listener.Addr().String()
}

func (r *receiver) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", r.address)
	check(t, err)
	r.news = make(chan struct{}, 1)
	web := &http.Server{Handler: r, ReadHeaderTimeout: limit}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { _ = web.Close() })
}

func status(code int, w http.ResponseWriter) bool {
	w.WriteHeader(code)
	return false
}

// attributes of a record, by name.
func attributes(r *logs.LogRecord) map[string]string {
	found := map[string]string{}
	for _, a := range r.Attributes {
		name := strings.TrimPrefix(a.Key, prefix)
		if found[name] = a.Value.GetStringValue(); found[name] == "" {
			found[name] = strings.TrimPrefix(strings.Fields(a.Value.String())[0], "int_value:")
		}
	}
	return found
}

// took are the records that were taken, as "kind of stream: sequence", and how many of what kind.
func (r *receiver) took() (sequences map[string][]string, lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sequences = map[string][]string{}
	for _, one := range r.records {
		switch a := attributes(one); a["kind"] {
		case "missed":
			var n int
			_, _ = fmt.Sscan(a["lost"], &n)
			lost += n
		default:
			stream := a["member"] + "/" + a["tenantUid"]
			sequences[stream] = append(sequences[stream], a["sequence"])
		}
	}
	return sequences, lost
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.records)
}

// await waits until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(limit); !holds(); <-ticker.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chain is administrative events.
type chain struct {
	mu     sync.Mutex
	events []ledger.Event
}

func (c *chain) Events(_ context.Context, after int64, limit int) ([]ledger.Event, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := min(int(after), len(c.events))
	return slices.Clone(c.events[from:min(from+limit, len(c.events))]), nil
}

func (c *chain) Head(context.Context) (ledger.Head, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ledger.Head{Sequence: int64(len(c.events))}, nil
}

func (c *chain) write(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		e, _ := ledger.Head{Sequence: int64(len(c.events))}.Seal(ledger.Event{Time: trailtest.Begin, Actor: "uid:0", Action: "update", Object: "Tenant/acme", Tenant: "acme"})
		c.events = append(c.events, e)
	}
}

// kept is a control plane's disk.
type kept struct {
	dir     string
	keep    trail.Keep
	archive *trail.Archive
	signer  trail.Signer
	heads   map[trail.Stream]ledger.Head
	events  int
	chain   *chain
	metrics *Metrics
	metered *prometheus.Registry
}

func newKept(t *testing.T, keep trail.Keep) *kept {
	k := &kept{dir: t.TempDir(), keep: keep, signer: trailtest.New(t).SVID(t, "spiffe://mesh.example/cell/a/workload/front"), heads: map[trail.Stream]ledger.Head{}, chain: &chain{}}
	k.open(t)
	return k
}

// open opens the archive, as a process does that begins.
func (k *kept) open(t *testing.T) {
	t.Helper()
	var err error
	k.archive, err = trail.OpenArchive(filepath.Join(k.dir, "audit"), k.keep)
	check(t, err)
}

// write keeps batches of two events of a stream.
func (k *kept) write(t *testing.T, member, uid string, batches int) {
	t.Helper()
	s := trail.Stream{Member: member, TenantUID: uid}
	for range batches {
		events := []trail.Event{{Time: trailtest.Begin, Kind: trail.Decision, Reason: "denied_by_policy", Path: "/one"}, {Time: trailtest.Begin, Kind: trail.Decision, Allowed: true, Path: "/other"}}
		b, head, err := trail.Seal(s, "acme", k.heads[s], events, trailtest.Begin, k.signer)
		check(t, err)
		_, err = k.archive.Append(&b)
		check(t, err)
		k.heads[s] = head
		k.events += len(events)
	}
}

// tell begins to tell a receiver; stop ends it.
func (k *kept) tell(t *testing.T, r *receiver) (stop func()) {
	t.Helper()
	u, err := ParseURL("http://" + r.address)
	check(t, err)
	k.metered = prometheus.NewRegistry()
	k.metrics = NewMetrics(k.metered)
	s, err := Open(Config{
		URL: u, Header: http.Header{"X-Key": {"secret"}}, Cursor: filepath.Join(k.dir, "cursor.json"), Archive: k.archive, Administrative: k.chain,
		Poll: 10 * time.Millisecond, Backoff: 2 * time.Millisecond, Metrics: k.metrics, Log: zap.NewNop(),
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		check(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// counted is the value of a counter, with why when it has that label.
func (k *kept) counted(t *testing.T, name, why string) float64 {
	t.Helper()
	families, err := k.metered.Gather()
	check(t, err)
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "tenantmesh_control_audit_otlp_"+name && (why == "" || m.Label[0].GetValue() == why) {
				return m.Counter.GetValue()
			}
		}
	}
	t.Fatalf("there is no %s of %q", name, why)
	return 0
}

// inOrder wants each stream's events once, in order, from first on.
func inOrder(t *testing.T, sequences map[string][]string, want map[string]int) {
	t.Helper()
	if len(sequences) != len(want) {
		t.Errorf("streams %v, want %v", sequences, want)
	}
	for stream, n := range want {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprint(i+1))
		}
		if !slices.Equal(sequences[stream], all) {
			t.Errorf("of %q it took %v, want 1 to %d", stream, sequences[stream], n)
		}
	}
}

// TestDownThenUp: what is kept while nothing listens is told later, all of it, once, each stream in order.
func TestDownThenUp(t *testing.T) {
	k, r := newKept(t, trail.Keep{}), &receiver{address: free(t)}
	k.write(t, "m1", "UID1", 3) // before there was a sink
	k.chain.write(100)
	k.tell(t, r)
	for range 100 {
		k.write(t, "m1", "UID1", 2)
		k.write(t, "m2", "UID1", 1)
		k.write(t, "m1", "UID2", 1)
		k.write(t, "m2", "", 1)
	}
	await(t, "it fails", func() bool { return k.counted(t, "failures_total", "") > 1 && k.metrics.waited() > 0 })
	r.start(t)
	await(t, "all is taken", func() bool { return r.count() >= k.events+100 })
	await(t, "nothing waits", func() bool { return k.counted(t, "sent_total", "") == float64(k.events+100) && k.metrics.waited() == 0 })
	sequences, lost := r.took()
	inOrder(t, sequences, map[string]int{"m1/UID1": 406, "m2/UID1": 200, "m1/UID2": 200, "m2/": 200, "/": 100})
	if sent := k.counted(t, "sent_total", ""); lost != 0 || int(sent) != k.events+100 || r.header.Get("X-Key") != "secret" {
		t.Errorf("%v are sent, %d lost", sent, lost)
	}
}

// TestFull: a receiver that has no room is left alone for as long as it says.
func TestFull(t *testing.T) {
	k, answers := newKept(t, trail.Keep{}), 0
	var asked, came time.Time
	r := &receiver{address: free(t), answer: func(w http.ResponseWriter, _ []*logs.LogRecord) bool {
		switch answers++; answers {
		case 1:
			asked = time.Now()
			w.Header().Set("Retry-After", "1")
			return status(http.StatusTooManyRequests, w)
		case 2:
			came = time.Now()
			return status(http.StatusServiceUnavailable, w)
		case 3:
			return status(http.StatusUnauthorized, w) // an operator puts it right
		default:
			return true
		}
	}}
	r.start(t)
	k.tell(t, r)
	k.write(t, "m1", "UID1", 400)
	await(t, "all is taken", func() bool { return r.count() >= k.events })
	sequences, _ := r.took()
	inOrder(t, sequences, map[string]int{"m1/UID1": 800})
	if waited := came.Sub(asked); waited < time.Second {
		t.Errorf("it came again after %v", waited)
	}
}

// TestSlow: events are kept, and files go on, while a receiver does not answer; what went away is counted.
func TestSlow(t *testing.T) {
	k, held, release := newKept(t, trail.Keep{FileBytes: 20 << 10, Files: 2}), make(chan struct{}, 1), make(chan struct{})
	r := &receiver{address: free(t), answer: func(http.ResponseWriter, []*logs.LogRecord) bool {
		select {
		case held <- struct{}{}:
		default:
		}
		<-release
		return true
	}}
	r.start(t)
	k.tell(t, r)
	k.write(t, "m1", "UID1", 1)
	<-held
	k.write(t, "m1", "UID1", 200)
	close(release)
	k.sum(t, r, true)
}

// sum waits until each event is taken, or counted as lost.
func (k *kept) sum(t *testing.T, r *receiver, loss bool) {
	t.Helper()
	var sequences map[string][]string
	var lost int
	await(t, "each event is taken or counted", func() bool {
		sequences, lost = r.took()
		return len(sequences["m1/UID1"])+lost >= k.events
	})
	list := sequences["m1/UID1"]
	if len(list)+lost != k.events || lost > 0 != loss {
		t.Errorf("of %d events %d are taken, and %d counted as lost", k.events, len(list), lost)
	}
	last := 0
	for _, text := range list {
		var n int
		if _, err := fmt.Sscan(text, &n); err != nil || n <= last {
			t.Fatalf("event %s came after event %d", text, last)
		}
		last = n
	}
	if last != k.events {
		t.Errorf("the last is event %d", last)
	}
	await(t, "what was put aside is removed", func() bool {
		left, _ := filepath.Glob(filepath.Join(k.dir, "audit", "*", "*.gone"))
		return len(left) == 0
	})
}

// TestRotation: what goes away before it is taken is counted to the event, where it would have been, also over restarts.
func TestRotation(t *testing.T) {
	k, up := newKept(t, trail.Keep{FileBytes: 20 << 10, Files: 2}), make(chan struct{})
	r := &receiver{address: free(t), answer: func(w http.ResponseWriter, _ []*logs.LogRecord) bool {
		select {
		case <-up:
			return true
		default:
			return status(http.StatusServiceUnavailable, w)
		}
	}}
	r.start(t)
	for range 3 {
		stop := k.tell(t, r)
		k.write(t, "m1", "UID1", 70)
		await(t, "loss is counted", func() bool { return k.counted(t, "lost_total", rotated) > 0 })
		k.write(t, "m1", "UID1", 40)
		stop()
		k.open(t)
	}
	k.tell(t, r)
	k.write(t, "m1", "UID1", 1)
	close(up)
	k.sum(t, r, true)
}

// TestNobodyFollowed: files that went away while there was no sink are reported, without a number.
func TestNobodyFollowed(t *testing.T) {
	k, r := newKept(t, trail.Keep{FileBytes: 20 << 10, Files: 2}), &receiver{address: free(t)}
	r.start(t)
	stop := k.tell(t, r)
	k.write(t, "m1", "UID1", 1)
	await(t, "it is taken", func() bool { return k.counted(t, "sent_total", "") == 2 })
	stop()
	k.open(t)
	k.write(t, "m1", "UID1", 200)
	k.tell(t, r)
	await(t, "the newest is taken", func() bool {
		sequences, _ := r.took()
		return slices.Contains(sequences["m1/UID1"], fmt.Sprint(k.events))
	})
	if gap := attributes(r.records[2]); gap["kind"] != "missed" || gap["unknown"] == "" || gap["lost"] != "" {
		t.Errorf("after what was taken comes %v", gap)
	}
}

// TestRestart: a sink goes on where the one before ended. What is told twice is what was not answered, and after a crash
// what was taken since the cursor was written.
func TestRestart(t *testing.T) {
	k, dropped := newKept(t, trail.Keep{}), false
	r := &receiver{address: free(t)}
	r.start(t)
	stop := k.tell(t, r)
	k.chain.write(5)
	k.write(t, "m1", "UID1", 10)
	await(t, "all is taken", func() bool { return k.counted(t, "sent_total", "") == 25 })
	stop()
	before, err := os.ReadFile(filepath.Join(k.dir, "cursor.json"))
	check(t, err)
	k.open(t)
	k.write(t, "m1", "UID1", 10) // with no sink
	k.chain.write(1)
	r.answer = func(w http.ResponseWriter, records []*logs.LogRecord) bool {
		if dropped {
			return true
		}
		dropped = true
		r.mu.Lock()
		r.records = append(r.records, records...)
		r.mu.Unlock()
		panic(http.ErrAbortHandler) // it has them, and nobody is told
	}
	stop = k.tell(t, r)
	await(t, "all is taken", func() bool { return r.count() == 25+2*21 && k.counted(t, "sent_total", "") == 21 })
	stop()
	sequences, _ := r.took()
	if list := sequences["m1/UID1"]; !slices.Equal(list[20:40], list[40:60]) || list[20] != "21" || list[39] != "40" {
		t.Errorf("it took %v", list)
	}
	check(t, os.WriteFile(filepath.Join(k.dir, "cursor.json"), before, 0o600))
	k.open(t)
	k.write(t, "m1", "UID1", 1)
	k.tell(t, r)
	await(t, "all is taken", func() bool { return r.count() == 25+3*21+2 })
	if sequences, _ = r.took(); sequences["m1/UID1"][60] != "21" || sequences["m1/UID1"][81] != "42" {
		t.Errorf("it took %v", sequences)
	}
}

// TestRefused: what a receiver refuses for good is counted, the rest is told.
func TestRefused(t *testing.T) {
	k := newKept(t, trail.Keep{})
	r := &receiver{address: free(t), answer: func(w http.ResponseWriter, records []*logs.LogRecord) bool {
		if slices.ContainsFunc(records, func(r *logs.LogRecord) bool { return attributes(r)["sequence"] == "7" }) {
			return status(http.StatusBadRequest, w)
		}
		if len(records) > 10 {
			return status(http.StatusRequestEntityTooLarge, w)
		}
		if attributes(records[0])["sequence"] == "1" {
			text, _ := proto.Marshal(&collector.ExportLogsServiceResponse{PartialSuccess: &collector.ExportLogsPartialSuccess{RejectedLogRecords: 2}})
			_, _ = w.Write(text)
		}
		return true
	}}
	r.start(t)
	k.write(t, "m1", "UID1", 50)
	k.tell(t, r)
	await(t, "all but one are taken", func() bool { return r.count() == 99 })
	await(t, "it is counted", func() bool { return k.counted(t, "lost_total", refused) == 3 })
}

// TestRecords: what the attributes are.
func TestRecords(t *testing.T) {
	k, r := newKept(t, trail.Keep{}), &receiver{address: free(t)}
	r.start(t)
	k.chain.write(1)
	k.write(t, "m1", "UID1", 1)
	k.tell(t, r)
	await(t, "all is taken", func() bool { return k.counted(t, "sent_total", "") == 3 })
	write, refusal, use := attributes(r.records[0]), attributes(r.records[1]), attributes(r.records[2])
	for name, want := range map[string]string{"kind": "administrative", "actor": "uid:0", "action": "update", "object": "Tenant/acme", "tenant": "acme", "sequence": "1"} {
		if write[name] != want {
			t.Errorf("%s of a write is %q, want %q", name, write[name], want)
		}
	}
	for name, want := range map[string]string{"kind": "decision", "tenant": "acme", "tenantUid": "UID1", "member": "m1", "reason": "denied_by_policy", "path": "/one", "sequence": "1", "allowed": "bool_value:false"} {
		if refusal[name] != want {
			t.Errorf("%s of a refusal is %q, want %q", name, refusal[name], want)
		}
	}
	if use["allowed"] != "bool_value:true" || r.records[1].SeverityText != "WARN" || r.records[2].SeverityText != "INFO" || r.records[1].EventName != "tenantmesh.audit.decision" {
		t.Errorf("%v", r.records)
	}
	if body := r.records[1].Body.GetStringValue(); !strings.Contains(body, `"reason":"denied_by_policy"`) || len(refusal["hash"]) != 64 {
		t.Errorf("the body is %s", body)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"http://a:4318": "http://a:4318/v1/logs", "https://a/": "https://a/v1/logs", "https://a/b/logs": "https://a/b/logs",
		"a:4318": "", "grpc://a:4317": "", "https://u:p@a": "", "https://a?x=1": "", "https:///x": "", "http://a/#x": "", "http://[": "",
	} {
		u, err := ParseURL(text)
		if (err != nil) != (want == "") || err == nil && u.String() != want {
			t.Errorf("%s is %v, %v", text, u, err)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%v names a password", err)
		}
	}
	if h, err := ParseHeader("authorization=Bearer%20abc, x-org=a=b"); err != nil || h.Get("Authorization") != "Bearer abc" || h.Get("X-Org") != "a=b" {
		t.Errorf("%v, %v", h, err)
	}
	if _, err := ParseHeader("secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	now := trailtest.Begin
	for text, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "-1": 0, "x": 0, "99999": maxPatience, now.Add(time.Minute).Format(http.TimeFormat): time.Minute} {
		if have := retryAfter(text, now); have != want {
			t.Errorf("%q is %v, want %v", text, have, want)
		}
	}
}
