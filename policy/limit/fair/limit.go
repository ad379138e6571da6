package fair

import (
	"math"
	"time"
)

// The constants of the limit; doc.go has their sources.
const (
	defaultMin = 10
	defaultMax = 1000

	tolerance    = 1.5
	slack        = 0.005 // seconds
	leastSlope   = 0.5
	windowTime   = 50 * time.Millisecond
	windowCount  = 25
	windowExpiry = 10 * time.Second // with fewer answers than that in it nothing can be told
	forget       = 1.01             // growth, a window, of a limit that holds nobody back
	fade         = 0.9              // of a limit that was greater, a window
	baseCount    = 64               // answers that the latency without load is of
	baseLeast    = 5                // answers without which it is not known

	probeFirst    = 300 * time.Millisecond
	probeInterval = 10 * time.Second
	probeTime     = 300 * time.Millisecond
	probeShare    = 20 // a probe may take a 20th of the time,
	probeAgain    = 3  // and a quarter while probes find nothing
	probeCount    = 5

	// Kinds is how many kinds of requests are told apart.
	Kinds = 32
)

// sums are of logarithms of latencies in seconds, by kind.
type sums struct {
	began int64
	n     int
	of    [Kinds]int
	sum   [Kinds]float64
	open  float64 // summed: how many were open
}

func (s *sums) begin(at int64) { *s = sums{began: at} }

func (s *sums) add(kind uint8, x float64, open int) {
	s.n++
	s.of[kind]++
	s.sum[kind] += x
	s.open += float64(open)
}

// finder finds the limit.
type finder struct {
	low, high float64
	limit     float64
	recent    float64        // the limit, or what is left of a greater one that it was before
	base      [Kinds]float64 // logarithm of the latency without load
	bases     [Kinds]int     // answers that it is of
	least     [Kinds]float64 // the least mean of a window, as a logarithm, of a kind whose base is not known; 0: none yet
	window    sums
	slow      int     // windows in a row
	latency   float64 // of the last window, seconds
	limited   bool    // the limit holds requests back

	probing  bool
	next     int64 // time of the next probe
	patience int64 // with the one that goes on
	probe    sums
}

// bounds sets the least and the greatest limit; values that are not at least 1 are the defaults. low wins over high.
func (f *finder) bounds(low, high int) {
	if low < 1 {
		low = defaultMin
	}
	if high < 1 {
		high = max(defaultMax, low)
	}
	f.low, f.high = float64(low), float64(max(low, high))
	if f.limit == 0 {
		f.limit = f.high
	}
	f.limit = min(max(f.low, f.limit), f.high)
	f.recent = max(f.limit, min(f.recent, f.high))
}

// quiet is how many open requests are no load.
func (f *finder) quiet() float64 { return max(1, math.Floor(f.low/2)) }

// inForce is the limit that holds, of which those who were refused just now have their shares in a probe.
func (f *finder) inForce() float64 {
	if f.probing {
		return f.quiet()
	}
	return f.limit
}

func (f *finder) known(kind uint8) bool { return f.bases[kind] >= baseLeast }

// ended takes the latency of a request that began at began, when open were open with it, and ended when others still were; of one
// that failed only when it was slow.
func (f *finder) ended(at, began int64, latency time.Duration, kind uint8, open, others int, failed bool) {
	if latency <= 0 {
		return
	}
	kind = min(kind, Kinds-1)
	x := math.Log(latency.Seconds())
	if failed && (!f.known(kind) || x <= f.base[kind]) {
		return
	}
	switch {
	case float64(max(open, others+1)) > f.quiet() || failed:
	case f.probing && began >= f.probe.began:
		f.probe.add(kind, x, open)
	case !f.probing:
		f.bases[kind] = min(f.bases[kind]+1, baseCount)
		f.base[kind] += (x - f.base[kind]) / float64(f.bases[kind])
	}
	f.window.add(kind, x, open)
	f.close(at)
}

// close ends the probe and the window when they are due.
func (f *finder) close(at int64) {
	if f.probing && (f.probe.n >= windowCount || at-f.probe.began >= f.patience) {
		f.probed(at)
	}
	switch age := at - f.window.began; {
	case age >= int64(windowTime) && f.window.n >= windowCount:
		f.learn(at)
		f.window.begin(at)
	case age >= int64(windowExpiry):
		f.window.begin(at)
	}
}

// probed takes what a probe found.
func (f *finder) probed(at int64) {
	took := at - f.probe.began
	f.probing, f.next = false, at+max(int64(probeInterval), probeShare*took)
	if f.probe.n < probeCount { // it found nothing
		f.next = at + probeAgain*took
		return
	}
	for kind, n := range f.probe.of {
		if n > 0 {
			f.base[kind], f.bases[kind] = f.probe.sum[kind]/float64(n), max(baseLeast, n)
		}
	}
}

// learn takes a window.
func (f *finder) learn(at int64) {
	total, without := 0.0, 0.0
	for kind, n := range f.window.of {
		total += f.window.sum[kind]
		if f.known(uint8(kind)) {
			without += f.base[kind] * float64(n)
		} else if n > 0 { // it was never seen without load: the least that was seen stands for it
			mean := f.window.sum[kind] / float64(n)
			if f.least[kind] == 0 || mean < f.least[kind] {
				f.least[kind] = mean
			}
			without += f.least[kind] * float64(n)
		}
	}
	n := float64(f.window.n)
	f.latency = math.Exp(total / n)
	base := math.Exp(without / n)
	good, open := max(tolerance*base, base+slack), f.window.open/n
	slow := f.latency > good && open >= f.low
	switch {
	case f.probing: // it says nothing about the whole limit
	case slow && f.slow == 0:
		f.slow = 1
		f.limit = min(f.limit, 2*open+math.Sqrt(open))
	case slow:
		f.limit = min(f.limit, open*max(leastSlope, good/f.latency)+math.Sqrt(open))
	case 2*open > f.limit:
		f.slow = 0
		f.limit += math.Sqrt(f.limit)
	default:
		f.slow = 0
		f.limit *= forget
	}
	f.limit = min(max(f.low, f.limit), f.high)
	f.recent = max(f.limit, fade*f.recent)
	limited := slow || 2*open > f.limit
	if limited && !f.limited {
		f.next = max(f.next, at+int64(probeFirst))
	}
	f.limited = limited
	if limited && !f.probing && at >= f.next {
		f.probing, f.patience = true, int64(probeTime)+int64(4*f.latency*float64(time.Second))
		f.probe.begin(at)
	}
}

// withoutLoad is the latency without load of a kind, in seconds; 0 while it is not known.
func (f *finder) withoutLoad(kind uint8) float64 {
	if kind = min(kind, Kinds-1); !f.known(kind) {
		return 0
	}
	return math.Exp(f.base[kind])
}
