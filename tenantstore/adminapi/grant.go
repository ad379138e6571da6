package adminapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type approveInput struct {
	Name     string `path:"name"`
	Revision int64  `query:"revision" doc:"of the grant that was looked at; 0: any"`
}

func (s *server) registerGrants(api huma.API) {
	huma.Register(api, operation("approve-grant", http.MethodPost, "/accessgrants/{name}/approve", "Approve an AccessGrant that another has asked for"), s.approve)
}

// approve approves a grant in the name of the caller, whom the grant does not choose.
func (s *server) approve(ctx context.Context, in *approveInput) (*body, error) {
	grant, err := s.Writer.ApproveGrant(ctx, actor(ctx), in.Name, in.Revision)
	if err != nil {
		return nil, fail(err)
	}
	return answer(grant, grant.Metadata.Revision, "")
}
