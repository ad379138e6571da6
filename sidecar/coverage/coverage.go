// Package coverage answers HOW IS IT KNOWN WHOSE A CALL IS: it counts the calls of a sidecar's service, and those to it, by how their
// tenant was proven, by whom they were with, and by route, with one example each.
//
// It imports sidecar/tally.
package coverage

import (
	"strings"

	"github.com/tenantmesh/tenantmesh/sidecar/tally"
)

// How a tenant was proven (design, section 7).
const (
	Context     = "context"      // a signed context came with the call
	Traceparent = "traceparent"  // its trace ID is of a request being served
	RequestID   = "x-request-id" // likewise
	Bound       = "bound"        // the workload is bound to one tenant
	None        = "none"         // it was not
)

// Key is what is counted apart.
type Key struct {
	Inbound bool   // a call to the service; false: of the service
	Peer    string // who calls (SPIFFE ID), or what is called ("workload/back", "dependency/mail")
	Method  string
	Route   string // see [Route]
	Proof   string
	Refused bool // for want of a proof
}

func (k Key) own() Key {
	for _, text := range []*string{&k.Peer, &k.Method, &k.Route} {
		*text = strings.Clone(*text)
	}
	return k
}

// Table counts.
type Table = tally.Table[Key]

// New returns an empty table.
func New() *Table { return tally.New(Key.own) }

// maxSegments is how many segments of a path are told apart.
const maxSegments = 4

// Route is a path without what is of one request: a segment with a digit in it, or longer than 32 bytes, is "*", and what is past the fourth
// "**". Paths are callers' words; a route is for people to read, and no rule is found by it.
func Route(path string) string {
	var room [128]byte // most fit
	route, rest := room[:0], strings.TrimPrefix(path, "/")
	for n := 0; ; n++ {
		if n == maxSegments {
			route = append(route, "/**"...)
			break
		}
		segment, more, found := strings.Cut(rest, "/")
		if len(segment) > 32 || strings.ContainsAny(segment, "0123456789%") {
			segment = "*"
		}
		if route = append(append(route, '/'), segment...); !found {
			break
		}
		rest = more
	}
	if string(route) == path { // it is most often, and then nothing is made
		return path
	}
	return string(route)
}
