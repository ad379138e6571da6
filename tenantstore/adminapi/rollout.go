package adminapi

import (
	"bytes"
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

// RolloutInput asks for a rollout of a changed object.
type RolloutInput struct {
	Object  json.RawMessage `json:"object"`
	Steps   []float64       `json:"steps,omitempty"`   // percent, growing to 100; default 1, 10, 50, 100
	Tenants []string        `json:"tenants,omitempty"` // that come first
	Every   float64         `json:"every,omitempty"`   // seconds; 0: by hand
	Shadow  bool            `json:"shadow,omitempty"`  // instead: of an AccessPolicy; nobody has the change, and sidecars count what it would do
	Removes bool            `json:"removes,omitempty"` // with shadow: the object would be gone
}

// RolloutStatus says how far a rollout is.
type RolloutStatus struct {
	Name    string                     `json:"name"`
	Object  string                     `json:"object"` // "Tier/gold"
	Percent float64                    `json:"percent"`
	Next    float64                    `json:"next"` // percent
	Due     *time.Time                 `json:"due,omitempty"`
	Rollout *tenantstore.RolloutSpec   `json:"rollout"`
	Figures tenantstore.RolloutFigures `json:"figures"` // of the sidecars that report to this control plane
}

type rolloutInput struct {
	DryRun  bool   `query:"dryRun"`
	RawBody []byte `contentType:"application/json"`
}

func (s *server) registerRollouts(api huma.API) {
	start := operation("rollout", http.MethodPost, "/rollouts", "Give a changed Tier or AccessPolicy to the tenants step by step")
	start.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {}}}
	huma.Register(api, start, s.rollout)
	huma.Register(api, operation("rollouts", http.MethodGet, "/rollouts", "How far every rollout is"), s.rollouts)
	huma.Register(api, operation("rollout-status", http.MethodGet, "/rollouts/{name}", "How far a rollout is"), s.rolloutStatus)
	huma.Register(api, operation("promote", http.MethodPost, "/rollouts/{name}/promote", "Take a rollout's next step"), func(ctx context.Context, in *one) (*body, error) {
		return applied(s.Writer.PromoteRollout(ctx, actor(ctx), in.Name, 0))
	})
	huma.Register(api, operation("abort", http.MethodPost, "/rollouts/{name}/abort", "Give everyone the object as it is"), func(ctx context.Context, in *one) (*body, error) {
		return applied(s.Writer.AbortRollout(ctx, actor(ctx), in.Name))
	})
}

// applied is the answer to a write.
func applied(result tenantstore.Result, err error) (*body, error) {
	if err != nil {
		return nil, fail(err)
	}
	done := Applied{Revision: result.Revision}
	for _, c := range result.Changes {
		done.Changes = append(done.Changes, AppliedChange{c.Key.String(), c.Action})
	}
	return answer(done, result.Revision, "")
}

func (s *server) rollout(ctx context.Context, in *rolloutInput) (*body, error) {
	var asked RolloutInput
	if err := json.Unmarshal(in.RawBody, &asked); err != nil {
		return nil, huma.Error400BadRequest("the body must be a JSON object with object: " + err.Error())
	}
	documents, err := tenantstore.DecodeYAML("", bytes.NewReader(asked.Object))
	if err != nil {
		return nil, fail(err)
	}
	if len(documents) != 1 {
		return nil, huma.Error400BadRequest("object must be the one that changes")
	}
	return applied(s.Writer.StartRollout(ctx, actor(ctx), tenantstore.RolloutRequest{
		Object: documents[0].Object, Steps: asked.Steps, Tenants: asked.Tenants, Every: asked.Every, Shadow: asked.Shadow, Removes: asked.Removes,
	}, in.DryRun))
}

func (s *server) rollouts(ctx context.Context, _ *list) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	all := []RolloutStatus{}
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindRollout {
			all = append(all, s.statusOf(snapshot, o))
		}
	}
	slices.SortFunc(all, func(a, b RolloutStatus) int { return strings.Compare(a.Name, b.Name) })
	return answer(all, snapshot.Revision, "")
}

func (s *server) rolloutStatus(ctx context.Context, in *one) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	key := tenantstore.Key{Kind: tenantstore.KindRollout, Name: in.Name}
	o := snapshot.Objects[key]
	if o == nil {
		return nil, fail(fmt.Errorf("%v: %w", key, tenantstore.ErrNotFound))
	}
	return answer(s.statusOf(snapshot, o), snapshot.Revision, "")
}

func (s *server) statusOf(snapshot tenantstore.Snapshot, o *tenantstore.Object) RolloutStatus {
	r := o.Rollout
	status := RolloutStatus{
		Name: o.Metadata.Name, Object: r.Candidate.Key().String(), Percent: r.Percent(), Next: r.Steps[r.Stage+1], Rollout: r,
		Figures: tenantstore.FiguresOf(snapshot.Objects, o, s.Usage.Sum, time.Now()),
	}
	if due := r.Due(); r.Every > 0 && r.State == tenantstore.Progressing {
		status.Due = &due
	}
	return status
}
