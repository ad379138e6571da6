package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestFigures reads a few lines as the generator writes them.
func TestFigures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "took.csv")
	text := `metric_name,timestamp,metric_value,check,error,extra_tags,metadata
http_reqs,1000,1,,,,
took,1000,10,,,code=200&kind=&reason=&tenant=light,
took,1500,20,,,code=200&kind=&reason=&tenant=light,
took,3000,1,,,code=503&kind=&reason=overloaded&tenant=heavy,
took,3000,5000,,,code=0&kind=reads&reason=&tenant=heavy,
dropped_iterations,3000,7,,,,
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := read([]string{path}, 2)
	if err != nil {
		t.Fatal(err)
	}
	l, h := o.of("light"), o.of("heavy")
	if l.latency(0.5) != 10 || l.latency(0.99) != 20 || l.errors() != 0 || l.served() != 2 || l.samples[1].at != 0.5 {
		t.Errorf("light is %+v", l)
	}
	if h.errors() != 1 || h.refused("overloaded") != 1 || h.refused("rate_limited") != 0 || h.latency(0.5) != math.MaxFloat64 || o.of("heavy reads").errors() != 1 {
		t.Errorf("heavy is %+v", h)
	}
	if o.dropped != 7 || o.of("nobody").errors() != 1 {
		t.Errorf("the rest is %+v", o)
	}
	if rest := o.after(0.5); rest.seconds != 1.5 || len(rest.of("light").samples) != 1 || len(o.of("light").samples) != 2 {
		t.Errorf("after half a second: %+v", rest.of("light"))
	}
	if j := jain([]float64{1, 1, 1, 1}); j != 1 {
		t.Errorf("of equals: %v", j)
	}
	if j := jain([]float64{1, 0, 0, 0}); j != 0.25 {
		t.Errorf("of one who has everything: %v", j)
	}
}

// TestLevel: what a small one leaves is the others'.
func TestLevel(t *testing.T) {
	tenant := func(demand, served int) *sent {
		s := &sent{}
		for i := range demand {
			status := 503
			if i < served {
				status = 200
			}
			s.samples = append(s.samples, sample{status: status})
		}
		return s
	}
	o := &outcome{seconds: 1, by: map[string]*sent{"a": tenant(10, 10), "b": tenant(100, 40), "c": tenant(200, 40)}}
	if level := o.level(); level != 40 {
		t.Errorf("the level is %v, want 40", level)
	}
	if level := (&outcome{seconds: 1, by: map[string]*sent{"a": tenant(10, 10)}}).level(); !math.IsInf(level, 1) {
		t.Errorf("with room for all: %v", level)
	}
}
