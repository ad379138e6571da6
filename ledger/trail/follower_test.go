package trail

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail/trailtest"
)

// TestFollower: whatever is kept, read, put aside, counted, dropped and opened anew, in whatever order: each event is read or
// counted, once, and what is read is in order.
func TestFollower(t *testing.T) {
	a := trailtest.New(t)
	signer, dir := a.SVID(t, memberID), filepath.Join(t.TempDir(), "archive")
	rapid.Check(t, func(rt *rapid.T) {
		if err := os.RemoveAll(dir); err != nil {
			rt.Fatal(err)
		}
		keep := Keep{FileBytes: 6000, Files: rapid.IntRange(1, 3).Draw(rt, "files")}
		var archive *Archive
		var f *Follower
		var at Position
		var head ledger.Head
		var lost, last, seen int64
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		open := func() {
			var err error
			archive, err = OpenArchive(dir, keep)
			must(err)
			f, err = archive.Follow()
			must(err)
		}
		count := func() {
			m, after, err := f.Missing("UID1", at)
			must(err)
			if m.Unknown {
				rt.Fatal("somebody followed all the time")
			}
			lost, at = lost+m.Events, after
		}
		take := func(most int) {
			list, _, err := f.After("UID1", at, most)
			must(err)
			for _, one := range list {
				var e Event
				must(json.Unmarshal(one.Event, &e))
				if e.Sequence <= last {
					rt.Fatalf("event %d came after event %d", e.Sequence, last)
				}
				last, at, seen = e.Sequence, one.End, seen+1
			}
		}
		open()
		rt.Repeat(map[string]func(*rapid.T){
			"keep": func(rt *rapid.T) {
				events := make([]Event, rapid.IntRange(1, 4).Draw(rt, "events"))
				for i := range events {
					events[i] = Event{Time: begin, Kind: Decision}
				}
				b, next, err := Seal(Stream{"m1", "UID1"}, "acme", head, events, begin, signer)
				must(err)
				_, err = archive.Append(&b)
				must(err)
				head = next
			},
			"take":  func(rt *rapid.T) { take(rapid.IntRange(1, 5).Draw(rt, "most")) },
			"count": func(*rapid.T) { count() },
			"drop":  func(*rapid.T) { must(f.Drop("UID1", at)) },
			"open":  func(*rapid.T) { open() },
			"":      func(*rapid.T) {},
		})
		count()
		take(10000)
		if seen+lost != head.Sequence || last != head.Sequence && head.Sequence > 0 {
			rt.Fatalf("of %d events %d are read, the last is %d, and %d are counted as lost", head.Sequence, seen, last, lost)
		}
	})
}
