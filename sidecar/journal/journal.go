// Package journal answers WHICH WRITES MUST THE OTHER CELL STILL GET: those that a mover has sent, or was about to send,
// to the owner of a tenant, in their order. What is intended is on the disk before the owner is asked, what became of it
// before the client is told, so a mover that crashes knows afterwards what it does not know.
//
// The file is a sequence of records: length (4 bytes, big endian), CRC-32C of what follows (4 bytes), kind (1 byte),
// sequence number (8 bytes), body. A torn record at the end is what a crash leaves; it is cut off.
//
// # Concurrency
//
// A [Journal] may be used from many goroutines.
//
// It imports sidecar/durable.
package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tenantmesh/tenantmesh/sidecar/durable"
)

// Entry is one write, as it is sent to either cell.
type Entry struct {
	Sequence int64       `json:"-"` // from 1, set by [Journal.Intend]
	Status   int         `json:"-"` // the owner's answer, set by [Journal.Next]
	Method   string      `json:"method"`
	URI      string      `json:"uri"`
	Host     string      `json:"host"`
	Header   http.Header `json:"header"`
	Claims   []byte      `json:"claims"` // of the context, as the mover keeps them
	Body     []byte      `json:"-"`
}

// Outcome is what became of a write at the owner.
type Outcome uint8

// The outcomes.
const (
	Taken    Outcome = iota + 1 // the service has answered: the other cell must get it
	Untaken                     // the service has not seen it: the other cell must not get it
	NotClear                    // nobody knows: the other cell must begin anew
)

// kinds of records.
const (
	kindIntent  = 1 // body: length of the entry's JSON (4 bytes), the JSON, the request's body
	kindOutcome = 2 // body: Outcome (1 byte), status (2 bytes)
	kindApplied = 3 // the other cell has it
	kindBrought = 4 // the other cell has all that was before this record
)

const (
	header  = 4 + 4 + 1 + 8
	maxBody = 1 << 30
	// compactAt is the size in bytes at which a file that nobody waits for begins anew.
	compactAt = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Journal is the writes to one workload of one tenant, since its mover was appointed.
type Journal struct {
	mu      sync.Mutex
	file    *os.File
	end     int64
	next    int64
	open    []*entry // intended, and not applied or dropped, in their order
	dirty   bool
	brought bool
}

type entry struct {
	sequence int64
	at       int64 // of the record's body in the file
	length   int
	outcome  Outcome // 0: not known yet
	status   int
}

// Open opens the journal at path, and makes it if there is none. A write that was intended and whose outcome is not in
// it makes it dirty.
func Open(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{file: file, next: 1}
	if err := j.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), file.Close())
	}
	return j, durable.SyncFolder(filepath.Dir(path))
}

