package trail

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Keep says how much of each tenant's trail an archive keeps.
type Keep struct {
	FileBytes int64 // a file is followed by the next at this size; default 64 MiB
	Files     int   // of a tenant; the oldest is removed when there are more; default 0: all are kept
}

// Archive keeps batches in files, by tenant: <dir>/<tenant uid>/<number>.jsonl, one batch a line.
type Archive struct {
	dir  string
	keep Keep

	mu      sync.Mutex
	tenants map[string]*shelf
}

// shelf is one tenant's files.
type shelf struct {
	number int   // of the newest file
	size   int64 // of it
	heads  map[string]ledger.Head
	recent map[Stream]map[int64]string // hashes by the last sequence of batches that came lately
}

// Nobody is the folder of streams that are about no tenant.
const Nobody = "none"

// recentBatches are remembered of a stream, to know what is sent again.
const recentBatches = 64

// OpenArchive opens the archive in a folder, and makes it when there is none.
func OpenArchive(dir string, keep Keep) (*Archive, error) {
	if keep.FileBytes == 0 {
		keep.FileBytes = 64 << 20
	}
	return &Archive{dir: dir, keep: keep, tenants: map[string]*shelf{}}, os.MkdirAll(dir, 0o700)
}

// Append keeps a batch; it is on the disk when there is no error. One that is known already is passed over. One that does
// not follow what is known of its stream is kept all the same, and reported as again: a verification names it.
func (a *Archive) Append(b *Batch) (odd error, err error) {
	folder, err := folderOf(b.TenantUID)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := a.shelf(folder)
	if err != nil {
		return nil, err
	}
	end := b.Head()
	if s.recent[b.Stream][end.Sequence] == end.Hash {
		return nil, nil
	}
	if head := s.heads[b.Member]; b.Previous != head {
		odd = fmt.Errorf("a batch of the %v begins after event %d, and the newest that was known is %d", b.Stream, b.Previous.Sequence, head.Sequence)
	}
	if s.size > 0 && s.size+int64(len(line)) > a.keep.FileBytes {
		s.number, s.size = s.number+1, 0
		if err := a.forget(folder); err != nil {
			return odd, err
		}
	}
	if err := appendLine(a.path(folder, s.number), s.size, append(line, '\n')); err != nil {
		return odd, err
	}
	s.size += int64(len(line)) + 1
	s.note(b)
	return odd, nil
}

func (s *shelf) note(b *Batch) {
	end := b.Head()
	if end.Sequence > s.heads[b.Member].Sequence {
		s.heads[b.Member] = end
	}
	known := s.recent[b.Stream]
	if known == nil {
		known = map[int64]string{}
		s.recent[b.Stream] = known
	}
	if known[end.Sequence] = end.Hash; len(known) > recentBatches {
		delete(known, slices.Min(keysOf(known)))
	}
}

func keysOf(m map[int64]string) []int64 {
	keys := make([]int64, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// appendLine writes at size, over what a crash left there, and makes it last.
func appendLine(path string, size int64, line []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = file.Truncate(size)
	if err == nil {
		_, err = file.WriteAt(line, size)
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil && size == 0 {
		err = syncFolder(filepath.Dir(path))
	}
	return err
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// folderOf is the folder of a tenant's incarnation. A UID is letters and digits: whoever reports chooses no path.
func folderOf(uid string) (string, error) {
	if uid == "" {
		return Nobody, nil
	}
	if len(uid) > 64 || strings.Trim(uid, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return "", fmt.Errorf("a tenant's UID must be capital letters and digits, at most 64 (got %q)", uid)
	}
	return uid, nil
}

func (a *Archive) path(folder string, number int) string {
	return filepath.Join(a.dir, folder, fmt.Sprintf("%08d.jsonl", number))
}

// shelf finds a tenant's files, and reads them when it is the first time.
func (a *Archive) shelf(folder string) (*shelf, error) {
	if known := a.tenants[folder]; known != nil {
		return known, nil
	}
	if err := os.MkdirAll(filepath.Join(a.dir, folder), 0o700); err != nil {
		return nil, err
	}
	s := &shelf{number: 1, heads: map[string]ledger.Head{}, recent: map[Stream]map[int64]string{}}
	for _, number := range a.numbers(folder) {
		s.number, s.size = number, 0
		for line, err := range lines(a.path(folder, number)) {
			if err != nil {
				return nil, err
			}
			s.size += int64(len(line)) + 1
			if b, ok := parse(line); ok {
				s.note(&b)
			}
		}
	}
	a.tenants[folder] = s
	return s, nil
}

func parse(line []byte) (b Batch, ok bool) {
	return b, json.Unmarshal(line, &b) == nil && len(b.Events) > 0
}

// numbers are those of a tenant's files, oldest first.
func (a *Archive) numbers(folder string) (numbers []int) {
	found, _ := filepath.Glob(filepath.Join(a.dir, folder, "*.jsonl"))
	for _, path := range found {
		var number int
		if _, err := fmt.Sscanf(filepath.Base(path), "%08d.jsonl", &number); err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// forget removes what is more than is to be kept, with room for one more.
func (a *Archive) forget(folder string) error {
	if a.keep.Files == 0 {
		return nil
	}
	numbers := a.numbers(folder)
	for len(numbers) >= a.keep.Files {
		if err := os.Remove(a.path(folder, numbers[0])); err != nil {
			return err
		}
		numbers = numbers[1:]
	}
	return nil
}

// lines yields the whole lines of a file, without their ends. A torn last line is what a crash leaves: it was not
// acknowledged.
func lines(path string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		file, err := os.Open(path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		for in := bufio.NewReaderSize(file, 1<<16); ; {
			line, err := in.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(bytes.TrimSuffix(line, []byte("\n")), err) || err != nil {
				return
			}
		}
	}
}

// Batches yields what is kept of a tenant's incarnation, oldest first, with an error for what cannot be read.
func (a *Archive) Batches(uid string) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		folder, err := folderOf(uid)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		for _, number := range a.numbers(folder) {
			for line, err := range lines(a.path(folder, number)) {
				b, ok := parse(line)
				if err == nil && !ok {
					err = broken("a line of %s is no batch", filepath.Base(a.path(folder, number)))
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}
}

// Tenants are the UIDs of which something is kept, "" for no tenant.
func (a *Archive) Tenants() ([]string, error) {
	entries, err := os.ReadDir(a.dir)
	var uids []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case !entry.IsDir():
		case name == Nobody:
			uids = append(uids, "")
		default:
			uids = append(uids, name)
		}
	}
	return uids, err
}

// Known reports whether something is kept of a tenant's incarnation.
func (a *Archive) Known(uid string) bool {
	folder, err := folderOf(uid)
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(a.dir, folder))
	return err == nil
}
