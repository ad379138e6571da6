package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
)

// sample is one request.
type sample struct {
	at     float64 // seconds since the first
	took   float64 // ms
	status int     // 0: no answer came
	reason string  // of a refusal by name
}

func (s *sample) ok() bool { return s.status >= 200 && s.status < 300 }

// sent is what one sender's requests came to.
type sent struct{ samples []sample }

// outcome is what a case came to.
type outcome struct {
	seconds float64
	by      map[string]*sent // by tenant, and its kind
	dropped float64          // requests that the generator could not send in time
	hung    float64          // calls that hung at the file store
}

func (o *outcome) of(name string) *sent {
	if o.by[name] == nil {
		return &sent{}
	}
	return o.by[name]
}

func (o *outcome) tenants() []string { return slices.Sorted(maps.Keys(o.by)) }

// after is the outcome without its first seconds.
func (o *outcome) after(seconds float64) *outcome {
	rest := &outcome{seconds: o.seconds - seconds, by: map[string]*sent{}, dropped: o.dropped}
	for name, s := range o.by {
		rest.by[name] = &sent{slices.DeleteFunc(slices.Clone(s.samples), func(s sample) bool { return s.at < seconds })}
	}
	return rest
}

// latency is a quantile of what was answered well, in ms; endless when nothing was.
func (s *sent) latency(quantile float64) float64 {
	var took []float64
	for i := range s.samples {
		if s.samples[i].ok() {
			took = append(took, s.samples[i].took)
		}
	}
	if len(took) == 0 {
		return math.MaxFloat64
	}
	slices.Sort(took)
	return took[min(len(took)-1, int(math.Ceil(quantile*float64(len(took))))-1)]
}

// served is how many were answered well.
func (s *sent) served() float64 {
	n := 0.0
	for i := range s.samples {
		if s.samples[i].ok() {
			n++
		}
	}
	return n
}

// errors is the share of those that were not; 1 when nothing was sent.
func (s *sent) errors() float64 {
	if len(s.samples) == 0 {
		return 1
	}
	return 1 - s.served()/float64(len(s.samples))
}

// refused is how many were refused for a reason, "" for any.
func (s *sent) refused(reason string) float64 {
	n := 0.0
	for i := range s.samples {
		if got := s.samples[i].reason; got != "" && (reason == "" || got == reason) {
			n++
		}
	}
	return n
}

// level is the max-min fair share of what was served, a second: what nobody with more demand got more of.
func (o *outcome) level() float64 {
	var demands []float64
	left := 0.0
	for _, s := range o.by {
		demands = append(demands, float64(len(s.samples))/o.seconds)
		left += s.served() / o.seconds
	}
	slices.Sort(demands)
	for i, demand := range demands {
		share := left / float64(len(demands)-i)
		if demand > share {
			return share
		}
		left -= demand
	}
	return math.Inf(1)
}

// jain is Jain's fairness index (Jain, Chiu and Hawe 1984): 1 when all are equal, 1/n when one has everything.
func jain(values []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range values {
		sum += v
		squares += v * v
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(values)) * squares)
}

// read reads what the generators wrote.
func read(paths []string, seconds float64) (*outcome, error) {
	o := &outcome{seconds: seconds, by: map[string]*sent{}}
	for _, path := range paths {
		if err := o.read(path); err != nil {
			return nil, err
		}
	}
	first := math.Inf(1)
	for _, s := range o.by {
		for i := range s.samples {
			first = min(first, s.samples[i].at)
		}
	}
	for _, s := range o.by {
		for i := range s.samples {
			s.samples[i].at -= first
		}
	}
	return o, nil
}

// read adds what one generator wrote: CSV, one line a measurement.
func (o *outcome) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := csv.NewReader(bufio.NewReaderSize(file, 1<<20))
	lines.ReuseRecord = true
	columns := map[string]int{}
	header, err := lines.Read()
	if err != nil {
		return err
	}
	for i, name := range header {
		columns[name] = i
	}
	for _, name := range []string{"metric_name", "timestamp", "metric_value", "extra_tags"} {
		if _, ok := columns[name]; !ok {
			return fmt.Errorf("%s must have a column %s (got %v)", path, name, header)
		}
	}
	for {
		line, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := line[columns["metric_name"]]
		if name != "took" && name != "dropped_iterations" {
			continue
		}
		at, err := strconv.ParseFloat(line[columns["timestamp"]], 64)
		value, err2 := strconv.ParseFloat(line[columns["metric_value"]], 64)
		tags, err3 := url.ParseQuery(line[columns["extra_tags"]])
		if err := errors.Join(err, err2, err3); err != nil {
			return err
		}
		if name == "dropped_iterations" {
			o.dropped += value
			continue
		}
		who := tags.Get("tenant")
		if kind := tags.Get("kind"); kind != "" {
			who += " " + kind
		}
		status, err := strconv.Atoi(tags.Get("code"))
		if err != nil {
			return err
		}
		if o.by[who] == nil {
			o.by[who] = &sent{}
		}
		o.by[who].samples = append(o.by[who].samples, sample{at / 1000, value, status, tags.Get("reason")})
	}
}
