package trail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail/trailtest"
)

var begin = trailtest.Begin

const (
	memberID  = "spiffe://mesh.example/cell/a/workload/front"
	controlID = "spiffe://mesh.example/control"
)

// recorded makes a trail of two members, in batches of the given sizes, and the heads that the store keeps.
func recorded(t testing.TB, a trailtest.Authority, sizes ...int) (batches []Batch, heads map[string]Newest) {
	t.Helper()
	signer := a.SVID(t, memberID)
	heads = map[string]Newest{}
	for _, member := range []string{"m1", "m2"} {
		var head ledger.Head
		for _, size := range sizes {
			var events []Event
			for i := range size {
				events = append(events, Event{Time: begin.Add(time.Duration(i) * time.Second), Kind: Decision, Reason: "denied_by_policy", Path: "/a\nb\xff<", Principal: fmt.Sprint("p", i)})
			}
			var b Batch
			var err error
			if b, head, err = Seal(Stream{member, "UID1"}, "acme", head, events, begin, signer); err != nil {
				t.Fatal(err)
			}
			batches = append(batches, b)
		}
		heads[member] = Newest{head, memberID}
	}
	return batches, heads
}

func exported(t testing.TB, a trailtest.Authority, batches []Batch, heads map[string]Newest, administrative ...Line) []byte {
	t.Helper()
	var out bytes.Buffer
	each := func(yield func(Batch, error) bool) {
		for _, b := range batches {
			if !yield(b, nil) {
				return
			}
		}
	}
	e := Export{Tenant: "acme", TenantUID: "UID1", Heads: heads, Bundle: a.PEM()}
	if err := Write(&out, e, each, administrative, begin, a.SVID(t, controlID)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func verify(t testing.TB, a trailtest.Authority, files ...[]byte) *Trail {
	t.Helper()
	var readers []io.Reader
	for _, f := range files {
		readers = append(readers, bytes.NewReader(f))
	}
	found, err := Read(a.Pool(), readers...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// copied is a deep copy.
func copied(t testing.TB, batches []Batch) (list []Batch) {
	t.Helper()
	text, err := json.Marshal(batches)
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestWhole: what was recorded passes, also when two control planes have parts of it, and holds what it was given.
func TestWhole(t *testing.T) {
	a := trailtest.New(t)
	batches, heads := recorded(t, a, 3, 1, 2)
	found := verify(t, a, exported(t, a, batches, heads))
	if len(found.Problems) > 0 || len(found.Events) != 12 || found.Events[0].Path != "/a\nb\ufffd<" {
		t.Errorf("%d events, %v", len(found.Events), found.Problems)
	}
	one, other := exported(t, a, slices.Concat(batches[:2], batches[3:4]), nil), exported(t, a, slices.Concat(batches[1:3], batches[4:]), heads)
	if found := verify(t, a, one, other); len(found.Problems) > 0 || len(found.Events) != 12 {
		t.Errorf("of two control planes: %d events, %v", len(found.Events), found.Problems)
	}
	if r := found.Report(); r.Refusals != 12 || len(r.Into) != 3 || r.Into[0].Count != 6 && r.Into[0].Count != 4 && r.Into[0].Count != 2 {
		t.Errorf("the report is %+v", r)
	}
}

// TestAnyChangeIsFound: one change, drop, swap, truncation, or repetition, with or without the rest chained anew.
func TestAnyChangeIsFound(t *testing.T) {
	a := trailtest.New(t)
	batches, heads := recorded(t, a, 3, 1, 4, 2)
	eve := a.SVID(t, "spiffe://mesh.example/cell/a/workload/eve")
	rapid.Check(t, func(rt *rapid.T) {
		spoilt := copied(t, batches)
		n := rapid.IntRange(0, len(spoilt)-1).Draw(rt, "batch")
		b := &spoilt[n]
		i := rapid.IntRange(0, len(b.Events)-1).Draw(rt, "event")
		kind := rapid.SampledFrom([]string{"change", "drop", "swap", "truncate", "repeat", "drop batch", "swap batches", "repeat batch", "truncate batches", "other stream", "sign anew"}).Draw(rt, "how")
		switch kind {
		case "change":
			at := rapid.IntRange(0, len(b.Events[i].Event)-1).Draw(rt, "byte")
			b.Events[i].Event[at] ^= 1 << rapid.IntRange(0, 6).Draw(rt, "bit")
		case "drop":
			b.Events = slices.Delete(b.Events, i, i+1)
		case "swap":
			j := rapid.IntRange(0, len(b.Events)-1).Draw(rt, "with")
			if i == j {
				rt.Skip()
			}
			b.Events[i], b.Events[j] = b.Events[j], b.Events[i]
		case "truncate":
			b.Events = b.Events[:i]
		case "repeat":
			b.Events = slices.Insert(b.Events, i, b.Events[i])
		case "drop batch":
			spoilt = slices.Delete(spoilt, n, n+1)
		case "swap batches":
			if n+1 == len(spoilt) || spoilt[n+1].Member != b.Member {
				rt.Skip()
			}
			spoilt[n], spoilt[n+1] = spoilt[n+1], spoilt[n]
		case "repeat batch":
			spoilt = slices.Insert(spoilt, n, spoilt[n])
		case "truncate batches":
			spoilt = spoilt[:n]
		case "other stream":
			if b.Member = "m2"; batches[n].Member == "m2" {
				b.Member = "m1"
			}
		case "sign anew": // by who may sign, for itself
			var events []Event
			for _, sealed := range b.Events {
				var e Event
				if err := json.Unmarshal(sealed.Event, &e); err != nil {
					rt.Fatal(err)
				}
				events = append(events, e)
			}
			events[i].Principal = "nobody"
			anew, _, err := Seal(b.Stream, b.Tenant, b.Previous, events, begin, eve)
			if err != nil {
				rt.Fatal(err)
			}
			*b = anew
		}
		text := spoiltExport(t, a, spoilt, heads)
		found := verify(t, a, text)
		if len(found.Problems) == 0 {
			rt.Fatalf("%s of event %d of batch %d is not found", kind, i, n)
		}
		for _, problem := range found.Problems {
			if !errors.Is(problem, ErrBroken) || !strings.ContainsAny(problem.Error(), "0123456789") {
				rt.Fatalf("%v does not say where", problem)
			}
		}
	})
}

// spoiltExport writes lines as they are, of which some may be no JSON any more.
func spoiltExport(t testing.TB, a trailtest.Authority, batches []Batch, heads map[string]Newest) []byte {
	t.Helper()
	out := exported(t, a, nil, heads)
	for i := range batches {
		b := &batches[i]
		text, err := json.Marshal(Line{Batch: b})
		if err != nil { // an event is no JSON
			text = []byte(`{"batch":{"member":"` + b.Member + `"`)
		}
		out = append(append(out, text...), '\n')
	}
	return out
}

// TestHeadsAreSigned: who takes events away and the head with them is found by the first line.
func TestHeadsAreSigned(t *testing.T) {
	a := trailtest.New(t)
	batches, heads := recorded(t, a, 3, 1)
	whole := exported(t, a, batches, heads)
	delete(heads, "m2")
	first := bytes.SplitN(exported(t, a, batches[:2], heads), []byte("\n"), 2)
	honest := bytes.SplitN(whole, []byte("\n"), 2)
	var line Line
	if err := json.Unmarshal(honest[0], &line); err != nil {
		t.Fatal(err)
	}
	delete(line.Export.Heads, "m2")
	forged, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	if found := verify(t, a, append(append(forged, '\n'), first[1]...)); len(found.Problems) == 0 {
		t.Error("heads that were changed pass")
	}
	other := trailtest.New(t)
	if found := verify(t, other, whole); len(found.Problems) < 2 {
		t.Errorf("another bundle vouches for it: %v", found.Problems)
	}
	// A member that signs as the control plane.
	line.Export.Signed, err = sign(a.SVID(t, memberID), begin, line.Export.signed)
	if err != nil {
		t.Fatal(err)
	}
	if forged, err = json.Marshal(line); err != nil {
		t.Fatal(err)
	}
	if found := verify(t, a, append(append(forged, '\n'), first[1]...)); len(found.Problems) == 0 {
		t.Error("a member's export passes")
	}
}

// TestAdministrativeLines: each is found when it is changed, dropped, moved or put in.
func TestAdministrativeLines(t *testing.T) {
	a := trailtest.New(t)
	var head ledger.Head
	var lines []Line
	for i := range 4 {
		var e ledger.Event
		e, head = head.Seal(ledger.Event{Time: begin, Actor: "op", Object: fmt.Sprint("Tenant/", i)})
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, Line{Event: text})
	}
	whole := exported(t, a, nil, nil, lines...)
	if found := verify(t, a, whole); len(found.Problems) > 0 || len(found.Administrative) != 4 {
		t.Fatalf("%v", found.Problems)
	}
	rows := strings.SplitAfter(strings.TrimSpace(string(whole))+"\n", "\n")[:5]
	for name, spoilt := range map[string][]string{
		"changed": {rows[0], rows[1], strings.Replace(rows[2], "op", "ev", 1), rows[3], rows[4]}, "dropped": {rows[0], rows[1], rows[3], rows[4]}, "truncated": {rows[0], rows[1]},
		"swapped": {rows[0], rows[2], rows[1], rows[3], rows[4]}, "twice": {rows[0], rows[1], rows[1], rows[2], rows[3], rows[4]},
	} {
		if found := verify(t, a, []byte(strings.Join(spoilt, ""))); len(found.Problems) == 0 {
			t.Errorf("%s: it passes", name)
		}
	}
}

// TestArchive: what is sent again is kept once, also after a crash in the middle of a line; files are rotated.
func TestArchive(t *testing.T) {
	a := trailtest.New(t)
	batches, heads := recorded(t, a, 3, 1, 2, 5, 1, 1)
	dir := t.TempDir()
	open := func() *Archive {
		t.Helper()
		archive, err := OpenArchive(dir, Keep{FileBytes: 6000})
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	archive := open()
	for i := range batches {
		for range 2 {
			if odd, err := archive.Append(&batches[i]); err != nil || odd != nil {
				t.Fatal(odd, err)
			}
		}
		if i%3 == 1 {
			files, _ := filepath.Glob(filepath.Join(dir, "UID1", "*.jsonl"))
			file, err := os.OpenFile(slices.Max(files), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString(`{"member":`); err != nil {
				t.Fatal(err)
			}
			_ = file.Close()
			archive = open()
		}
	}
	var kept []Batch
	for b, err := range open().Batches("UID1") {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, b)
	}
	if found := verify(t, a, exported(t, a, kept, heads)); len(found.Problems) > 0 || len(kept) != len(batches) {
		t.Errorf("%d batches, %v", len(kept), found.Problems)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "UID1", "*.jsonl")); len(files) < 2 {
		t.Errorf("%d files: they are not rotated", len(files))
	}
	fork := batches[0]
	fork.Events = fork.Events[:1]
	if odd, err := archive.Append(&fork); err != nil || odd == nil {
		t.Errorf("a fork is not odd: %v", err)
	}
	if _, err := archive.Append(&Batch{Stream: Stream{"m", "../x"}, Events: fork.Events}); err == nil {
		t.Error("a UID chooses a path")
	}
	if uids, err := archive.Tenants(); err != nil || !slices.Equal(uids, []string{"UID1"}) {
		t.Errorf("the tenants are %v, %v", uids, err)
	}
}
