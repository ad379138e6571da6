package devca

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tenantmesh/tenantmesh/identity"
)

// patience is how long a caller that nobody registered yet is kept waiting: it may have been quicker than
// whoever started it.
const patience = 5 * time.Second

// workloadAPI serves the SPIFFE Workload API.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authorities *authorities
	registry    *registry
	ttl         time.Duration
	now         func() time.Time
}

// entitled waits until the caller is entitled to something.
func (w *workloadAPI) entitled(ctx context.Context) ([]identity.Principal, <-chan struct{}, error) {
	if values := metadata.ValueFromIncomingContext(ctx, "workload.spiffe.io"); !slices.Equal(values, []string{"true"}) {
		// SPIFFE Workload Endpoint, section 5.
		return nil, nil, status.Error(codes.InvalidArgument, "metadata workload.spiffe.io must be true")
	}
	who, err := callerFrom(ctx)
	if err != nil {
		return nil, nil, status.Error(codes.PermissionDenied, err.Error())
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		ids, changed := w.registry.entitled(who)
		if len(ids) > 0 {
			return ids, changed, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-deadline.C:
			return nil, nil, status.Errorf(codes.PermissionDenied, "no identity is registered for process %d of user %d", who.pid, who.uid)
		}
	}
}

// FetchX509SVID implements the Workload API: a new SVID at once, at half its life, and when entitlements or
// authorities change.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	var had []identity.Principal
	for {
		ids, changed, err := w.entitled(stream.Context())
		if err != nil {
			return err
		}
		trust, replaced := w.authorities.trusted()
		response := &workload.X509SVIDResponse{FederatedBundles: trust.foreign}
		for _, id := range ids {
			cert, key, err := trust.signs.issue(id, w.ttl, w.now())
			if err != nil {
				return status.Error(codes.Internal, err.Error())
			}
			response.Svids = append(response.Svids, &workload.X509SVID{SpiffeId: id.String(), X509Svid: cert, X509SvidKey: key, Bundle: trust.bundle})
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		had = ids
		half := time.NewTimer(w.ttl / 2)
		for same := true; same; {
			select {
			case <-half.C:
				same = false
			case <-replaced:
				same = false
			case <-changed:
				who, _ := callerFrom(stream.Context())
				ids, changed = w.registry.entitled(who)
				same = slices.Equal(ids, had)
			case <-stream.Context().Done():
				half.Stop()
				return nil
			}
		}
		half.Stop()
	}
}

// FetchX509Bundles implements the Workload API.
func (w *workloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	if _, _, err := w.entitled(stream.Context()); err != nil {
		return err
	}
	return w.follow(stream.Context(), func(t trust) error {
		bundles := map[string][]byte{w.trustDomainID(): t.bundle}
		maps.Copy(bundles, t.foreign)
		return stream.Send(&workload.X509BundlesResponse{Bundles: bundles})
	})
}

// follow sends what is trusted, now and whenever it changes, until ctx ends.
func (w *workloadAPI) follow(ctx context.Context, send func(trust) error) error {
	for {
		trust, replaced := w.authorities.trusted()
		if err := send(trust); err != nil {
			return err
		}
		select {
		case <-replaced:
		case <-ctx.Done():
			return nil
		}
	}
}

// FetchJWTSVID implements the Workload API.
func (w *workloadAPI) FetchJWTSVID(ctx context.Context, request *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if len(request.Audience) == 0 {
		return nil, status.Error(codes.InvalidArgument, "audience must be set")
	}
	ids, _, err := w.entitled(ctx)
	if err != nil {
		return nil, err
	}
	trust, _ := w.authorities.trusted()
	response := &workload.JWTSVIDResponse{}
	for _, id := range ids {
		if request.SpiffeId != "" && request.SpiffeId != id.String() {
			continue
		}
		token, err := trust.signs.issueJWT(id, request.Audience, w.now())
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		response.Svids = append(response.Svids, &workload.JWTSVID{SpiffeId: id.String(), Svid: token})
	}
	if len(response.Svids) == 0 {
		return nil, status.Errorf(codes.PermissionDenied, "the caller is not entitled to %q", request.SpiffeId)
	}
	return response, nil
}

// FetchJWTBundles implements the Workload API.
func (w *workloadAPI) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	if _, _, err := w.entitled(stream.Context()); err != nil {
		return err
	}
	return w.follow(stream.Context(), func(t trust) error {
		return stream.Send(&workload.JWTBundlesResponse{Bundles: map[string][]byte{w.trustDomainID(): t.jwks}})
	})
}

// ValidateJWTSVID implements the Workload API.
func (w *workloadAPI) ValidateJWTSVID(ctx context.Context, request *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if _, _, err := w.entitled(ctx); err != nil {
		return nil, err
	}
	domain, err := spiffeid.TrustDomainFromString(w.authorities.trustDomain)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	trust, _ := w.authorities.trusted()
	bundle, err := jwtbundle.Parse(domain, trust.jwks)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	token, err := jwtsvid.ParseAndValidate(request.Svid, bundle, []string{request.Audience})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(token.Claims)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: token.ID.String(), Claims: claims}, nil
}

func (w *workloadAPI) trustDomainID() string { return "spiffe://" + w.authorities.trustDomain }
