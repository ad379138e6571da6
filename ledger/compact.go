package ledger

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Keep says how long usage is kept, and how finely: the ledger is bounded by it, and by how many tenants use how many
// workloads.
type Keep struct {
	Minutes time.Duration // by the minute; after that by the hour; at least [MinKeepMinutes]
	Hours   time.Duration // by the hour; after that by the day; at least Minutes
	Days    time.Duration // at all; at least Hours
}

// MinKeepMinutes is how far back whoever judges the present looks, by the minute.
const MinKeepMinutes = 2 * time.Hour

const day = 24 * time.Hour

// Defaults fills in what is not said: 3 hours by the minute, 3 days by the hour, 400 days at all, which is a year and a
// month for whoever bills. That is at most 652 records a tenant, workload and class.
func (k *Keep) Defaults() {
	k.Minutes = cmp.Or(k.Minutes, 3*time.Hour)
	k.Hours = cmp.Or(k.Hours, 3*day)
	k.Days = cmp.Or(k.Days, 400*day)
}

// Check returns every problem.
func (k Keep) Check() error {
	var problems []error
	if k.Minutes < MinKeepMinutes {
		problems = append(problems, fmt.Errorf("usage must be kept by the minute for at least %v (got %v)", MinKeepMinutes, k.Minutes))
	}
	if k.Hours < k.Minutes {
		problems = append(problems, fmt.Errorf("usage must be kept by the hour for at least as long as by the minute, %v (got %v)", k.Minutes, k.Hours))
	}
	if k.Days < k.Hours {
		problems = append(problems, fmt.Errorf("usage must be kept by the day for at least as long as by the hour, %v (got %v)", k.Hours, k.Days))
	}
	return errors.Join(problems...)
}

// span is how finely a record is kept that ended at end; false when it is not any more. An hour, or a day, is made only
// once all of it is old enough, so that no two records are about the same minute, but for one that came late.
func (k Keep) span(r UsageRecord, now time.Time) (span time.Duration, kept bool) {
	older := func(span, than time.Duration) bool {
		return !r.Minute.Truncate(span).Add(span).After(now.Add(-than))
	}
	switch {
	case older(day, k.Days):
		return 0, false
	case older(day, k.Hours):
		return day, true
	case older(time.Hour, k.Minutes):
		return max(r.Span, time.Hour), true
	default:
		return r.Span, true
	}
}

// halfPattern is what a file is called that a compaction has not ended.
const halfPattern = ".usage-*.half"

// Compact sums what is old into hours and days, forgets what is too old, and members that have not been heard of for as
// long, and writes the file anew: whole, before it takes the place of the one that was.
func (u *Usage) Compact(now time.Time, keep Keep) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := &Usage{path: u.path, last: maps.Clone(u.last), sums: make(map[usageKey]*UsageRecord, len(u.sums))}
	for _, r := range u.sums {
		span, kept := keep.span(*r, now)
		if !kept {
			continue
		}
		folded := *r
		if folded.Span = span; span > 0 {
			folded.Minute = r.Minute.Truncate(span)
		}
		next.sum(folded)
	}
	maps.DeleteFunc(next.last, func(_ string, n newest) bool { return n.at.Before(now.Add(-keep.Days)) })
	file, err := next.write()
	if file == nil {
		return err
	}
	old := u.file
	u.file, u.last, u.sums = file, next.last, next.sums
	return errors.Join(err, old.Close())
}

// perLine bounds how many records are one line.
const perLine = 1000

// write replaces the file by one that holds what u does, and returns it, open at its end; also, with an error, when it
// is not certain that the name is on the disk.
func (u *Usage) write() (*os.File, error) {
	file, err := os.CreateTemp(filepath.Dir(u.path), halfPattern)
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriter(file)
	encoder := json.NewEncoder(out)
	for member, n := range u.last {
		err = errors.Join(err, encoder.Encode(usageBatch{Member: member, Sequence: n.sequence, At: n.at}))
	}
	for records := range slices.Chunk(sorted(u.sums), perLine) {
		err = errors.Join(err, encoder.Encode(usageBatch{Records: records}))
	}
	if err = errors.Join(err, out.Flush(), file.Sync()); err == nil {
		err = os.Rename(file.Name(), u.path)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return file, syncFolder(filepath.Dir(u.path))
}

// syncFolder makes the names in a folder outlive a loss of power.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
