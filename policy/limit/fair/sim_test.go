package fair

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// job is a request in a simulated service.
type job struct {
	ticket Ticket
	began  time.Duration
	left   float64 // work, seconds
	who    int
}

// wait is a request that waits.
type wait struct {
	v   Verdict
	who int
	at  time.Duration
}

// load is one tenant of a simulation.
type load struct {
	uid    string
	weight int
	rate   float64 // a second, Poisson
	batch  bool
}

// seen is what a tenant saw.
type seen struct {
	tried, refused, under, done int
	late                        int // took over four times the work, and 10 ms
	worst                       float64
}

// service is one that does so many requests at once at full speed, and more of them slower (processor sharing).
type service struct {
	c      *Controller
	random *rand.Rand
	slots  float64
	work   func(at time.Duration) float64 // seconds, of one request
	off    bool                           // nobody is asked
	jobs   []job
	waits  []wait
	peak   int
}

// play plays loads in steps of 1 ms; what waits gets its answer after a step.
func (s *service) play(d time.Duration, loads []load) []seen { return s.from(0, d, loads) }

// from goes on from a time.
func (s *service) from(begin, d time.Duration, loads []load) []seen {
	const step = time.Millisecond
	all := make([]seen, len(loads))
	for at := begin; at < begin+d; at += step {
		now := start.Add(at)
		speed := min(1, s.slots/float64(max(1, len(s.jobs)))) * step.Seconds()
		left := s.jobs[:0]
		for _, j := range s.jobs {
			if j.left -= speed; j.left > 0 {
				left = append(left, j)
				continue
			}
			latency := (at - j.began).Seconds()
			all[j.who].done++
			all[j.who].worst = max(all[j.who].worst, latency)
			if latency > 4*s.work(at)+0.01 {
				all[j.who].late++
			}
			if !s.off {
				s.c.Done(now, j.ticket, Answered{Latency: at - j.began})
			}
		}
		s.jobs = left
		enter := func(who int, ticket Ticket) {
			s.jobs = append(s.jobs, job{ticket, at, s.work(at) * (0.5 + s.random.ExpFloat64()/2), who})
			s.peak = max(s.peak, len(s.jobs))
		}
		open := s.waits[:0]
		for _, w := range s.waits {
			if len(w.v.Ready()) == 0 && at-w.at < MaxWait {
				open = append(open, w)
				continue
			}
			if s.c.Settle(now, &w.v); w.v.Outcome == Admitted {
				enter(w.who, w.v.Ticket)
			} else {
				all[w.who].refused++
			}
		}
		s.waits = open
		for who, l := range loads {
			for range poisson(s.random, l.rate*step.Seconds()) {
				all[who].tried++
				if s.off {
					enter(who, Ticket{})
					continue
				}
				v := s.c.Admit(now, &Request{Tenant: l.uid, Weight: l.weight, Batch: l.batch})
				switch v.Outcome {
				case Admitted:
					enter(who, v.Ticket)
				case Waiting:
					s.waits = append(s.waits, wait{v, who, at})
				case Refused:
					all[who].refused++
					if v.Under {
						all[who].under++
					}
				}
			}
		}
	}
	return all
}

// poisson is Knuth's: uniform numbers are multiplied until they are below exp(-mean).
func poisson(r *rand.Rand, mean float64) (n int) {
	for p, least := r.Float64(), math.Exp(-mean); p > least; n++ {
		p *= r.Float64()
	}
	return n
}

// work is what a request takes where nothing is said.
const work = 10 * time.Millisecond

func newService(slots float64) *service {
	return &service{c: New(0), random: rand.New(rand.NewPCG(1, 2)), slots: slots, work: func(time.Duration) float64 { return work.Seconds() }}
}

// TestLightIsNotFelt: whatever the service can do and a heavy tenant wants, the limit comes near what the service can
// do, most of which is used, and a light tenant is not refused and hardly waits.
func TestLightIsNotFelt(t *testing.T) {
	for _, slots := range []float64{2, 8, 20, 100} {
		for _, over := range []float64{0.5, 0.8, 1.5, 3, 10} {
			s := newService(slots)
			loads := []load{{uid: "heavy", weight: 1, rate: over * slots / work.Seconds()}, {uid: "light", weight: 1, rate: 10}}
			s.play(20*time.Second, loads) // it learns
			s.peak = 0
			got := s.from(20*time.Second, 10*time.Second, loads)
			heavy, light := got[0], got[1]
			if over < 1 && heavy.refused > heavy.tried/20 || light.refused > 0 {
				t.Errorf("%v slots, load %v: refused %d of heavy's %d, %d of light's %d", slots, over, heavy.refused, heavy.tried, light.refused, light.tried)
			}
			if most := max(4*slots, 4*defaultMin); over > 1 && float64(s.peak) > most {
				t.Errorf("%v slots, load %v: %d open at once, over %v", slots, over, s.peak, most)
			}
			if good := 0.9 * min(1, over) * slots * 10 / work.Seconds(); float64(heavy.done) < good {
				t.Errorf("%v slots, load %v: only %d were done, and %v could have been", slots, over, heavy.done, good)
			}
			if slots > defaultMin/2 && light.late > light.tried/10 {
				t.Errorf("%v slots, load %v: %d of light's %d were slow, up to %.3f s", slots, over, light.late, light.tried, light.worst)
			}
		}
	}
	control := newService(8)
	control.off = true
	if got := control.play(10*time.Second, []load{{uid: "heavy", weight: 1, rate: 2400}, {uid: "light", weight: 1, rate: 10}}); got[1].late < got[1].done*9/10 {
		t.Errorf("without admission only %d of light's %d are slow: this test shows nothing", got[1].late, got[1].done)
	}
}

