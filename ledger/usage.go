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

// UsageRecord sums one minute of one tenant's requests to one workload, by class; in the ledger, when it is older, one
// hour or one day.
type UsageRecord struct {
	Minute        time.Time     `json:"minute"`         // when it begins: UTC, whole
	Span          time.Duration `json:"span,omitempty"` // nanoseconds: 0 for a minute, else an hour or a day
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

// End is when the time ends that a record sums.
func (r UsageRecord) End() time.Time { return r.Minute.Add(max(r.Span, time.Minute)) }

type usageKey struct {
	minute                       int64
	span                         time.Duration
	tenant, uid, workload, class string
}

func (r UsageRecord) key() usageKey {
	return usageKey{r.Minute.Unix(), r.Span, r.Tenant, r.TenantUID, r.Workload, r.Class}
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
	taken   int64 // how often
	lost    int64
}

// Seat is where a [Meter] has the newest sum of a tenant, for who counts it again and again. The zero Seat is nowhere; a seat is used
// with one meter only.
type Seat struct {
	sum   *UsageRecord
	taken int64 // of the meter, when sum was its own
}

// maxSums bounds the sums that wait to be taken: an hour of 4,000 tenants.
const maxSums = 1 << 18

// Lost is how many requests were not counted because more sums than are kept had to wait.
func (m *Meter) Lost() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

// NewMeter returns a meter at zero.
func NewMeter() *Meter { return &Meter{records: map[usageKey]*UsageRecord{}} }

// Add counts what record says; its Minute may be any time within the minute. seat is the tenant's, or nil.
func (m *Meter) Add(record UsageRecord, seat *Seat) {
	record.Minute = record.Minute.UTC().Truncate(time.Minute)
	m.mu.Lock()
	defer m.mu.Unlock()
	if seat != nil && seat.sum != nil && seat.taken == m.taken && seat.sum.same(&record) {
		seat.sum.add(record)
		return
	}
	key := record.key()
	sum := m.records[key]
	if sum == nil && len(m.records) >= maxSums {
		m.lost += record.Requests
		return
	}
	if sum == nil {
		sum = &UsageRecord{Minute: record.Minute, Tenant: record.Tenant, TenantUID: record.TenantUID, Workload: record.Workload, Class: record.Class}
		m.records[key] = sum
	}
	sum.add(record)
	if seat != nil {
		*seat = Seat{sum, m.taken}
	}
}

// same reports whether two records are of one sum.
func (r *UsageRecord) same(other *UsageRecord) bool {
	return r.Minute.Equal(other.Minute) && r.Span == other.Span && r.Tenant == other.Tenant && r.TenantUID == other.TenantUID && r.Workload == other.Workload && r.Class == other.Class
}

// Take returns what was summed, in order, and begins anew.
func (m *Meter) Take() []UsageRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := sorted(m.records)
	clear(m.records)
	m.taken++
	return taken
}

func sorted(records map[usageKey]*UsageRecord) []UsageRecord {
	list := make([]UsageRecord, 0, len(records))
	for _, r := range records {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b UsageRecord) int {
		return cmp.Or(a.Minute.Compare(b.Minute), cmp.Compare(a.Span, b.Span), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.TenantUID, b.TenantUID),
			strings.Compare(a.Workload, b.Workload), strings.Compare(a.Class, b.Class))
	})
	return list
}

// Usage is the ledger of what was used: a file of batches, one a line, and their sums in memory. Both grow until
// [Usage.Compact]. It may be used from many goroutines of one process.
type Usage struct {
	path string

	mu   sync.Mutex
	file *os.File
	last map[string]newest // by member
	sums map[usageKey]*UsageRecord
}

// newest is a member's newest batch.
type newest struct {
	sequence int64
	at       time.Time // end of the newest record of any of its batches
}

type usageBatch struct {
	Member   string        `json:"member,omitempty"` // "": sums of many
	Sequence int64         `json:"sequence,omitempty"`
	At       time.Time     `json:"at,omitzero"` // of a member that is only remembered: see newest
	Records  []UsageRecord `json:"records,omitempty"`
}

// OpenUsage opens the ledger in dir, and makes it when there is none. A last line that was cut off by a crash was
// never acknowledged: it is taken away.
func OpenUsage(dir string) (*Usage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	u := &Usage{path: filepath.Join(dir, "usage.jsonl"), last: map[string]newest{}, sums: map[usageKey]*UsageRecord{}}
	halves, err := filepath.Glob(filepath.Join(dir, halfPattern)) // of a Compact that was cut off
	for _, half := range halves {
		err = errors.Join(err, os.Remove(half))
	}
	if err != nil {
		return nil, err
	}
	good, err := u.load(u.path)
	if err != nil {
		return nil, err
	}
	u.file, err = os.OpenFile(u.path, os.O_CREATE|os.O_WRONLY, 0o600)
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
	at := batch.At
	for _, r := range batch.Records {
		u.sum(r)
		if r.End().After(at) {
			at = r.End()
		}
	}
	if batch.Member == "" {
		return
	}
	if before := u.last[batch.Member].at; before.After(at) {
		at = before
	}
	u.last[batch.Member] = newest{batch.Sequence, at}
}

func (u *Usage) sum(r UsageRecord) {
	if sum := u.sums[r.key()]; sum != nil {
		sum.add(r)
	} else {
		u.sums[r.key()] = &r
	}
}

// Append counts a member's batch once, durably: a batch whose sequence is not after the member's last was counted
// before, and changes nothing.
func (u *Usage) Append(member string, sequence int64, records []UsageRecord) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if sequence <= u.last[member].sequence {
		return nil
	}
	batch := usageBatch{Member: member, Sequence: sequence, Records: records}
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
	return u.last[member].sequence
}

// Sum returns the records of a tenant ("" for all) that begin in [since, until), oldest first.
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
func (u *Usage) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.file.Close()
}
