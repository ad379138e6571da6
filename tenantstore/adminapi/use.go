package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func (s *server) top(context.Context, *struct{}) (*body, error) {
	if s.Top == nil {
		return nil, huma.Error404NotFound("nobody reports here")
	}
	text, err := json.Marshal(s.Top())
	return &body{Status: http.StatusOK, Body: text}, err
}

func (s *server) shadow(ctx context.Context, _ *struct{}) (*body, error) {
	if s.Shadow == nil {
		return nil, huma.Error404NotFound("nobody reports here")
	}
	report, err := s.Shadow(ctx)
	if err != nil {
		return nil, fail(err)
	}
	text, err := json.Marshal(report)
	return &body{Status: http.StatusOK, Body: text}, err
}

func (s *server) policyUses(context.Context, *struct{}) (*body, error) {
	if s.Uses == nil {
		return nil, huma.Error404NotFound("nobody reports here")
	}
	text, err := json.Marshal(s.Uses())
	return &body{Status: http.StatusOK, Body: text}, err
}

// proven is what writes are asked of coverage; nil when they are forced, or nobody reports here.
func (s *server) proven(force bool) func(workload string) (share float64, calls int64) {
	if force || s.Coverage == nil {
		return nil
	}
	return func(workload string) (share float64, calls int64) {
		report := s.Coverage()
		return report.Proven(workload)
	}
}

func (s *server) coverage(context.Context, *struct{}) (*body, error) {
	if s.Coverage == nil {
		return nil, huma.Error404NotFound("nobody reports here")
	}
	text, err := json.Marshal(s.Coverage())
	return &body{Status: http.StatusOK, Body: text}, err
}

type sloInput struct {
	Since time.Time `query:"since"`
	Until time.Time `query:"until"`
}

func (s *server) slo(ctx context.Context, in *sloInput) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	if in.Until.IsZero() {
		in.Until = time.Now().Add(time.Minute)
	}
	text, err := json.Marshal(tenantstore.IsolationSLOs(snapshot.Objects, s.Usage.Sum("", in.Since, in.Until)))
	return &body{Status: http.StatusOK, Body: text}, err
}
