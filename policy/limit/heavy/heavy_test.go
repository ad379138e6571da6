package heavy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestAgainstCounts compares with exact counts: none is too low, none too high by more than it says, and whoever has more than
// an N-th of all is there.
func TestAgainstCounts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 8).Draw(rt, "most")
		s, exact, refused := New[int](most), map[int]float64{}, map[int]float64{}
		now := start
		all := 0.0
		for range rapid.IntRange(1, 300).Draw(rt, "n") {
			step := time.Duration(rapid.SampledFrom([]int{0, 0, 0, 10, 1000, 20_000}).Draw(rt, "ms")) * time.Millisecond
			now = now.Add(step)
			faded := math.Exp2(-step.Seconds() / HalfLife.Seconds())
			for key := range exact {
				exact[key] *= faded
				refused[key] *= faded
			}
			all *= faded
			key := int(math.Sqrt(float64(rapid.IntRange(0, 400).Draw(rt, "key"))))
			no := rapid.Bool().Draw(rt, "refused")
			s.Add(now, key, no)
			exact[key]++
			all++
			if no {
				refused[key]++
			}
		}
		scale := math.Ln2 / HalfLife.Seconds()
		seen := map[int]bool{}
		before := math.Inf(1)
		for _, e := range s.Top(now) {
			low, high := exact[e.Key]*scale, (exact[e.Key])*scale+e.Over
			if e.Uses < low-1e-9 || e.Uses > high+1e-9 || e.Refused > refused[e.Key]*scale+1e-9 || e.Uses > before {
				rt.Fatalf("%+v, and exactly it is %v, of %v refused", e, low, refused[e.Key]*scale)
			}
			before, seen[e.Key] = e.Uses, true
		}
		if len(seen) > most || len(s.known) != len(s.least) {
			rt.Fatalf("%d of %d are known", len(seen), most)
		}
		for key, n := range exact {
			if n > all/float64(most)+1e-9 && n*scale >= 0.001 && !seen[key] {
				rt.Fatalf("%d has %v of %v, and is not among %d", key, n, all, most)
			}
		}
	})
}

// TestRate: a steady rate is shown as it is, and is gone some minutes after.
func TestRate(t *testing.T) {
	s, now := New[string](0), start
	for range 100_000 {
		now = now.Add(10 * time.Millisecond)
		s.Add(now, "a", false)
	}
	if top := s.Top(now); len(top) != 1 || math.Abs(top[0].Uses-100) > 1 {
		t.Errorf("100 a second are %+v", top)
	}
	if top := s.Top(now.Add(-time.Hour)); math.Abs(top[0].Uses-100) > 1 {
		t.Errorf("while the clock stands still: %+v", top)
	}
	if top := s.Top(now.Add(5 * time.Minute)); len(top) != 0 {
		t.Errorf("five minutes later: %+v", top)
	}
	s.Add(now.Add(1000*time.Hour), "b", true)
	if top := s.Top(now.Add(1000 * time.Hour)); len(top) != 1 || top[0].Key != "b" || top[0].Refused != top[0].Uses || math.IsNaN(top[0].Uses) {
		t.Errorf("weeks later: %+v", top)
	}
}

func TestAllocatesNothing(t *testing.T) {
	s := New[int](4)
	n := 0
	if allocs := testing.AllocsPerRun(1000, func() { n++; s.Add(start, n%16, false) }); allocs != 0 {
		t.Errorf("a use allocates %v times", allocs)
	}
	s.least.Push(nil)
	if s.least.Pop() != nil {
		t.Error("the heap shrinks")
	}
}

func BenchmarkAdd(b *testing.B) {
	s, zipf := New[uint64](128), rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 12_000)
	keys := make([]uint64, 4096)
	for i := range keys {
		keys[i] = zipf.Uint64()
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Add(start.Add(time.Duration(i)*time.Microsecond), keys[i%len(keys)], false)
	}
}
