package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	envoycache "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Key names one resource of one audience.
type Key struct {
	TypeURL  string
	Audience string
	Name     string
}

// Resource is one resource to publish.
type Resource struct {
	Key
	Message proto.Message
}

// typeOrder is the order in which types are sent after a change: clusters and their endpoints before the routes that
// name them, routes before listeners. Others, which only the Go process reads, come first.
var typeOrder = func() map[string]int {
	order := map[string]int{}
	for i, name := range []string{
		"envoy.config.cluster.v3.Cluster", "envoy.config.endpoint.v3.ClusterLoadAssignment", "envoy.config.core.v3.TypedExtensionConfig",
		"envoy.config.route.v3.RouteConfiguration", "envoy.config.route.v3.ScopedRouteConfiguration", "envoy.config.listener.v3.Listener",
	} {
		order["type.googleapis.com/"+name] = i + 1
	}
	return order
}()

// Cache holds what is published, and what each stream still lacks.
type Cache struct {
	mu        sync.Mutex
	revision  int64
	ahead     []ahead                                 // the last revisions that are published by [Cache.ApplyUrgent] in whole
	resources map[string]map[string]map[string]*entry // type, audience, name
	streams   map[int64]*stream
	audiences map[string]map[*stream]struct{}
	changed   chan struct{} // closed when what is enforced may have changed
}

type entry struct {
	resource *discovery.Resource // without a body, when a stream has it from before
}

// version is "" for a resource that is not there.
func (e *entry) version() string {
	if e == nil {
		return ""
	}
	return e.resource.Version
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{
		resources: map[string]map[string]map[string]*entry{}, streams: map[int64]*stream{},
		audiences: map[string]map[*stream]struct{}{}, changed: make(chan struct{}),
	}
}

// Apply publishes one change of the store. What has the content that it had is not sent again.
func (c *Cache) Apply(revision int64, put []Resource, remove []Key) error {
	return c.apply(revision, put, remove, false, func() { c.revision = max(c.revision, revision) })
}

func (c *Cache) apply(revision int64, put []Resource, remove []Key, urgent bool, note func()) error {
	entries := make([]*entry, len(put))
	for i, r := range put {
		var err error
		if entries[i], err = newEntry(r); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	note()
	touched := map[*stream]map[string]bool{}
	for i, r := range put {
		byName := c.names(r.TypeURL, r.Audience)
		if old := byName[r.Name]; old != nil && old.resource.Version == entries[i].resource.Version {
			continue
		}
		byName[r.Name] = entries[i]
		c.touch(touched, r.Key, revision, urgent)
	}
	for _, key := range remove {
		byName := c.names(key.TypeURL, key.Audience)
		if byName[key.Name] == nil {
			continue
		}
		delete(byName, key.Name)
		c.touch(touched, key, revision, urgent)
	}
	for s, types := range touched {
		ordered := make([]string, 0, len(types))
		for typeURL := range types {
			ordered = append(ordered, typeURL)
		}
		slices.SortFunc(ordered, func(a, b string) int { return typeOrder[a] - typeOrder[b] })
		for _, typeURL := range ordered {
			c.respond(s, s.types[typeURL])
		}
	}
	c.signal()
	return nil
}

func newEntry(r Resource) (*entry, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", r.TypeURL, r.Name, err)
	}
	sum := sha256.Sum256(body)
	return &entry{&discovery.Resource{Name: r.Name, Version: hex.EncodeToString(sum[:8]), Resource: &anypb.Any{TypeUrl: r.TypeURL, Value: body}}}, nil
}

func (c *Cache) names(typeURL, audience string) map[string]*entry {
	byAudience := c.resources[typeURL]
	if byAudience == nil {
		byAudience = map[string]map[string]*entry{}
		c.resources[typeURL] = byAudience
	}
	byName := byAudience[audience]
	if byName == nil {
		byName = map[string]*entry{}
		byAudience[audience] = byName
	}
	return byName
}

