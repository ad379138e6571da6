package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// SidecarResources is the path at which a sidecar polls for what cannot be pushed to it. It gets what it would be pushed,
// and nothing else, whatever it asks for.
const SidecarResources = meshname.PathSidecarResources

type resourcesInput struct {
	IfNoneMatch string `header:"If-None-Match"`
}

func (s *server) resources(ctx context.Context, in *resourcesInput) (*body, error) {
	principal, err := identity.ParsePrincipal(actor(ctx))
	if err != nil || s.Resources == nil {
		return nil, huma.Error403Forbidden("only sidecars and gateways of the mesh are pushed anything")
	}
	resources, tag, ok := s.Resources(principal)
	if !ok {
		return nil, huma.Error503ServiceUnavailable("nothing is pushed to " + principal.String() + " by this control plane now")
	}
	tag = strconv.Quote(tag)
	if in.IfNoneMatch == tag {
		return &body{Status: http.StatusNotModified, ETag: tag}, nil
	}
	text, err := json.Marshal(resources)
	return &body{Status: http.StatusOK, ETag: tag, Body: text}, err
}
