package ledger

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var minute = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

func TestMeter(t *testing.T) {
	m := NewMeter()
	for i := range 3 {
		m.Add(UsageRecord{Minute: minute.Add(time.Duration(i) * time.Second), Tenant: "acme", Requests: 1, BytesSent: 10, Duration: time.Second}, nil)
	}
	m.Add(UsageRecord{Minute: minute.Add(time.Minute), Tenant: "acme", Requests: 1}, nil)
	m.Add(UsageRecord{Minute: minute, Tenant: "acme", TenantUID: "other", Requests: 1, Refused: 1}, nil)
	taken := m.Take()
	if len(taken) != 3 || taken[0].Requests != 3 || taken[0].BytesSent != 30 || taken[0].Duration != 3*time.Second || taken[1].Refused != 1 {
		t.Errorf("taken: %+v", taken)
	}
	if again := m.Take(); len(again) != 0 {
		t.Errorf("taken twice: %+v", again)
	}
}

// TestSeats: what is counted from a tenant's seat is counted as without, whatever minute, class or Take comes between.
func TestSeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain, seated, seats := NewMeter(), NewMeter(), map[string]*Seat{"a": {}, "b": {}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "take") == 0 {
				if a, b := plain.Take(), seated.Take(); !slices.Equal(a, b) {
					t.Fatalf("%+v, want %+v", b, a)
				}
			}
			uid := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "uid")
			record := UsageRecord{
				Minute: minute.Add(time.Duration(rapid.IntRange(0, 150).Draw(t, "second")) * time.Second), Tenant: "acme", TenantUID: uid,
				Class: rapid.SampledFrom([]string{"", "exports"}).Draw(t, "class"), Requests: 1,
			}
			plain.Add(record, nil)
			seated.Add(record, seats[uid])
		}
		if a, b := plain.Take(), seated.Take(); !slices.Equal(a, b) {
			t.Fatalf("%+v, want %+v", b, a)
		}
	})
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	u, err := OpenUsage(dir)
	if err != nil {
		t.Fatal(err)
	}
	appendTo := func(sequence int64) {
		t.Helper()
		if err := u.Append("m", sequence, []UsageRecord{{Minute: minute, Tenant: "acme", Requests: 2}}); err != nil {
			t.Fatal(err)
		}
	}
	sum := func() int64 {
		total := int64(0)
		for _, r := range u.Sum("acme", minute, minute.Add(time.Minute)) {
			total += r.Requests
		}
		return total
	}
	appendTo(1)
	appendTo(1) // again: it was not acknowledged
	appendTo(2)
	if sum() != 4 {
		t.Errorf("%d requests, want 4", sum())
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	// A crash in the middle of a line.
	file, err := os.OpenFile(filepath.Join(dir, "usage.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"member":"m","seq`); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if u, err = OpenUsage(dir); err != nil {
		t.Fatal(err)
	}
	appendTo(2) // known from the file
	appendTo(3)
	if sum() != 6 {
		t.Errorf("after a crash: %d requests, want 6", sum())
	}
	if other := u.Sum("acme", minute.Add(time.Minute), minute.Add(time.Hour)); len(other) != 0 {
		t.Errorf("an hour that nothing was used in has %v", other)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if u, err = OpenUsage(dir); err != nil || sum() != 6 {
		t.Errorf("opened again: %d requests, %v", sum(), err)
	}
}

func TestChain(t *testing.T) {
	var head Head
	var events []Event
	for range 4 {
		var e Event
		e, head = head.Seal(Event{Time: minute, Actor: "a"})
		events = append(events, e)
	}
	if end, err := (Head{}).Verify(events); err != nil || end != head {
		t.Errorf("a whole chain: %v", err)
	}
	for name, spoilt := range map[string][]Event{
		"one taken out": {events[0], events[2]}, "one changed": {events[0], {Sequence: 2, Previous: events[0].Hash, Hash: events[1].Hash, Actor: "eve"}}, "swapped": {events[1], events[0]},
	} {
		if _, err := (Head{}).Verify(spoilt); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
}
