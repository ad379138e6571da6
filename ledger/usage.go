package ledger

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// UsageRecord sums one minute of one tenant's requests to one workload, by class.
type UsageRecord struct {
	Minute        time.Time     `json:"minute"` // UTC, whole
	Tenant        string        `json:"tenant"`
	TenantUID     string        `json:"tenantUid"`
	Workload      string        `json:"workload"`
	Class         string        `json:"class,omitempty"`
	Requests      int64         `json:"requests"`
	Refused       int64         `json:"refused,omitempty"` // of Requests
	Errors        int64         `json:"errors,omitempty"`  // of Requests: let in, and answered with 500 or more
	BytesReceived int64         `json:"bytesReceived"`
	BytesSent     int64         `json:"bytesSent"`
	Duration      time.Duration `json:"duration"` // summed, nanoseconds

	// Of Requests: while the tenant was under its share of the service; of those, refused for want of capacity, and decided late.
	UnderShare        int64 `json:"underShare,omitempty"`
	UnderShareRefused int64 `json:"underShareRefused,omitempty"`
	UnderShareLate    int64 `json:"underShareLate,omitempty"`
}

type usageKey struct {
	minute                       int64
	tenant, uid, workload, class string
}

func (r UsageRecord) key() usageKey {
	return usageKey{r.Minute.Unix(), r.Tenant, r.TenantUID, r.Workload, r.Class}
}

func (r *UsageRecord) add(other UsageRecord) {
	r.Requests += other.Requests
	r.Refused += other.Refused
	r.Errors += other.Errors
	r.BytesReceived += other.BytesReceived
	r.BytesSent += other.BytesSent
	r.Duration += other.Duration
	r.UnderShare += other.UnderShare
	r.UnderShareRefused += other.UnderShareRefused
	r.UnderShareLate += other.UnderShareLate
}

// Meter sums usage by the minute until it is taken. It may be used from many goroutines.
type Meter struct {
	mu      sync.Mutex
	records map[usageKey]*UsageRecord
}

// NewMeter returns a meter at zero.
func NewMeter() *Meter { return &Meter{records: map[usageKey]*UsageRecord{}} }

// Add counts what record says; its Minute may be any time within the minute.
func (m *Meter) Add(record UsageRecord) {
	record.Minute = record.Minute.UTC().Truncate(time.Minute)
	m.mu.Lock()
	defer m.mu.Unlock()
	if sum := m.records[record.key()]; sum != nil {
		sum.add(record)
		return
	}
	m.records[record.key()] = &record
}

// Take returns what was summed, in order, and begins anew.
func (m *Meter) Take() []UsageRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := sorted(m.records)
	clear(m.records)
	return taken
}

func sorted(records map[usageKey]*UsageRecord) []UsageRecord {
	list := make([]UsageRecord, 0, len(records))
	for _, r := range records {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b UsageRecord) int {
		return cmp.Or(a.Minute.Compare(b.Minute), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.TenantUID, b.TenantUID),
			strings.Compare(a.Workload, b.Workload), strings.Compare(a.Class, b.Class))
	})
	return list
}

// Usage is the ledger of what was used: a file of batches, one a line, and their sums in memory.
// It may be used from many goroutines of one process.
type Usage struct {
	mu   sync.Mutex
	file *os.File
	last map[string]int64 // by member: sequence of the newest batch
	sums map[usageKey]*UsageRecord
}

type usageBatch struct {
	Member   string        `json:"member"`
	Sequence int64         `json:"sequence"`
	Records  []UsageRecord `json:"records"`
}

// OpenUsage opens the ledger in dir, and makes it when there is none. A last line that was cut off by a crash was
// never acknowledged: it is taken away.
func OpenUsage(dir string) (*Usage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "usage.jsonl")
	u := &Usage{last: map[string]int64{}, sums: map[usageKey]*UsageRecord{}}
	good, err := u.load(path)
	if err != nil {
		return nil, err
	}
	u.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := u.file.Truncate(good); err != nil {
		return nil, errors.Join(err, u.file.Close())
	}
	_, err = u.file.Seek(good, io.SeekStart)
	return u, err
}

func (u *Usage) load(path string) (good int64, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return good, nil
		}
		if err != nil {
			return 0, err
		}
		var batch usageBatch
		if err := json.Unmarshal(line, &batch); err != nil {
			return 0, fmt.Errorf("%s: byte %d: %w", path, good, err)
		}
		u.count(batch)
		good += int64(len(line))
	}
}

func (u *Usage) count(batch usageBatch) {
	u.last[batch.Member] = batch.Sequence
	for _, r := range batch.Records {
		if sum := u.sums[r.key()]; sum != nil {
			sum.add(r)
		} else {
			u.sums[r.key()] = &r
		}
	}
}

// Append counts a member's batch once, durably: a batch whose sequence is not after the member's last was counted
// before, and changes nothing.
func (u *Usage) Append(member string, sequence int64, records []UsageRecord) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if sequence <= u.last[member] {
		return nil
	}
	batch := usageBatch{member, sequence, records}
	line, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	if _, err := u.file.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := u.file.Sync(); err != nil {
		return err
	}
	u.count(batch)
	return nil
}

// Last returns the sequence of a member's newest batch, 0 for none.
func (u *Usage) Last(member string) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[member]
}

// Sum returns the records of a tenant ("" for all) whose minute is in [since, until), oldest first.
func (u *Usage) Sum(tenant string, since, until time.Time) []UsageRecord {
	u.mu.Lock()
	defer u.mu.Unlock()
	within := map[usageKey]*UsageRecord{}
	for key, r := range u.sums {
		if (tenant == "" || r.Tenant == tenant) && !r.Minute.Before(since) && r.Minute.Before(until) {
			within[key] = r
		}
	}
	return sorted(within)
}

// Close closes the file.
func (u *Usage) Close() error { return u.file.Close() }
