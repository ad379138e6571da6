package trail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Position is a place in a tenant's files. The zero value is before all that is kept.
type Position struct {
	File   int   `json:"file"`   // its number, from 1
	Offset int64 `json:"offset"` // bytes of it, at the beginning of a batch
	Event  int   `json:"event"`  // events of that batch that are before
}

// Placed is a kept event and the place after it.
type Placed struct {
	Stream
	Tenant string // its name
	Sealed
	End Position
}

// Missing is what went away before it was followed.
type Missing struct {
	Events  int64     `json:"events,omitempty"`
	From    time.Time `json:"from,omitzero"`     // the first
	To      time.Time `json:"to,omitzero"`       // and the last
	Unknown bool      `json:"unknown,omitempty"` // files went away while nobody followed: how many more is not known
}

// Follower reads on where it was. While there is one, the archive puts files aside that are too many, rather than remove
// them, so that whoever follows can count what they held.
type Follower struct {
	archive *Archive
	news    chan struct{}   // holds one when something is changed
	changed map[string]bool // folders, guarded by the archive's mu
}

// aside is what files end with that are put aside.
const aside = ".gone"

// Follow begins to follow. An archive has one follower.
func (a *Archive) Follow() (*Follower, error) {
	uids, err := a.Tenants()
	if err != nil {
		return nil, err
	}
	f := &Follower{archive: a, news: make(chan struct{}, 1), changed: map[string]bool{}}
	for _, uid := range uids {
		if folder, err := folderOf(uid); err == nil {
			f.changed[folder] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.follower != nil {
		return nil, errors.New("the archive is followed already")
	}
	a.follower = f
	return f, nil
}

// note notes that a folder is not as it was, with the archive's mu held.
func (f *Follower) note(folder string) {
	if f == nil {
		return
	}
	f.changed[folder] = true
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// News holds one when something changed.
func (f *Follower) News() <-chan struct{} { return f.news }

// Changed are the UIDs of the tenants of which there may be more than there was at the last call, in order; at the first
// one, all.
func (f *Follower) Changed() (uids []string) {
	f.archive.mu.Lock()
	defer f.archive.mu.Unlock()
	for folder := range f.changed {
		if folder == Nobody {
			folder = ""
		}
		uids = append(uids, folder)
	}
	clear(f.changed)
	slices.Sort(uids)
	return uids
}

// maxAfter is how many bytes of events are read at once, and one event more.
const maxAfter = 1 << 20

// After returns up to most events after p, oldest first, and whether there may be more. There are none before what was put
// aside after p is counted. A line that is no batch is passed over: a verification names it.
func (f *Follower) After(uid string, p Position, most int) (list []Placed, more bool, err error) {
	folder, err := folderOf(uid)
	if err != nil {
		return nil, false, err
	}
	numbers, size, uncounted, err := f.extent(folder, p)
	if err != nil || len(numbers) == 0 || uncounted {
		return nil, uncounted, err
	}
	newest := numbers[len(numbers)-1]
	if p.File > newest { // they were begun anew
		p = Position{}
	}
	bytes := 0
	for _, number := range numbers {
		if number < p.File {
			continue
		}
		end := int64(-1)
		if number == newest {
			end = size
		}
		for one, err := range f.archive.events(folder, number, p, end) {
			if errors.Is(err, fs.ErrNotExist) { // it was put aside just now
				return list, true, nil
			}
			if err != nil {
				return list, true, err
			}
			bytes += len(one.Event)
			if list = append(list, one); len(list) >= most || bytes > maxAfter {
				return list, true, nil
			}
		}
	}
	return list, false, nil
}

// extent are the numbers of a tenant's files, how much of the newest is certain to stay, and whether something was put
// aside after p that is not counted yet.
func (f *Follower) extent(folder string, p Position) (numbers []int, size int64, uncounted bool, err error) {
	a := f.archive
	a.mu.Lock()
	defer a.mu.Unlock()
	if gone := a.aside(folder); len(gone) > 0 && gone[len(gone)-1] >= p.File {
		return nil, 0, true, nil
	}
	if numbers = a.numbers(folder); len(numbers) == 0 {
		return nil, 0, false, nil
	}
	newest := numbers[len(numbers)-1]
	if s := a.tenants[folder]; s != nil && s.number == newest {
		return numbers, s.size, false, nil
	}
	info, err := os.Stat(a.path(folder, newest))
	if err != nil {
		return nil, 0, false, err
	}
	return numbers, info.Size(), false, nil
}

// events yields what is in a file after p, up to end, or all of it when that is negative.
func (a *Archive) events(folder string, number int, p Position, end int64) func(yield func(Placed, error) bool) {
	return func(yield func(Placed, error) bool) {
		if number != p.File {
			p = Position{File: number}
		}
		path := a.path(folder, number)
		if _, err := os.Stat(path + aside); err == nil {
			path += aside
		}
		for line, err := range linesIn(path, p.Offset, end) {
			if err != nil {
				yield(Placed{}, err)
				return
			}
			after := Position{File: number, Offset: p.Offset + int64(len(line)) + 1}
			b, _ := parse(line)
			for i := p.Event; i < len(b.Events); i++ {
				place := Position{File: number, Offset: p.Offset, Event: i + 1}
				if i+1 == len(b.Events) {
					place = after
				}
				if !yield(Placed{b.Stream, b.Tenant, b.Events[i], place}, nil) {
					return
				}
			}
			p = after
		}
	}
}

// Missing counts what was put aside after p, and returns the place after that; p when nothing was. It is to be noted
// durably before it is dropped.
func (f *Follower) Missing(uid string, p Position) (m Missing, after Position, err error) {
	folder, err := folderOf(uid)
	if err != nil {
		return m, p, err
	}
	f.archive.mu.Lock()
	gone, numbers := f.archive.aside(folder), f.archive.numbers(folder)
	f.archive.mu.Unlock()
	if oldest := slices.Concat(gone, numbers); len(oldest) > 0 && p.File > 0 && slices.Min(oldest) > p.File {
		m.Unknown = true
		p = Position{File: slices.Min(oldest)}
	}
	for _, number := range gone {
		if number < p.File {
			continue
		}
		for one, err := range f.archive.events(folder, number, p, -1) {
			if err != nil {
				return m, p, err
			}
			var e Event
			_ = json.Unmarshal(one.Event, &e) // it counts, whatever it is
			if m.Events++; m.From.IsZero() {
				m.From = e.Time
			}
			m.To = e.Time
		}
		p = Position{File: number + 1}
	}
	return m, p, nil
}

// Drop removes files that were put aside before p.
func (f *Follower) Drop(uid string, p Position) error {
	folder, err := folderOf(uid)
	if err != nil {
		return err
	}
	f.archive.mu.Lock()
	defer f.archive.mu.Unlock()
	for _, number := range f.archive.aside(folder) {
		if number < p.File {
			err = errors.Join(err, os.Remove(f.archive.path(folder, number)+aside))
		}
	}
	return err
}

// aside are the numbers of files that were put aside, oldest first.
func (a *Archive) aside(folder string) (numbers []int) {
	found, _ := filepath.Glob(filepath.Join(a.dir, folder, "*.jsonl"+aside))
	for _, path := range found {
		var number int
		if _, err := fmt.Sscanf(strings.TrimSuffix(filepath.Base(path), aside), "%08d.jsonl", &number); err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// retire takes a file out of the archive: it is put aside for whoever follows, or removed.
func (a *Archive) retire(folder string, number int) error {
	path := a.path(folder, number)
	if a.follower != nil {
		defer a.follower.note(folder)
		return os.Rename(path, path+aside)
	}
	for _, left := range a.aside(folder) {
		if err := os.Remove(a.path(folder, left) + aside); err != nil {
			return err
		}
	}
	return os.Remove(path)
}
