package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/sidecar/durable"
)

// spool is the batches that the control plane does not have yet, and where each stream ends, in one file of lines: CRC-32C
// of what follows (8 hex digits), a space, a record as JSON. What a crash tore at the end is cut off.
type spool struct {
	path string
	room int64
	lost map[whose]*loss // of the process before; read once

	mu       sync.Mutex
	file     *os.File
	end      int64
	heads    map[whose]ledger.Head
	waiting  []placed // oldest first
	bytes    int64    // of waiting
	upcoming int64    // number of the next batch
	full     bool     // nothing is taken until a quarter is free
	crashed  bool     // the process before ended without a farewell, and no event says so yet
	last     time.Time
	kept     string // of lost, as it is on the disk
}

// placed is a batch in the file.
type placed struct {
	number int64
	at     int64
	length int
}

// record is one line: one of its fields is set.
type record struct {
	Heads  []end           `json:"heads,omitempty"` // at the beginning of a file
	Number int64           `json:"number,omitempty"`
	Batch  json.RawMessage `json:"batch,omitempty"` // a [trail.Batch]
	Acked  int64           `json:"acked,omitempty"`
	Opened bool            `json:"opened,omitempty"` // a process begins
	Closed bool            `json:"closed,omitempty"` // and has ended: nothing is missing before this
}