func (c *Cache) touch(touched map[*stream]map[string]bool, key Key, revision int64, urgent bool) {
	for s := range c.audiences[key.Audience] {
		t := s.types[key.TypeURL]
		if t == nil {
			continue // asked for later, in whole
		}
		if urgent {
			t.urgent.add(key.Name, revision)
		} else {
			t.pend(key.Name, c.revision)
		}
		if touched[s] == nil {
			touched[s] = map[string]bool{}
		}
		touched[s][key.TypeURL] = true
	}
}

// stream is one connected sidecar.
type stream struct {
	id        int64
	subject   Subject
	principal string
	types     map[string]*subscription
}

// subscription is what one stream has, and lacks, of one type.
type subscription struct {
	typeURL  string
	has      map[string]*entry   // by name: as of the last response, but for what was refused
	urgent   urgent              // names that changed since, and go before all else
	pending  map[string]struct{} // names that changed since
	oldest   int64               // revision of the first of pending; 0: none
	waiting  []sent              // responses that were not answered yet
	accepted []sent              // the last ones, of a type whose refusal may come late
	parts    []part              // of refused responses, to be sent again
	undo     map[string]struct{} // names of refused responses, which the sidecar is to have as it had them before
	refused  map[string]refusal  // by name: what the sidecar does not have, and why
	answered bool
	watch    *watch // open, when the server is ready for a response
}

// sent is a response on its way.
type sent struct {
	nonce    string
	oldest   int64 // revision of the first change in it
	revision int64 // that was published when it was sent
	changes  []change
	again    bool  // it is a part of one that was refused
	urgent   int64 // revision of the first urgent change in it; 0: none
	first    bool  // of its type
}

// change is what a response does to one resource; nil means that there is none.
type change struct {
	name          string
	before, after *entry
}

type watch struct {
	request  *discovery.DeltaDiscoveryRequest
	response chan envoycache.DeltaResponse
}

func (t *subscription) pend(name string, revision int64) {
	t.pending[name] = struct{}{}
	if t.oldest == 0 {
		t.oldest = revision
	}
}

// take returns what the next response is about: what is urgent, then how things were before a refused one, then its parts,
// then what is new.
func (t *subscription) take() (next part, undo map[string]struct{}) {
	switch {
	case t.answered && len(t.urgent.names) > 0:
		next = t.urgent.take()
	case len(t.undo) > 0:
		undo, t.undo = t.undo, nil
	case len(t.parts) > 0:
		next, t.parts = t.parts[0], t.parts[1:]
	case t.answered && t.typeURL == meshname.TypeTenantPolicy && len(t.pending) > maxAtOnce:
		next = t.some(maxAtOnce)
	default:
		next = part{names: t.pending, oldest: t.oldest}
		t.pending = map[string]struct{}{} // a cleared one keeps its size, and with it the cost of looking through it
		t.oldest = 0
	}
	return next, undo
}

// respond sends what is lacking, when the server waits for it. One response of a type is on its way at a time: a sidecar
// that got two at once could not tell which of them its Envoy refused.
func (c *Cache) respond(s *stream, t *subscription) {
	for t.watch != nil && len(t.waiting) == 0 && (!t.answered || len(t.urgent.names)+len(t.pending)+len(t.parts)+len(t.undo) > 0) {
		next, undo := t.take()
		response := &discovery.DeltaDiscoveryResponse{TypeUrl: t.typeURL, SystemVersionInfo: strconv.FormatInt(c.revision, 10)}
		for name := range undo {
			put(response, name, t.has[name])
		}
		changes := c.changes(s, t, next.names)
		for _, change := range changes {
			put(response, change.name, change.after)
			t.note(change.name, change.after)
		}
		if t.answered && len(response.Resources)+len(response.RemovedResources) == 0 {
			continue
		}
		first := !t.answered
		t.answered = true // even with nothing: the client then knows that it has all there is
		if next.oldest == 0 {
			next.oldest = c.revision
		}
		slices.SortFunc(response.Resources, func(a, b *discovery.Resource) int { return strings.Compare(a.Name, b.Name) })
		slices.Sort(response.RemovedResources)
		t.waiting = append(t.waiting, sent{oldest: next.oldest, revision: c.revision, changes: changes, again: next.again, urgent: next.urgent, first: first})
		open := t.watch
		t.watch = nil
		open.response <- &deltaResponse{open.request, response}
	}
}

