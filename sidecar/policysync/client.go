package policysync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// EnvoyTypes are what Envoy reads, in the order in which it should.
var EnvoyTypes = []string{
	"type.googleapis.com/envoy.config.cluster.v3.Cluster",
	"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	"type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
	"type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	"type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
	"type.googleapis.com/envoy.config.listener.v3.Listener",
}

// Envoy is the Envoy beside. Its verdicts come by [Client.Judged].
type Envoy interface {
	// Update gives Envoy the state, and returns a number for it, which grows.
	Update(state *State, set *policyset.Set) (sequence int64, err error)
}

// Config says what a client stands on.
type Config struct {
	Conn  *grpc.ClientConn // to the control plane, over mTLS
	Sets  *policyset.Holder
	Envoy Envoy
	Poll  Poll                 // while the stream is down
	Path  string               // of the last good state
	Saved func(*policyset.Set) // told of each set that is in force and on the disk
	Log   *zap.Logger
}

// Reconnect waits: at first, at most.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
	// saveDelay gathers changes before the state is written.
	saveDelay = 200 * time.Millisecond
)

// Client keeps the state.
type Client struct {
	Config
	following atomic.Bool       // the stream is up, and has brought something
	unsaved   bool              // the last good state on the disk is older than what is in force
	state     *State            // what was pushed
	trial     map[string]*trial // by type, of what is for Envoy
	brought   bool              // the last stream brought something
	noted     time.Time         // when it was last written down that the control plane was heard

	verdicts chan verdict
	late     chan *push // pushes that Envoy has not judged in time

	mu     sync.Mutex // guards stream.Send and nonces
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	nonces map[string]string // by type, of the last response
}

// New returns a client that begins with state, and puts it in force. A state that is not good any more is given up whole.
func New(config Config, state *State) (*Client, error) {
	c := &Client{Config: config, state: state, trial: map[string]*trial{}, verdicts: make(chan verdict, 64), late: make(chan *push, 64)}
	for _, typeURL := range EnvoyTypes {
		c.trial[typeURL] = &trial{accepted: maps.Clone(state.Resources[typeURL])}
	}
	var changes []policyset.Change
	for _, typeURL := range policyset.Types() {
		for name, resource := range state.Resources[typeURL] {
			change, err := decode(typeURL, name, resource.Body)
			if err != nil {
				return nil, err
			}
			changes = append(changes, change)
		}
	}
	if len(changes) == 0 {
		return c, nil
	}
	set, err := (*policyset.Set)(nil).With(changes, state.Revision)
	if err != nil {
		return nil, err
	}
	c.Sets.Store(set)
	c.Sets.Heard(c.lastHeard())
	c.Saved(set) // it comes from there
	_, err = c.Envoy.Update(state, set)
	return c, err
}

func decode(typeURL, name string, body []byte) (policyset.Change, error) {
	message := policyset.New(typeURL)
	if err := proto.Unmarshal(body, message); err != nil {
		return policyset.Change{}, fmt.Errorf("%s %q: %w", typeURL, name, err)
	}
	return policyset.Change{TypeURL: typeURL, Name: name, Message: message}, nil
}

// Run follows the control plane until ctx ends, and connects again whenever the stream breaks.
func (c *Client) Run(ctx context.Context) error {
	backoff, polling := minBackoff, poller{}
	for {
		began := time.Now()
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		c.Log.Warn("the control plane is out of reach; the last good state stays in force", zap.Error(err), zap.Int64("revision", c.state.Revision))
		if c.brought { // another outage
			c.brought, polling = false, poller{}
		}
		c.poll(ctx, &polling)
		for again := time.After(backoff/2 + rand.N(backoff)); again != nil; {
			select {
			case <-ctx.Done():
				return nil
			case v := <-c.verdicts:
				if c.judge(v) {
					c.save()
				}
			case <-c.late: // the stream that it came by is gone
			case <-again:
				again = nil
			}
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (c *Client) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outgoing := metadata.AppendToOutgoingContext(ctx, meshname.MetadataRevision, strconv.FormatInt(c.state.Revision, 10))
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(c.Conn).DeltaAggregatedResources(outgoing)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.stream, c.nonces = stream, map[string]string{}
	c.mu.Unlock()
	for _, t := range c.trial {
		t.unanswered()
	}
	for _, typeURL := range append(policyset.Types(), EnvoyTypes...) {
		c.forget(typeURL)
		request := &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, InitialResourceVersions: map[string]string{}, Node: &core.Node{Id: "tenantmesh-sidecar"}}
		for name, resource := range c.state.Resources[typeURL] {
			request.InitialResourceVersions[name] = resource.Version
		}
		if err := c.send(request); err != nil {
			return err
		}
	}
	responses := make(chan *discovery.DeltaDiscoveryResponse)
	failed := make(chan error, 1)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case responses <- response:
			case <-ctx.Done():
				return
			}
		}
	}()
	// The stream's breaking is noticed by the connection's keepalive.
	defer c.following.Store(false)
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	var save <-chan time.Time
	heard := false
	for {
		select {
		case response := <-responses:
			if !heard { // this much is new now
				heard = true
				c.brought = true
				c.following.Store(true)
				c.Sets.Heard(time.Now())
			}
			before := c.Sets.Load().Moving()
			c.take(response)
			// A move waits until its placement is on the disk, and what was taken from somebody may not come back by a
			// crash; nothing else is in such a hurry.
			if !maps.Equal(before, c.Sets.Load().Moving()) || c.revokes(response) {
				save = nil
				c.save()
			} else if save == nil {
				save = time.After(saveDelay)
			}
		case v := <-c.verdicts:
			if c.judge(v) && save == nil {
				save = time.After(saveDelay)
			}
		case p := <-c.late:
			c.conclude(p, nil)
		case <-alive.C:
			if c.unsaved {
				c.save()
			}
			now := time.Now()
			c.note(now.Add(-c.Sets.Age(now)))
		case <-save:
			save = nil
			c.save()
		case err := <-failed:
			c.save()
			return err
		}
	}
}

