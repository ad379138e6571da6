package limit

import "time"

// rate is a sustained rate with a burst.
type rate struct {
	interval time.Duration // between two requests, at the sustained rate; 0: unlimited
	burst    time.Duration // burst x interval
}

const maxInterval = 1000 * time.Second // of 0.001 a second, the least rate there is

func newRate(perSecond float64, burst int) rate {
	if perSecond <= 0 {
		return rate{}
	}
	interval := maxInterval
	if perSecond > 1/maxInterval.Seconds() { // else it is less, or no number
		interval = max(1, time.Duration(float64(time.Second)/perSecond))
	}
	return rate{interval, interval * time.Duration(min(max(1, burst), maxHits))}
}

// maxHits is as many as the largest burst.
const maxHits = 1_000_000

// admit returns the bucket's new arrival time if so many requests at now conform, and otherwise how long to wait
// until they do (for ever, when they are more than the burst). arrival and now are nanoseconds on one clock.
func (r rate) admit(arrival, now int64, hits int) (next int64, wait time.Duration) {
	next = max(arrival, now) + int64(r.interval)*int64(hits)
	return next, max(0, time.Duration(next-now)-r.burst)
}

// remaining is how many requests conform at once, at now.
func (r rate) remaining(arrival, now int64) float64 {
	return float64((r.burst - time.Duration(max(0, arrival-now))) / r.interval)
}

// reached is the arrival time, no further ahead than it can have come by requests: from there a clock that jumped back
// goes on as if the whole burst had just been used.
func (r rate) reached(arrival, now int64) int64 { return min(arrival, now+int64(r.burst)) }
