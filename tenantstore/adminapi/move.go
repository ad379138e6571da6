package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// MoveInput asks for a transition of a tenant's move.
type MoveInput struct {
	Transition tenantstore.Transition `json:"transition"`      // start, rollback, abort
	To         string                 `json:"to,omitempty"`    // of start
	Hold       float64                `json:"hold,omitempty"`  // of start: seconds
	Grace      float64                `json:"grace,omitempty"` // of start: seconds
	Pause      float64                `json:"pause,omitempty"` // of start: seconds
}

// MoveStatus says how far a move is, and what it waits for.
type MoveStatus struct {
	Tenant    string                 `json:"tenant"`
	Placement *tenantstore.Placement `json:"placement"`
	Move      *tenantstore.MoveSpec  `json:"move,omitempty"`
	Next      tenantstore.Transition `json:"next,omitempty"`
	Waits     []tenantstore.Wait     `json:"waits,omitempty"`
	Copies    []tenantstore.Copy     `json:"copies,omitempty"` // of the tenant's data, as the mover reported last
}

type moveInput struct {
	Name    string `path:"name"`
	RawBody []byte `contentType:"application/json"`
}

func (s *server) registerMoves(api huma.API) {
	start := operation("move", http.MethodPost, "/tenants/{name}/move", "Start, roll back or abort a tenant's move")
	start.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {}}}
	huma.Register(api, start, s.move)
	huma.Register(api, operation("move-status", http.MethodGet, "/tenants/{name}/move", "How far a tenant's move is"), s.moveStatus)
	huma.Register(api, operation("moves", http.MethodGet, "/moves", "How far every move is"), s.moves)
	huma.Register(api, operation("drain", http.MethodPost, "/cells/{name}/drain", "Empty a cell, one tenant at a time"), s.drain)
	huma.Register(api, operation("drain-status", http.MethodGet, "/cells/{name}/drain", "Who is still in a cell, and where each goes"), s.drainStatus)
	huma.Register(api, operation("revoke-token", http.MethodPost, "/revocations/{txn}", "Have the contexts of a transaction refused everywhere"), s.revokeToken)
	huma.Register(api, operation("fence-member", http.MethodPost, "/members/{name}/fence", "Shut a member out for good"), s.fenceMember)
}

func (s *server) move(ctx context.Context, in *moveInput) (*body, error) {
	var asked MoveInput
	if err := json.Unmarshal(in.RawBody, &asked); err != nil {
		return nil, huma.Error400BadRequest("the body must be a JSON object with transition: " + err.Error())
	}
	switch asked.Transition {
	case tenantstore.MoveStart, tenantstore.MoveRollback, tenantstore.MoveAbort:
	default:
		return nil, huma.Error400BadRequest(fmt.Sprintf("transition must be start, rollback or abort (got %q)", asked.Transition))
	}
	if _, err := s.Writer.Move(ctx, actor(ctx), tenantstore.MoveRequest{
		Tenant: in.Name, Transition: asked.Transition, To: asked.To, Hold: asked.Hold, Grace: asked.Grace, Pause: asked.Pause,
	}); err != nil {
		return nil, fail(err)
	}
	return s.moveStatus(ctx, &one{Name: in.Name})
}

func (s *server) moveStatus(ctx context.Context, in *one) (*body, error) {
	tenant, snapshot, err := s.tenantObject(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return answer(moveStatus(snapshot, tenant), snapshot.Revision, in.IfNoneMatch)
}

func moveStatus(snapshot tenantstore.Snapshot, tenant *tenantstore.Object) MoveStatus {
	status := MoveStatus{Tenant: tenant.Metadata.Name, Placement: tenant.Status.Placement}
	if o := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindMove, Name: status.Tenant}]; o != nil && o.Move.UID == tenant.Metadata.UID {
		status.Move = o.Move
	}
	status.Copies = tenantstore.Copies(snapshot.Objects, status.Tenant)
	status.Next, status.Waits = tenantstore.NextMove(snapshot.Objects, status.Tenant, time.Now())
	return status
}

func (s *server) moves(ctx context.Context, in *list) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	all := []MoveStatus{}
	for key, o := range snapshot.Objects {
		tenant := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: key.Name}]
		if key.Kind == tenantstore.KindMove && tenant != nil && o.Move.UID == tenant.Metadata.UID {
			all = append(all, moveStatus(snapshot, tenant))
		}
	}
	slices.SortFunc(all, func(a, b MoveStatus) int { return strings.Compare(a.Tenant, b.Tenant) })
	return answer(all, snapshot.Revision, in.IfNoneMatch)
}

func (s *server) drain(ctx context.Context, in *one) (*body, error) {
	if _, err := s.Writer.DrainCell(ctx, actor(ctx), in.Name); err != nil {
		return nil, fail(err)
	}
	return s.drainStatus(ctx, &one{Name: in.Name})
}

func (s *server) drainStatus(ctx context.Context, in *one) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	key := tenantstore.Key{Kind: tenantstore.KindCell, Name: in.Name}
	if snapshot.Objects[key] == nil {
		return nil, fail(fmt.Errorf("%v: %w", key, tenantstore.ErrNotFound))
	}
	return answer(tenantstore.PlanDrain(snapshot.Objects, in.Name), snapshot.Revision, in.IfNoneMatch)
}

func (s *server) fenceMember(ctx context.Context, in *one) (*body, error) {
	revision, err := s.Writer.FenceMember(ctx, actor(ctx), in.Name)
	if err != nil {
		return nil, fail(err)
	}
	return answer(Applied{Revision: revision}, revision, "")
}