func (j *Journal) recover() error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	for {
		kind, sequence, body, ok := j.read(j.end, info.Size())
		if !ok {
			break
		}
		j.note(kind, sequence, body, j.end+header)
		j.end += header + int64(len(body))
	}
	if err := j.file.Truncate(j.end); err != nil {
		return err
	}
	for _, e := range slices.Clone(j.open) { // what nobody will say any more is not clear
		if e.outcome == 0 {
			if err := j.write(kindOutcome, e.sequence, []byte{byte(NotClear), 0, 0}, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// read reads the record at an offset; false at the end, and where a crash tore one.
func (j *Journal) read(at, size int64) (kind byte, sequence int64, body []byte, ok bool) {
	var head [header]byte
	if _, err := j.file.ReadAt(head[:], at); err != nil {
		return 0, 0, nil, false
	}
	length := int64(binary.BigEndian.Uint32(head[:4]))
	if length > maxBody || at+header+length > size {
		return 0, 0, nil, false
	}
	body = make([]byte, length)
	if _, err := j.file.ReadAt(body, at+header); err != nil {
		return 0, 0, nil, false
	}
	if crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, body) != binary.BigEndian.Uint32(head[4:8]) {
		return 0, 0, nil, false
	}
	return head[8], int64(binary.BigEndian.Uint64(head[9:])), body, true
}

// note enters a record that is in the file.
func (j *Journal) note(kind byte, sequence int64, body []byte, at int64) {
	j.next = max(j.next, sequence+1)
	switch kind {
	case kindIntent:
		j.open = append(j.open, &entry{sequence: sequence, at: at, length: len(body)})
	case kindOutcome:
		j.settle(sequence, Outcome(body[0]), int(binary.BigEndian.Uint16(body[1:])))
	case kindApplied:
		j.drop(sequence)
	case kindBrought:
		j.brought = true
	}
}

func (j *Journal) settle(sequence int64, outcome Outcome, status int) {
	switch outcome {
	case NotClear:
		j.dirty = true
		fallthrough
	case Untaken:
		j.drop(sequence)
	case Taken:
		for _, e := range j.open {
			if e.sequence == sequence {
				e.outcome, e.status = Taken, status
			}
		}
	}
}

func (j *Journal) drop(sequence int64) {
	for i, e := range j.open {
		if e.sequence == sequence {
			j.open = append(j.open[:i:i], j.open[i+1:]...)
			return
		}
	}
}

func (j *Journal) write(kind byte, sequence int64, body []byte, durable bool) error {
	record := make([]byte, header, header+len(body))
	binary.BigEndian.PutUint32(record, uint32(len(body)))
	record[8] = kind
	binary.BigEndian.PutUint64(record[9:], uint64(sequence))
	record = append(record, body...)
	binary.BigEndian.PutUint32(record[4:], crc32.Checksum(record[8:], castagnoli))
	if _, err := j.file.WriteAt(record, j.end); err != nil {
		return err
	}
	if durable {
		if err := j.file.Sync(); err != nil {
			return err
		}
	}
	j.note(kind, sequence, body, j.end+header)
	j.end += int64(len(record))
	return nil
}

// Intend notes, durably, that a write is about to be sent to the owner, and returns its sequence number. Only when that
// is done may it be sent.
func (j *Journal) Intend(e Entry) (sequence int64, err error) {
	text, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	if len(text)+len(e.Body) > maxBody-4 {
		return 0, fmt.Errorf("a write must have less than %d bytes (got %d)", maxBody, len(e.Body))
	}
	body := make([]byte, 4, 4+len(text)+len(e.Body))
	binary.BigEndian.PutUint32(body, uint32(len(text)))
	body = append(append(body, text...), e.Body...)
	j.mu.Lock()
	defer j.mu.Unlock()
	sequence = j.next
	return sequence, j.write(kindIntent, sequence, body, true)
}

// Settle notes, durably, what became of a write. When that fails the journal is dirty: what it knows is not enough.
func (j *Journal) Settle(sequence int64, outcome Outcome, status int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.write(kindOutcome, sequence, []byte{byte(outcome), byte(status >> 8), byte(status)}, true)
	if err != nil {
		j.dirty = true
		j.drop(sequence)
	}
	return err
}

// Next is the oldest write that the other cell must get, once its outcome at the owner is known; false when there is
// none now.
func (j *Journal) Next() (e Entry, ok bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.open) == 0 || j.open[0].outcome != Taken {
		return Entry{}, false, nil
	}
	first := j.open[0]
	body := make([]byte, first.length)
	if _, err := j.file.ReadAt(body, first.at); err != nil && !errors.Is(err, io.EOF) {
		return Entry{}, false, err
	}
	length := binary.BigEndian.Uint32(body)
	if err := json.Unmarshal(body[4:4+length], &e); err != nil {
		return Entry{}, false, err
	}
	e.Sequence, e.Status, e.Body = first.sequence, first.status, body[4+length:]
	return e, true, nil
}

// Applied notes that the other cell has a write. It is not durable at once: a write that is sent again after a crash is
// known by its Idempotency-Key.
func (j *Journal) Applied(sequence int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.write(kindApplied, sequence, nil, false); err != nil || len(j.open) > 0 || j.end < compactAt {
		return err
	}
	j.end = 0 // nothing in it is needed any more
	if err := j.file.Truncate(0); err != nil || !j.brought {
		return err
	}
	return j.write(kindBrought, j.next-1, nil, true)
}

// Spoil makes the journal dirty: the two cells have answered differently.
func (j *Journal) Spoil() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dirty = true
}

// Begin drops all that is there, because the other cell is about to get everything anew. No write may be under way at
// the owner meanwhile.
func (j *Journal) Begin() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.open, j.dirty, j.brought, j.end = nil, false, false, 0
	return errors.Join(j.file.Truncate(0), j.file.Sync())
}

// Brought notes that the other cell has all that was there when [Journal.Begin] was called, and needs the rest only.
func (j *Journal) Brought() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write(kindBrought, j.next-1, nil, true)
}

// State is how a journal stands.
type State struct {
	Waiting int  // writes that the other cell does not have
	Dirty   bool // the other cell must begin anew
	Brought bool // see [Journal.Brought]
}

// State is how the journal stands now.
func (j *Journal) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return State{len(j.open), j.dirty, j.brought}
}

// Close closes the file, and leaves it.
func (j *Journal) Close() error { return j.file.Close() }
