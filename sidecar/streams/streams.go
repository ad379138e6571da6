// Package streams ends what is open that may not go on: Envoy's ext_proc filter keeps a call here open beside each upgrade,
// and each request that the check marked, by its lease, and an answer that refuses ends that one alone, whatever else its
// connection carries. The call itself is idle: no byte of the stream passes by it.
//
// A stream that has outlived its decision is ended as soon as the set that says so is in force here, and within
// [LookInterval] where the clock says so: a grant has ended. A set costs a comparison for each that is open and that it does not
// concern.
//
// # Concurrency
//
// One goroutine looks at what is open each time that the set changes; each call has one of its own.
//
// It imports sidecar/decide, sidecar/inflight, sidecar/policyset, sidecar/refusal, policy, identity and go-control-plane.
package streams

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/refusal"
)

// Server holds on to open streams.
type Server struct {
	extproc.UnimplementedExternalProcessorServer
	decider *decide.Decider
	log     *zap.Logger

	mu   sync.Mutex
	open map[*stream]struct{}
}

// stream is one that is open.
type stream struct {
	of *inflight.Request

	mu    sync.Mutex // of what is sent
	seen  policyset.Basis
	call  extproc.ExternalProcessor_ProcessServer
	ended bool
}

// New returns a server that ends what has outlived the decider's decision.
func New(decider *decide.Decider, log *zap.Logger) *Server {
	return &Server{decider: decider, log: log, open: map[*stream]struct{}{}}
}

// Process implements envoy.service.ext_proc.v3.ExternalProcessor. It returns when the stream has ended.
func (s *Server) Process(call extproc.ExternalProcessor_ProcessServer) error {
	held := &stream{call: call}
	defer s.forget(held)
	for {
		message, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if headers := message.GetRequestHeaders(); headers != nil && held.of == nil {
			if r, ok := s.decider.InFlight.Find(lease(headers)); ok {
				held.of = &r
				s.hold(held)
			} else {
				// It has ended, or another process let it in, as whose it is not known here: nothing would ever end it.
				held.end(&decide.Answer{Decision: policy.Decision{Reason: policy.EnforcementUnavailable}})
			}
		}
		if err := held.send(goOn(message)); err != nil {
			return err
		}
	}
}

func lease(headers *extproc.HttpHeaders) string {
	for _, h := range headers.GetHeaders().GetHeaders() {
		if h.Key == propagation.HeaderLease {
			return string(h.RawValue)
		}
	}
	return ""
}

// goOn lets what Envoy asks about pass as it is.
func goOn(message *extproc.ProcessingRequest) *extproc.ProcessingResponse {
	switch message.Request.(type) {
	case *extproc.ProcessingRequest_RequestHeaders:
		return &extproc.ProcessingResponse{Response: &extproc.ProcessingResponse_RequestHeaders{RequestHeaders: &extproc.HeadersResponse{}}}
	default:
		return &extproc.ProcessingResponse{Response: &extproc.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extproc.TrailersResponse{}}}
	}
}

// hold enters a stream before it looks whether it may stay: a set that came before is the one it looks by, and one that
// comes after finds it.
func (s *Server) hold(held *stream) {
	s.mu.Lock()
	s.open[held] = struct{}{}
	s.mu.Unlock()
	s.look(held)
}

func (s *Server) forget(held *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, held)
}

// LookInterval is how often it is looked whether something has ended by the clock.
const LookInterval = time.Second

// Run ends what has outlived its decision, each time that the set changes, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(LookInterval)
	defer ticker.Stop()
	lapsed, ticked := s.decider.Lapsed(), false
	for {
		changed := s.decider.Sets.Changed()
		now := s.decider.Lapsed()
		all := s.opened()
		for _, held := range all {
			if now != lapsed || ticked && s.decider.Timed(held.of) || held.concerned(s.decider.Sets.Load()) {
				s.look(held)
			}
		}
		lapsed, ticked = now, false
		select {
		case <-changed:
		case <-ticker.C:
			ticked = true
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) opened() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*stream, 0, len(s.open))
	for held := range s.open {
		all = append(all, held)
	}
	return all
}

// concerned reports whether a set may judge the stream otherwise than the one that it was last looked at by.
func (h *stream) concerned(set *policyset.Set) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen != set.Basis(h.of.Tenant.String())
}

// look ends a stream that may not stay.
func (s *Server) look(held *stream) {
	basis := s.decider.Sets.Load().Basis(held.of.Tenant.String()) // or an older one: then it is looked at again
	held.mu.Lock()
	held.seen = basis
	held.mu.Unlock()
	answer, ended := s.decider.Outlived(held.of)
	if !ended || !held.end(&answer) {
		return
	}
	s.decider.StreamEnded(answer.Decision.Reason)
	s.log.Info("an open stream was ended", zap.Stringer("tenant", held.of.Tenant), zap.String("uid", held.of.UID), zap.Int64("epoch", held.of.Epoch),
		zap.Stringer("reason", answer.Decision.Reason), zap.String("detail", answer.Decision.Detail))
}

// end refuses what is open, once. Envoy sends the refusal while no answer has begun, and resets the stream after that.
func (h *stream) end(answer *decide.Answer) bool {
	r := refusal.Of(answer, false)
	response := &extproc.ImmediateResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)}, Body: []byte(r.Body), Headers: &extproc.HeaderMutation{}, Details: "tenantmesh_stream_ended"}
	for _, header := range r.Headers {
		response.Headers.SetHeaders = append(response.Headers.SetHeaders, &core.HeaderValueOption{
			Header: &core.HeaderValue{Key: header.Name, RawValue: []byte(header.Value)}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.ended = true
	return h.call.Send(&extproc.ProcessingResponse{Response: &extproc.ProcessingResponse_ImmediateResponse{ImmediateResponse: response}}) == nil
}

// send answers Envoy, unless the stream was ended: then there is nothing more to say.
func (h *stream) send(response *extproc.ProcessingResponse) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil
	}
	return h.call.Send(response)
}