type end struct {
	Tenant string      `json:"tenant,omitempty"`
	UID    string      `json:"uid,omitempty"`
	Head   ledger.Head `json:"head"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// compactAt is the size in bytes at which a file of which little waits is written anew.
const compactAt = 1 << 20

func openSpool(dir string, room int64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &spool{path: filepath.Join(dir, "spool.jsonl"), room: room, heads: map[whose]ledger.Head{}, lost: map[whose]*loss{}, upcoming: 1}
	file, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s.file = file
	if err := errors.Join(s.recover(), s.readLost()); err != nil {
		return nil, errors.Join(fmt.Errorf("audit spool %s: %w", s.path, err), file.Close())
	}
	if err := s.append(encodeLine(record{Opened: true})); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, durable.SyncFolder(dir)
}

func (s *spool) recover() error {
	text, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	closed := true // an empty one lacks nothing
	for rest := text; ; {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		r, whole := parseLine(line)
		if !ok || !whole {
			closed = closed && len(rest) == 0
			break
		}
		if err := s.note(r, len(line)+1); err != nil {
			return err
		}
		closed = r.Closed || r.Acked > 0 && closed
		rest = after
	}
	s.crashed = !closed
	return s.file.Truncate(s.end)
}

func parseLine(line []byte) (r record, ok bool) {
	if len(line) < 10 || string(line[:8]) != fmt.Sprintf("%08x", crc32.Checksum(line[9:], castagnoli)) {
		return r, false
	}
	return r, json.Unmarshal(line[9:], &r) == nil
}

func encodeLine(r record) []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // it is made of what was encoded before
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(text, castagnoli), text)
}

// note takes over a record of so many bytes at the end.
func (s *spool) note(r record, length int) error {
	for _, e := range r.Heads {
		s.heads[whose{e.Tenant, e.UID}] = e.Head
	}
	if r.Batch != nil {
		var b trail.Batch
		if err := json.Unmarshal(r.Batch, &b); err != nil || len(b.Events) == 0 {
			return fmt.Errorf("batch %d cannot be read: %w", r.Number, err)
		}
		s.heads[whose{b.Tenant, b.TenantUID}], s.last = b.Head(), b.Signed.Time
		s.waiting = append(s.waiting, placed{r.Number, s.end, length})
		s.bytes += int64(length)
		s.upcoming = r.Number + 1
	}
	s.upcoming = max(s.upcoming, r.Number+1)
	s.drop(r.Acked)
	s.end += int64(length)
	return nil
}

// drop forgets what was acknowledged.
func (s *spool) drop(acked int64) {
	for len(s.waiting) > 0 && s.waiting[0].number <= acked {
		s.bytes -= int64(s.waiting[0].length)
		s.waiting = s.waiting[1:]
	}
}

func (s *spool) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// write writes events, and gaps, and returns how much of each stream there was no room for.
func (s *spool) write(member string, events []trail.Event, lost map[whose]*loss, now time.Time, signer trail.Signer) (left map[whose]*loss, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byStream := map[whose][]trail.Event{}
	if s.crashed && !s.isFull(0) {
		for who := range s.heads {
			byStream[who] = nil
		}
		byStream[whose{}] = nil
		for who := range byStream {
			byStream[who] = []trail.Event{{Time: now.UTC(), Kind: trail.Restart, Tenant: who.tenant, From: s.last, To: now.UTC()}}
		}
	}
	for who, l := range lost {
		byStream[who] = append(byStream[who], trail.Event{Time: now.UTC(), Kind: trail.Gap, Tenant: who.tenant, Lost: l.Lost, From: l.From, To: l.To})
	}
	for _, e := range events {
		who := whose{e.Tenant, e.TenantUID}
		if e.TenantUID == "" {
			who.tenant = "" // the event has the name; the stream is about no tenant
		}
		byStream[who] = append(byStream[who], e)
	}
	if len(byStream) == 0 {
		return nil, nil
	}
	out, heads, written, number := []byte(nil), maps.Clone(s.heads), []placed(nil), s.upcoming
	left = map[whose]*loss{}
	for _, who := range slices.SortedFunc(maps.Keys(byStream), func(a, b whose) int { return strings.Compare(a.uid+"/"+a.tenant, b.uid+"/"+b.tenant) }) {
		for chunk := range slices.Chunk(byStream[who], maxBatch) {
			b, head, failed := trail.Seal(trail.Stream{Member: member, TenantUID: who.uid}, who.tenant, heads[who], chunk, now, signer)
			var line []byte
			if failed == nil {
				text, _ := json.Marshal(&b) // it is plain
				line = encodeLine(record{Number: number, Batch: text})
			}
			if failed != nil || s.isFull(int64(len(out)+len(line))) {
				err = errors.Join(err, failed)
				uncounted(left, who, chunk)
				continue
			}
			written = append(written, placed{number, s.end + int64(len(out)), len(line)})
			out = append(out, line...)
			heads[who] = head
			number++
		}
	}
	if len(out) == 0 {
		return left, err
	}
	if failed := s.append(out); failed != nil {
		left = map[whose]*loss{}
		for who, list := range byStream {
			uncounted(left, who, list)
		}
		return left, errors.Join(err, failed)
	}
	for _, p := range written {
		s.waiting, s.bytes = append(s.waiting, p), s.bytes+int64(p.length)
	}
	s.heads, s.upcoming, s.crashed = heads, number, s.crashed && !restarted(byStream)
	return left, err
}

func restarted(byStream map[whose][]trail.Event) bool {
	first := byStream[whose{}]
	return len(first) > 0 && first[0].Kind == trail.Restart
}

// isFull reports whether there is no room for so many bytes more. Once it is full nothing is taken until a quarter is
// free, so that a gap is one event and not many.
func (s *spool) isFull(more int64) bool {
	limit := s.room
	if s.full {
		limit = s.room / 4 * 3
	}
	s.full = s.bytes+more > limit
	return s.full
}

// uncounted adds events of which nothing is kept.
func uncounted(left map[whose]*loss, who whose, events []trail.Event) {
	for _, e := range events {
		n := int64(1)
		from, to := e.Time, e.Time
		switch e.Kind {
		case trail.Gap:
			n, from, to = e.Lost, e.From, e.To
		case trail.Summary:
			n, from, to = e.Suppressed, e.From, e.To
		case trail.Decision:
			if n += e.Suppressed; e.Suppressed > 0 {
				from = e.From
			}
		case trail.Restart: // it is written again
			continue
		}
		l := left[who]
		if l == nil {
			l = &loss{From: from, To: to}
			left[who] = l
		}
		l.Lost += n
		if from.Before(l.From) {
			l.From = from
		}
		if to.After(l.To) {
			l.To = to
		}
	}
}

// append writes at the end and waits for the disk; a part of it that was written does not count.
func (s *spool) append(out []byte) error {
	_, err := s.file.WriteAt(out, s.end)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return errors.Join(err, s.file.Truncate(s.end))
	}
	s.end += int64(len(out))
	return nil
}

func (s *spool) next(most int) (sequence int64, batches [][]byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, p := range s.waiting {
		if total += p.length; total > most && len(batches) > 0 {
			break
		}
		line := make([]byte, p.length-1)
		if _, err := s.file.ReadAt(line, p.at); err != nil {
			return 0, nil, err
		}
		r, ok := parseLine(line)
		if !ok {
			return 0, nil, fmt.Errorf("batch %d of the audit spool is not as it was written", p.number)
		}
		sequence, batches = p.number, append(batches, r.Batch)
	}
	return sequence, batches, nil
}

func (s *spool) acknowledged(sequence int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 || s.waiting[0].number > sequence {
		return nil
	}
	line := encodeLine(record{Acked: sequence})
	// Without waiting for the disk: what is handed over again is known there.
	if _, err := s.file.WriteAt(line, s.end); err != nil {
		return err
	}
	s.end += int64(len(line))
	s.drop(sequence)
	if s.end > compactAt && s.bytes < s.end/2 {
		return s.compact()
	}
	return nil
}

// compact writes the file anew: where each stream ends, and what waits.
func (s *spool) compact() error {
	r := record{Number: s.upcoming - 1}
	for who, head := range s.heads {
		r.Heads = append(r.Heads, end{who.tenant, who.uid, head})
	}
	out := encodeLine(r)
	moved := make([]placed, len(s.waiting))
	for i, p := range s.waiting {
		line := make([]byte, p.length)
		if _, err := s.file.ReadAt(line, p.at); err != nil {
			return err
		}
		moved[i] = placed{p.number, int64(len(out)), p.length}
		out = append(out, line...)
	}
	if err := durable.WriteFile(s.path, out); err != nil {
		return err
	}
	file, err := os.OpenFile(s.path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	old := s.file
	s.file, s.end, s.waiting = file, int64(len(out)), moved
	return old.Close()
}

func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if !s.crashed {
		err = s.append(encodeLine(record{Closed: true}))
	}
	return errors.Join(err, s.file.Close())
}

// lostLine is what was lost of one stream, as it is kept until there is room for the event that says so.
type lostLine struct {
	Tenant string `json:"tenant,omitempty"`
	UID    string `json:"uid,omitempty"`
	loss
}

func (s *spool) lostPath() string { return filepath.Join(filepath.Dir(s.path), "lost.json") }

func (s *spool) readLost() error {
	text, err := os.ReadFile(s.lostPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var list []lostLine
	if err = errors.Join(err, json.Unmarshal(text, &list)); err != nil {
		return err
	}
	for _, l := range list {
		s.lost[whose{l.Tenant, l.UID}] = &loss{l.Lost, l.From, l.To}
	}
	s.kept = string(text)
	return nil
}

// keepLost keeps what was lost, so that a crash does not hide it.
func (s *spool) keepLost(lost map[whose]*loss) error {
	list := []lostLine{}
	for who, l := range lost {
		list = append(list, lostLine{who.tenant, who.uid, *l})
	}
	slices.SortFunc(list, func(a, b lostLine) int { return strings.Compare(a.UID+"/"+a.Tenant, b.UID+"/"+b.Tenant) })
	text, err := json.Marshal(list)
	if err != nil || string(text) == s.kept || len(list) == 0 && s.kept == "" {
		return err
	}
	if err := durable.WriteFile(s.lostPath(), text); err != nil {
		return err
	}
	s.kept = string(text)
	return nil
}