// TestSlowWhateverTheLoad: a service that becomes ten times slower by itself is held back for a while, and no longer.
func TestSlowWhateverTheLoad(t *testing.T) {
	s := newService(1000)
	s.work = func(at time.Duration) float64 {
		if at > 3*time.Second {
			return 0.1
		}
		return 0.01
	}
	refused := 0
	loads := []load{{uid: "a", weight: 1, rate: 300}, {uid: "b", weight: 1, rate: 300}}
	s.play(10*time.Second, loads)
	s.work = func(time.Duration) float64 { return 0.1 }
	for _, seen := range s.from(10*time.Second, 10*time.Second, loads) {
		refused += seen.refused
	}
	if refused > 100 {
		t.Errorf("%d of 6,000 requests are still refused, 7 s after", refused)
	}
}

// TestWeights: what two tenants that want more than there is get is as their weights, and the rest of a third's share.
func TestWeights(t *testing.T) {
	s := newService(20)
	loads := []load{{uid: "gold", weight: 4, rate: 4000}, {uid: "bronze", weight: 1, rate: 4000}, {uid: "idle", weight: 8, rate: 20}}
	s.play(5*time.Second, loads)
	got := s.from(5*time.Second, 10*time.Second, loads)
	if ratio := float64(got[0].done) / float64(got[1].done); ratio < 3.5 || ratio > 4.5 {
		t.Errorf("weights 4 and 1 get %d and %d: %.2f", got[0].done, got[1].done, ratio)
	}
	if total := got[0].done + got[1].done; total < 18000 || got[2].refused > 0 {
		t.Errorf("%d of 20,000 were done, and %d of the idle one's were refused", total, got[2].refused)
	}
}

// TestManyTenants: more tenants than the limit, so that each has its turn: Jain's index of what they got, of those who wanted
// at least that.
func TestManyTenants(t *testing.T) {
	s := newService(8)
	var loads []load
	for i := range 64 {
		loads = append(loads, load{uid: string(rune('A' + i)), weight: 1, rate: 25 + 5*float64(i%8)}) // 800 a second are done, 2,700 wanted
	}
	s.play(5*time.Second, loads)
	sum, squares := 0.0, 0.0
	for _, seen := range s.from(5*time.Second, 10*time.Second, loads) {
		sum += float64(seen.done)
		squares += float64(seen.done) * float64(seen.done)
	}
	if jain := sum * sum / (64 * squares); jain < 0.95 || sum < 7000 {
		t.Errorf("Jain's index is %.3f, and %v were done", jain, sum)
	}
}

// TestZipf: 50 tenants, Zipf 1.1, twice what the service can do: who wants less than its share has no error.
func TestZipf(t *testing.T) {
	s := newService(40)
	var loads []load
	total := 0.0
	for i := range 50 {
		total += math.Pow(float64(i+1), -1.1)
	}
	for i := range 50 {
		loads = append(loads, load{uid: string(rune('A' + i)), weight: 1, rate: 8000 * math.Pow(float64(i+1), -1.1) / total})
	}
	s.play(5*time.Second, loads)
	// The max-min share of 4,000 a second of those demands is about 175 a second.
	index, n, squares := 0.0, 0.0, 0.0
	for i, seen := range s.from(5*time.Second, 10*time.Second, loads) {
		if loads[i].rate < 70 && seen.refused > 0 {
			t.Errorf("tenant %d wants %.0f a second, and %d of %d were refused", i, loads[i].rate, seen.refused, seen.tried)
		}
		x := float64(seen.done) / 10 / min(loads[i].rate, 175)
		index, squares, n = index+x, squares+x*x, n+1
	}
	if jain := index * index / (n * squares); jain < 0.95 {
		t.Errorf("Jain's index over normalized goodput is %.3f", jain)
	}
}

// TestBatchWaits: a tenant's batch requests do not cost its interactive ones anything but when there is room.
func TestBatchWaits(t *testing.T) {
	s := newService(8)
	loads := []load{{uid: "a", weight: 1, rate: 200}, {uid: "a", weight: 1, rate: 3000, batch: true}, {uid: "b", weight: 1, rate: 2000}}
	s.play(5*time.Second, loads)
	got := s.from(5*time.Second, 10*time.Second, loads)
	if got[0].refused > got[0].tried/50 || got[1].done < 200 || got[1].refused < got[1].tried/2 {
		t.Errorf("interactive %+v, batch %+v", got[0], got[1])
	}
	if share := float64(got[0].done+got[1].done) / float64(got[2].done); share < 0.7 || share > 1.3 {
		t.Errorf("a's two classes got %d and %d, b got %d", got[0].done, got[1].done, got[2].done)
	}
}
