package main

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

// sender is one stream of requests of one tenant.
type sender struct {
	Tenant  string  `json:"tenant"`
	Kind    string  `json:"kind,omitempty"` // tells two senders of a tenant apart
	Rate    float64 `json:"rate"`           // a second
	Path    string  `json:"path"`
	Method  string  `json:"method,omitempty"`
	Repeats int     `json:"repeats,omitempty"` // of what fails, each at once and with the same Idempotency-Key
	Token   string  `json:"token"`
	bucket  string  // of the file store, in which the document lies that it asks for
}

// testcase is a load, the limits that it meets, and what has to come out.
type testcase struct {
	name      string
	says      string
	limits    map[string]string // by tenant; others are unlimited
	admission string            // of the service
	senders   []sender
	aims      func(*outcome, map[string]*outcome) []aim
}

// aim is one figure, and the bound that it has to keep.
type aim struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"`
	Over  bool    `json:"atLeast"`        // the bound is the least it may be, not the most
	Told  bool    `json:"told,omitempty"` // there is no bound that it has to keep
	Met   bool    `json:"met"`
}

func told(a aim) aim { return aim{What: a.What, Value: a.Value, Told: true, Met: true} }

func atMost(what string, value, bound float64) aim {
	return aim{What: what, Value: value, Bound: bound, Met: value <= bound}
}

func atLeast(what string, value, bound float64) aim {
	return aim{What: what, Value: value, Bound: bound, Over: true, Met: value >= bound}
}

const (
	unlimited = "{requestsPerSecond: -1, concurrency: -1}"
	// slow takes the service 50 ms, in one of its eight threads: 160 a second are all that it can do.
	slow     = "/httpbin/delay/0.05"
	capacity = 160.0
	// An operator knows that: the limit is looked for near it.
	adaptive = "{min: 4, max: 10}"

	lightP99   = 250.0 // ms
	lightError = 0.01
	ratio      = 1.5
	settled    = 3.0 // seconds: all begin in one moment, and shares are of what was used
)

var (
	light = sender{Tenant: "light", Rate: 10, Path: slow}
	heavy = sender{Tenant: "heavy", Rate: 1000, Path: slow}
)

// isLeftAlone are the bounds of the article's section 20.
func isLeftAlone(o *outcome) []aim {
	l := o.of("light")
	return []aim{
		atMost("light's p99, ms", l.latency(0.99), lightP99), atMost("light's share of errors", l.errors(), lightError),
		atLeast("light's requests", float64(len(l.samples)), 0.9*10*o.seconds),
	}
}

func besideAlone(o *outcome, all map[string]*outcome) aim {
	return atMost("light's p99 to its p99 alone", o.of("light").latency(0.99)/all["alone"].of("light").latency(0.99), ratio)
}