// heardInterval is how often it is written down that the control plane was heard, so that a restart does not make the
// state younger than it is.
const heardInterval = 15 * time.Second

// Pulse notes that the control plane reaches its store at now: while the stream is up, the state is as new as it can be.
func (c *Client) Pulse(now time.Time) {
	if c.following.Load() {
		c.Sets.Heard(now)
	}
}

// note writes down when the control plane was last heard.
func (c *Client) note(now time.Time) {
	if now.Sub(c.noted) < heardInterval {
		return
	}
	c.noted = now
	if err := os.WriteFile(c.Path+".heard", []byte(now.UTC().Format(time.RFC3339)), 0o600); err != nil {
		c.Log.Error("when the control plane was last heard could not be written", zap.Error(err))
	}
}

// lastHeard is when the control plane was last heard before this process began; long ago when that is not known.
func (c *Client) lastHeard() time.Time {
	text, err := os.ReadFile(c.Path + ".heard")
	if err != nil {
		return time.Unix(1, 0)
	}
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return time.Unix(1, 0)
	}
	return at
}

func (c *Client) save() {
	if err := c.good().Save(c.Path); err != nil {
		c.Log.Error("the last good state could not be written; it is tried again", zap.Error(err))
		c.unsaved = true
		return
	}
	c.unsaved = false
	c.Saved(c.Sets.Load()) // this goroutine alone changes either
}

var errNoStream = errors.New("there is no stream to the control plane yet")

func (c *Client) send(request *discovery.DeltaDiscoveryRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream == nil {
		return errNoStream
	}
	return c.stream.Send(request)
}

// revokes reports whether a response takes something from somebody: policies, keys, or a tenant's being served.
func (c *Client) revokes(response *discovery.DeltaDiscoveryResponse) bool {
	switch response.TypeUrl {
	case meshname.TypeAccessPolicy, meshname.TypeTokenIssuer, meshname.TypeRevocation:
		return true
	case meshname.TypeSignerKey:
		return len(response.RemovedResources) > 0
	case meshname.TypeTenantPolicy:
		return slices.ContainsFunc(response.Resources, func(r *discovery.Resource) bool {
			t, ok := c.Sets.Load().Tenant(r.Name)
			return ok && t.Phase != "Active"
		})
	default:
		return false
	}
}

// take applies a response and answers it: at once what is for the Go process, and what is for Envoy when Envoy did.
func (c *Client) take(response *discovery.DeltaDiscoveryResponse) {
	if response.Nonce != "" { // it was pushed
		c.mu.Lock()
		c.nonces[response.TypeUrl] = response.Nonce
		c.mu.Unlock()
	}
	sequence, envoy, err := c.apply(response)
	if err != nil || !envoy {
		c.answer(response.TypeUrl, response.Nonce, err)
		return
	}
	c.try(response, sequence)
}

func (c *Client) answer(typeURL, nonce string, refusal error) {
	if nonce == "" && refusal == nil {
		return // it was polled
	}
	request := &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: nonce}
	if refusal != nil {
		c.Log.Error("refused what the control plane pushed", zap.String("type", typeURL), zap.Error(refusal))
		request.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: refusal.Error()}
	}
	_ = c.send(request) // a broken stream is seen by its receiver
}

func (c *Client) apply(response *discovery.DeltaDiscoveryResponse) (sequence int64, envoy bool, err error) {
	typeURL := response.TypeUrl
	own := policyset.New(typeURL) != nil
	revision, _ := strconv.ParseInt(response.SystemVersionInfo, 10, 64)
	var changes []policyset.Change
	if own {
		for _, resource := range response.Resources {
			change, err := decode(typeURL, resource.Name, resource.Resource.GetValue())
			if err != nil {
				return 0, false, err
			}
			changes = append(changes, change)
		}
		for _, name := range response.RemovedResources {
			changes = append(changes, policyset.Change{TypeURL: typeURL, Name: name})
		}
	}
	set, err := c.Sets.Load().With(changes, revision) // what is for Envoy has a revision too
	if err != nil {
		return 0, false, err
	}
	c.Sets.Store(set)
	byName := c.state.Resources[typeURL]
	if byName == nil {
		byName = map[string]Resource{}
		c.state.Resources[typeURL] = byName
	}
	for _, resource := range response.Resources {
		byName[resource.Name] = Resource{resource.Version, resource.Resource.GetValue()}
	}
	for _, name := range response.RemovedResources {
		delete(byName, name)
	}
	c.state.Revision = max(c.state.Revision, revision)
	if own && typeURL != policyset.Types()[0] {
		return 0, false, nil // only what this sidecar is changes what its Envoy gets
	}
	t := c.trial[typeURL]
	if t != nil {
		t.refused = false // with this push, all of the type is tried again
	}
	sequence, err = c.Envoy.Update(c.offered(), set)
	if t != nil && err != nil {
		t.refused, t.pending = true, nil
	}
	return sequence, !own, err
}
