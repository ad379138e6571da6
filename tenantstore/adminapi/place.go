package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/placement"
)

// Candidates says where a tenant is, and how every cell would do for it.
type Candidates struct {
	Tenant     string                 `json:"tenant"`
	Placement  *tenantstore.Placement `json:"placement,omitempty"`
	Candidates []placement.Candidate  `json:"candidates"` // the best first, the rejected last
}

func (s *server) tenantObject(ctx context.Context, name string) (*tenantstore.Object, tenantstore.Snapshot, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, snapshot, fail(err)
	}
	key := tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}
	tenant := snapshot.Objects[key]
	if tenant == nil {
		return nil, snapshot, fail(fmt.Errorf("%v: %w", key, tenantstore.ErrNotFound))
	}
	return tenant, snapshot, nil
}

func (s *server) candidates(ctx context.Context, in *one) (*body, error) {
	tenant, snapshot, err := s.tenantObject(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return answer(Candidates{in.Name, tenant.Status.Placement, tenantstore.Candidates(snapshot.Objects, tenant)}, snapshot.Revision, in.IfNoneMatch)
}

func (s *server) place(ctx context.Context, in *one) (*body, error) {
	if _, _, err := s.tenantObject(ctx, in.Name); err != nil {
		return nil, err
	}
	if _, err := s.Writer.Place(ctx, actor(ctx)); err != nil {
		return nil, fail(err)
	}
	return s.candidates(ctx, &one{Name: in.Name})
}

func (s *server) advice(ctx context.Context, _ *struct{}) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	now := time.Now()
	text, err := json.Marshal(tenantstore.Advise(snapshot.Objects, s.Usage.Sum("", now.Add(-tenantstore.AdviceWindow), now)))
	return &body{Status: http.StatusOK, Body: text}, err
}