// cases are all there are, in their order: later ones compare themselves with earlier ones.
var cases = []testcase{
	{
		name: "alone", says: "The light tenant, 10 requests a second, and nobody else.", admission: adaptive, senders: []sender{light},
		aims: func(o *outcome, _ map[string]*outcome) []aim { return isLeftAlone(o) },
	},
	{
		name: "limited", says: "Beside it a heavy one sends 1,000 a second, and its limit is 100.", admission: adaptive, senders: []sender{light, heavy},
		limits: map[string]string{"heavy": "{requestsPerSecond: 100, burst: 20, concurrency: -1}"},
		aims: func(o *outcome, all map[string]*outcome) []aim {
			return append(isLeftAlone(o), besideAlone(o, all), atMost("heavy's served a second", o.of("heavy").served()/o.seconds, 100+20/o.seconds))
		},
	},
	{
		name: "shares", says: "No rate limit: six times what the service can do, and fair admission alone.", admission: adaptive, senders: []sender{light, heavy},
		aims: func(o *outcome, all map[string]*outcome) []aim {
			// Load and refusals use up the machine by themselves: the ratio says as much of it as of the mesh.
			return append(isLeftAlone(o), told(besideAlone(o, all)), atLeast("the service's use", (o.of("heavy").served()+o.of("light").served())/o.seconds/capacity, 0.8))
		},
	},
	{
		name: "control", says: "Enforcement off: the light tenant has to suffer, or the cases above say nothing.", admission: "{mode: off}", senders: []sender{light, heavy},
		aims: func(o *outcome, _ map[string]*outcome) []aim {
			l, kept := o.of("light"), 0.0
			if l.latency(0.99) < lightP99 && l.errors() < lightError && float64(len(l.samples)) >= 0.9*10*o.seconds {
				kept = 1
			}
			return []aim{atMost("light is left alone (0: it is not)", kept, 0)}
		},
	},
	{
		name: "crowd", says: "Fifty tenants, Zipf 1.1, twice what the service can do; its aims are of what comes after they all began at once.", admission: "{min: 8, max: 16}", senders: crowd(50, 1.1, 2*capacity),
		aims: func(o *outcome, _ map[string]*outcome) []aim {
			o = o.after(settled)
			level := o.level()
			var normalized []float64
			suffered, modest, failed := 0.0, 0.0, 0.0
			for _, tenant := range o.tenants() {
				t := o.of(tenant)
				demand := float64(len(t.samples)) / o.seconds
				normalized = append(normalized, t.served()/o.seconds/math.Min(demand, level))
				if demand <= level/2 && t.errors() > 0 {
					suffered++
				}
				if demand <= 0.75*level { // a service that stands still for a moment has less to share then than on average
					modest, failed = modest+float64(len(t.samples)), failed+t.errors()*float64(len(t.samples))
				}
			}
			return []aim{
				atLeast("Jain's index over normalized goodput", jain(normalized), 0.95), atMost("tenants under half of their share with an error", suffered, 0),
				atMost("errors of those under three quarters of it, a share", failed/modest, lightError),
			}
		},
	},
	{
		name: "storm", says: "A tenant repeats what fails, ten times each and at once.", admission: adaptive,
		senders: []sender{light, {Tenant: "storm", Rate: 30, Path: "/httpbin/status/500", Repeats: 9}},
		aims: func(o *outcome, all map[string]*outcome) []aim {
			s := o.of("storm")
			reached := float64(len(s.samples)) - s.refused("")
			return append(isLeftAlone(o), besideAlone(o, all), atMost("requests that reach the service, to first tries", reached/(30*o.seconds), 1.25))
		},
	},
	{
		name: "hanging", says: "A store hangs for one tenant, which may have half of the service's threads; another tenant's requests go to the same store.",
		limits: map[string]string{"hanging": "{requestsPerSecond: -1, concurrency: 4}"},
		senders: []sender{
			{Tenant: "light", Rate: 10, bucket: "good"}, {Tenant: "hanging", Rate: 20, bucket: "hanging"},
		},
		aims: func(o *outcome, _ map[string]*outcome) []aim {
			return append(isLeftAlone(o), atLeast("requests for what hangs", float64(len(o.of("hanging").samples)), 0.9*20*o.seconds),
				atMost("those of them that the store hears of, a share", o.hung/float64(len(o.of("hanging").samples)), 0.1))
		},
	},
	{
		name: "exports", says: "A tenant's exports fill their class, while its own reads and another tenant's go on.", admission: adaptive,
		senders: []sender{
			{Tenant: "light", Rate: 10, Path: "/documents"}, {Tenant: "heavy", Kind: "reads", Rate: 20, Path: "/documents"},
			{Tenant: "heavy", Kind: "exports", Rate: 200, Path: "/documents/x/export", Method: "POST"},
		},
		limits: map[string]string{"heavy": "{requestsPerSecond: -1, concurrency: -1, classes: {exports: {concurrency: 1}}}"},
		aims: func(o *outcome, _ map[string]*outcome) []aim {
			reads, exports := o.of("heavy reads"), o.of("heavy exports")
			return append(isLeftAlone(o), atMost("the reads' p99, ms", reads.latency(0.99), lightP99), atMost("the reads' share of errors", reads.errors(), lightError),
				atLeast("exports refused by concurrency", exports.refused("concurrency_limited"), 1))
		},
	},
}

// crowd is n tenants, of which the i-th sends in proportion to 1/i^exponent.
func crowd(n int, exponent, total float64) []sender {
	sum := 0.0
	for i := range n {
		sum += math.Pow(float64(i+1), -exponent)
	}
	var list []sender
	for i := range n {
		list = append(list, sender{Tenant: fmt.Sprintf("crowd-%02d", i+1), Rate: total * math.Pow(float64(i+1), -exponent) / sum, Path: slow})
	}
	return list
}

// objects are those that a case needs.
func (c *testcase) objects() string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: httpbin}
spec:
  expose: [{pathPrefix: /httpbin, stripPrefix: true}]
  deliverContext: true
  admission: %s
`, cmp.Or(c.admission, adaptive))
	seen := map[string]bool{}
	for _, s := range c.senders {
		limits := c.limits[s.Tenant]
		if limits == "" {
			limits = unlimited
		}
		if !seen[s.Tenant] {
			fmt.Fprintf(&b, "---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: %s}\nspec: {tier: silver, region: us, limits: %s}\n", s.Tenant, limits)
		}
		seen[s.Tenant] = true
	}
	return b.String()
}
