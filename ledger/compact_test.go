package ledger

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCompact: nothing is lost or counted twice on the way from minutes to hours to days, nor what is sent again; what is
// too old is gone; and the file holds no more than the sums.
func TestCompact(t *testing.T) {
	dir := t.TempDir()
	u, err := OpenUsage(dir)
	if err != nil {
		t.Fatal(err)
	}
	keep := Keep{Minutes: 2 * time.Hour, Hours: 48 * time.Hour, Days: 10 * day}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	sequence := int64(0)
	add := func(member string, at time.Time) {
		t.Helper()
		sequence++
		r := UsageRecord{Minute: at, Tenant: "acme", Workload: "front", Requests: 1, Refused: 1, Errors: 1, BytesReceived: 10, BytesSent: 100, Duration: time.Second}
		for range 2 { // the first answer was lost
			if err := u.Append(member, sequence, []UsageRecord{r}); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := begin
	compact := func() {
		t.Helper()
		if err := u.Compact(now, keep); err != nil {
			t.Fatal(err)
		}
	}
	for ; now.Before(begin.Add(4*day + 30*time.Minute)); now = now.Add(10 * time.Minute) {
		add("m", now)
		if now.Minute() == 20 {
			compact()
		}
	}
	compact()
	// 4 days and a half hour: 2 whole days are older than 48 hours, then hours until 22:00 of the last day, then minutes.
	requests := func() (total int64, spans map[time.Duration]int) {
		spans = map[time.Duration]int{}
		for _, r := range u.Sum("acme", time.Time{}, now) {
			total += r.Requests
			spans[r.End().Sub(r.Minute)]++
			if r.Refused != r.Requests || r.Errors != r.Requests || r.BytesReceived != 10*r.Requests || r.BytesSent != 100*r.Requests || r.Duration != time.Duration(r.Requests)*time.Second {
				t.Errorf("a sum is not whole: %+v", r)
			}
		}
		return total, spans
	}
	check := func(when string, wantTotal int64, days, hours, minutes int) {
		t.Helper()
		if total, spans := requests(); total != wantTotal || spans[day] != days || spans[time.Hour] != hours || spans[time.Minute] != minutes || len(spans) > 3 {
			t.Errorf("%s: %d requests by %v, want %d by %d days, %d hours and %d minutes", when, total, spans, wantTotal, days, hours, minutes)
		}
	}
	const all = 4*24*6 + 3
	check("after 4 days", all, 2, 46, 15)
	text, err := os.ReadFile(filepath.Join(dir, "usage.jsonl"))
	if err != nil || strings.Count(string(text), "\n") != 2 {
		t.Errorf("the file has %d lines, %v: want one of the member and one of the sums", strings.Count(string(text), "\n"), err)
	}

	// What comes late, or again after a restart, is counted once.
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".usage-123.half"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err = OpenUsage(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("beside the ledger lies %v", left)
	}
	check("opened again", all, 2, 46, 15)
	sequence--
	add("m", now)
	check("sent again", all, 2, 46, 15)
	add("late", begin.Add(time.Hour))
	check("what is late", all+1, 2, 46, 16)
	compact()
	check("what is late, compacted", all+1, 2, 46, 15)

	now = begin.Add(11*day + time.Minute)
	compact()
	check("after 11 days", all-6*24, 4, 0, 0) // of the last day, half an hour
	if u.Last("m") == 0 {
		t.Error("a member that was heard of is forgotten")
	}
	if now = begin.Add(20 * day); u.Last("late") != 0 {
		t.Error("a member that was not heard of for so long is remembered")
	}
	compact()
	check("after 20 days", 0, 0, 0, 0)
	if u.Last("m") != 0 {
		t.Error("a member that was not heard of for so long is remembered")
	}
	add("m", now.Add(-time.Minute))
	check("and then", 1, 0, 0, 1)
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestKeep(t *testing.T) {
	var keep Keep
	keep.Defaults()
	if err := keep.Check(); err != nil {
		t.Error(err)
	}
	err := Keep{Minutes: time.Hour, Hours: time.Minute, Days: time.Second}.Check()
	if err == nil || len(slices.Collect(strings.SplitSeq(err.Error(), "\n"))) != 3 {
		t.Errorf("the problems are %v, want 3", err)
	}
}
