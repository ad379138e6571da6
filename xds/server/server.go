package server

import (
	"cmp"
	"context"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	deltaserver "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Subject is what a principal is in the mesh, and so what it may see.
type Subject struct {
	Role      string // gateway, sidecar
	Cell      string
	Workload  string
	Audiences []string
}

// Directory knows the mesh's principals.
type Directory interface {
	// Lookup returns what principal is; false when it is no gateway and no workload of this mesh.
	Lookup(principal identity.Principal) (Subject, bool)
	// Changed is closed once Lookup may answer differently than before the call of Changed.
	Changed() <-chan struct{}
}

// Config says what a server stands on.
type Config struct {
	Cache     *Cache
	Directory Directory
	Members   Members
	Quota     Quota // nil: limits are not divided here
	Log       *zap.Logger
	// Admission bounds how many new streams are taken a second, so that sidecars that all come back at once do not
	// starve those that are there; 0: DefaultAdmission. As many may come at once.
	Admission float64
}

// DefaultAdmission is how many new streams are taken a second. A sidecar has three.
const DefaultAdmission = 600

// Register serves ADS and the member service on g, until ctx ends.
func Register(ctx context.Context, g *grpc.Server, config Config) {
	callbacks := &callbacks{config}
	admission := cmp.Or(config.Admission, DefaultAdmission)
	sessions := &sessions{directory: config.Directory, admission: rate.NewLimiter(rate.Limit(admission), max(1, int(admission))), open: map[*session]struct{}{}}
	go sessions.follow(ctx)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, &adsServer{delta: deltaserver.NewServer(ctx, config.Cache, callbacks), sessions: sessions, log: config.Log})
	api.RegisterMemberServiceServer(g, &memberServer{config: config, sessions: sessions})
	if config.Quota != nil {
		quota.RegisterRateLimitQuotaServiceServer(g, &quotaServer{config: config, sessions: sessions})
	}
}

type adsServer struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	delta    deltaserver.Server
	sessions *sessions
	log      *zap.Logger
}

// DeltaAggregatedResources implements the incremental protocol, the only one there is here.
func (s *adsServer) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	session, err := s.sessions.begin(stream.Context())
	if err != nil {
		s.log.Warn("refused a stream", zap.Error(err))
		return err
	}
	defer s.sessions.end(session)
	requests := make(chan *discovery.DeltaDiscoveryRequest)
	go func() { // ends with the stream, and that with this call
		for {
			request, err := stream.Recv()
			if err != nil {
				session.cancel(err)
				return
			}
			select {
			case requests <- request:
			case <-session.Done():
				return
			}
		}
	}()
	if err := s.delta.DeltaStreamHandler(&sessionStream{stream, session, requests}, ""); err != nil {
		return err
	}
	return session.ended()
}

// sessionStream is a stream that ends with its session.
type sessionStream struct {
	discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	session  *session
	requests <-chan *discovery.DeltaDiscoveryRequest
}

// Context implements grpc.ServerStream.
func (s *sessionStream) Context() context.Context { return s.session }

// Recv returns the next request, or why the session ended.
func (s *sessionStream) Recv() (*discovery.DeltaDiscoveryRequest, error) {
	select {
	case request := <-s.requests:
		return request, nil
	case <-s.session.Done():
		return nil, context.Cause(s.session)
	}
}

type callbacks struct{ Config }

// OnDeltaStreamOpen implements deltaserver.Callbacks.
func (c *callbacks) OnDeltaStreamOpen(ctx context.Context, id int64, _ string) error {
	session := ctx.(*session)
	principal, subject := session.principal, session.subject
	if err := c.Cache.reach(ctx, have(ctx)); err != nil {
		c.Log.Warn("refused a stream", zap.Stringer("principal", principal), zap.Error(err))
		return err
	}
	c.Log.Info("stream opened", zap.Int64("stream", id), zap.Stringer("principal", principal))
	c.Cache.open(&stream{id: id, subject: subject, principal: principal.String(), types: map[string]*subscription{}})
	return nil
}

// have is the revision that a sidecar says it has from before, 0 for none.
func have(ctx context.Context) int64 {
	incoming, _ := metadata.FromIncomingContext(ctx)
	for _, value := range incoming.Get(meshname.MetadataRevision) {
		if revision, err := strconv.ParseInt(value, 10, 64); err == nil {
			return revision
		}
	}
	return 0
}

// reachTime is how long a stream waits for a control plane that is behind what its sidecar had from another.
const reachTime = 10 * time.Second

// reach waits until a revision is published here: nothing that a sidecar has may go backwards.
func (c *Cache) reach(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	for {
		c.mu.Lock()
		published, changed := c.revision, c.changed
		c.mu.Unlock()
		if published >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.Errorf(codes.Unavailable, "this control plane is at revision %d, and the sidecar has %d from another: if the store was restored from a backup, start the sidecar with an empty data directory", published, revision)
		}
	}
}

// OnDeltaStreamClosed implements deltaserver.Callbacks.
func (c *callbacks) OnDeltaStreamClosed(id int64, _ *core.Node) { c.Cache.close(id) }

// OnStreamDeltaRequest implements deltaserver.Callbacks: the node that the client claims to be is replaced by its stream.
func (c *callbacks) OnStreamDeltaRequest(id int64, request *discovery.DeltaDiscoveryRequest) error {
	request.Node = &core.Node{Id: strconv.FormatInt(id, 10)}
	if request.ResponseNonce != "" {
		c.Cache.answered(id, request.TypeUrl, request.ResponseNonce, request.ErrorDetail.GetMessage())
		if request.ErrorDetail != nil {
			c.Log.Warn("a sidecar refused a resource", zap.Int64("stream", id), zap.String("type", request.TypeUrl), zap.String("error", request.ErrorDetail.Message))
		}
	}
	return nil
}

// OnStreamDeltaResponse implements deltaserver.Callbacks.
func (c *callbacks) OnStreamDeltaResponse(id int64, _ *discovery.DeltaDiscoveryRequest, response *discovery.DeltaDiscoveryResponse) {
	c.Cache.sending(id, response.TypeUrl, response.Nonce)
}

func (c *Cache) open(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams[s.id] = s
	for _, audience := range s.subject.Audiences {
		if c.audiences[audience] == nil {
			c.audiences[audience] = map[*stream]struct{}{}
		}
		c.audiences[audience][s] = struct{}{}
	}
	c.signal()
}

func (c *Cache) close(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		return
	}
	delete(c.streams, id)
	for _, audience := range s.subject.Audiences {
		delete(c.audiences[audience], s)
	}
	c.signal()
}

// sending notes the nonce of the response that is on its way.
func (c *Cache) sending(id int64, typeURL, nonce string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil || s.types[typeURL] == nil {
		return
	}
	waiting := s.types[typeURL].waiting
	for i := range waiting {
		if waiting[i].nonce == "" {
			waiting[i].nonce = nonce
			return
		}
	}
}
