package journal_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/sidecar/journal"
)

func write(n int) journal.Entry {
	return journal.Entry{Method: "PUT", URI: fmt.Sprint("/rows/", n), Host: "h", Header: http.Header{"A": {"b"}}, Body: []byte(fmt.Sprint("body ", n))}
}

func open(t interface{ Fatal(...any) }, path string) *journal.Journal {
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestJournal plays intents, outcomes, replays and crashes against the obvious model: a list.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		j := open(rt, path)
		type kept struct {
			n       int
			settled bool
		}
		var model []kept // what the other cell must still get
		sequences, dirty, brought, n := map[int]int64{}, false, false, 0
		rt.Repeat(map[string]func(*rapid.T){
			"intend": func(rt *rapid.T) {
				n++
				sequence, err := j.Intend(write(n))
				if err != nil {
					rt.Fatal(err)
				}
				sequences[n] = sequence
				model = append(model, kept{n, false})
			},
			"settle": func(rt *rapid.T) {
				for i, k := range model {
					if k.settled {
						continue
					}
					outcome := rapid.SampledFrom([]journal.Outcome{journal.Taken, journal.Taken, journal.Untaken, journal.NotClear}).Draw(rt, "outcome")
					if err := j.Settle(sequences[k.n], outcome, 201); err != nil {
						rt.Fatal(err)
					}
					if model[i].settled = true; outcome != journal.Taken {
						model = append(model[:i:i], model[i+1:]...)
					}
					dirty = dirty || outcome == journal.NotClear
					return
				}
			},
			"next": func(rt *rapid.T) {
				e, ok, err := j.Next()
				if err != nil || ok != (len(model) > 0 && model[0].settled) {
					rt.Fatalf("next is %v, %v; the model has %v", ok, err, model)
				}
				if !ok {
					return
				}
				if want := write(model[0].n); e.URI != want.URI || string(e.Body) != string(want.Body) || e.Status != 201 || e.Header.Get("A") != "b" {
					rt.Fatalf("next is %+v, want %+v", e, want)
				}
				if err := j.Applied(e.Sequence); err != nil {
					rt.Fatal(err)
				}
				model = model[1:]
			},
			"begin": func(rt *rapid.T) {
				if err := j.Begin(); err != nil {
					rt.Fatal(err)
				}
				model, dirty, brought = nil, false, false
			},
			"brought": func(rt *rapid.T) {
				if err := j.Brought(); err != nil {
					rt.Fatal(err)
				}
				brought = true
			},
			"crash": func(rt *rapid.T) {
				_ = j.Close()
				if rapid.Bool().Draw(rt, "torn") {
					file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
					if err != nil {
						rt.Fatal(err)
					}
					_, _ = file.Write(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(rt, "tear"))
					_ = file.Close()
				}
				j = open(rt, path)
				model = slices.DeleteFunc(model, func(k kept) bool {
					dirty = dirty || !k.settled
					return !k.settled
				})
			},
			"": func(rt *rapid.T) {
				if got, want := j.State(), (journal.State{Waiting: len(model), Dirty: dirty, Brought: brought}); got != want {
					rt.Fatalf("it stands at %+v, want %+v", got, want)
				}
			},
		})
		_ = j.Close()
	})
}