// changes are what makes names of what the stream has what is published. What it refused as it is now is left out.
func (c *Cache) changes(s *stream, t *subscription, names map[string]struct{}) (changes []change) {
	for name := range names {
		before, after := t.has[name], c.find(s, t.typeURL, name)
		if before.version() == after.version() {
			if _, ok := t.refused[name]; ok { // what it refused is not published any more
				delete(t.refused, name)
				c.signal()
			}
			continue
		}
		if r, ok := t.refused[name]; ok && r.version == after.version() {
			continue
		}
		changes = append(changes, change{name, before, after})
	}
	return changes
}

// put adds a resource to a response. One that a stream had from before, and that is gone since, has no body to send.
func put(response *discovery.DeltaDiscoveryResponse, name string, e *entry) {
	if e == nil {
		response.RemovedResources = append(response.RemovedResources, name)
	} else if e.resource.Resource != nil {
		response.Resources = append(response.Resources, e.resource)
	}
}

func (t *subscription) note(name string, e *entry) {
	if e == nil {
		delete(t.has, name)
	} else {
		t.has[name] = e
	}
}

func (c *Cache) find(s *stream, typeURL, name string) *entry {
	for _, audience := range s.subject.Audiences {
		if found := c.resources[typeURL][audience][name]; found != nil {
			return found
		}
	}
	return nil
}

// CreateWatch implements the state-of-the-world protocol, which this server does not speak.
func (c *Cache) CreateWatch(*envoycache.Request, envoycache.Subscription, chan envoycache.Response) (func(), error) {
	return nil, fmt.Errorf("only the incremental protocol is served")
}

// CreateDeltaWatch implements [envoycache.ConfigWatcher]. The node's ID is the stream's, set by the server.
func (c *Cache) CreateDeltaWatch(request *envoycache.DeltaRequest, known envoycache.Subscription, response chan envoycache.DeltaResponse) (func(), error) {
	id, err := strconv.ParseInt(request.GetNode().GetId(), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("stream ID: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		return nil, fmt.Errorf("stream %d is closed", id)
	}
	t := s.types[request.TypeUrl]
	if t == nil {
		t = c.subscribe(s, request.TypeUrl, known)
	}
	t.watch = &watch{request, response}
	opened := t.watch
	c.respond(s, t)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if t.watch == opened {
			t.watch = nil
		}
	}, nil
}

// subscribe notes what a stream has from before, and all else as pending.
func (c *Cache) subscribe(s *stream, typeURL string, known envoycache.Subscription) *subscription {
	t := &subscription{typeURL: typeURL, has: map[string]*entry{}, pending: map[string]struct{}{}, refused: map[string]refusal{}}
	s.types[typeURL] = t
	for name, version := range known.ReturnedResources() {
		t.has[name] = &entry{&discovery.Resource{Name: name, Version: version}}
		t.pend(name, c.revision)
	}
	for _, audience := range s.subject.Audiences {
		for name := range c.resources[typeURL][audience] {
			t.pend(name, c.revision)
		}
	}
	return t
}

// deltaResponse implements [envoycache.DeltaResponse]. What was sent is kept in the subscription, not in the maps that
// the interface asks for.
type deltaResponse struct {
	request  *discovery.DeltaDiscoveryRequest
	response *discovery.DeltaDiscoveryResponse
}

func (r *deltaResponse) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	return r.response, nil
}
func (r *deltaResponse) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return r.request }
func (r *deltaResponse) GetSystemVersion() (string, error)                 { return r.response.SystemVersionInfo, nil }
func (r *deltaResponse) GetResponseVersion() string                        { return r.response.SystemVersionInfo }
func (r *deltaResponse) GetNextVersionMap() map[string]string              { return map[string]string{} }
func (r *deltaResponse) GetReturnedResources() map[string]string           { return map[string]string{} }
func (r *deltaResponse) GetContext() context.Context                       { return context.Background() }
